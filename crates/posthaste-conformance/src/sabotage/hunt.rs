//! Looking for the case that notices a mutant.

use std::fmt;
use std::sync::Arc;

use posthaste_core::Capabilities;
use tokio::task::JoinSet;

use super::harness::harness;
use super::mutant::Mutant;
use crate::case::{Case, Kind};
use crate::cases;
use crate::harness::Harness;
use crate::runner::{Report, play};
use crate::scene::Pace;

/// How many cases run at once beside each other, since most of a case is waiting.
const AT_ONCE: usize = 6;

/// The case that noticed a mutant.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Catch {
    /// The case.
    pub case: String,
    /// What it said.
    pub why: String,
}

/// Runs the cases of the mutant's promise, those without faults first, on the sabotaged harness,
/// until one fails that passes without the mutant.
///
/// # Errors
/// The mutant survived: the text names it, and the cases that did not notice.
///
/// # Cancel safety
/// When dropped, topics of the case that runs are left.
pub async fn hunt(
    mutant: Mutant,
    on: &Arc<dyn Harness>,
    can: &Capabilities,
    seed: u64,
) -> Result<Catch, String> {
    let sabotaged = harness(Arc::clone(on), mutant);
    let healthy = harness(Arc::clone(on), Mutant::Nothing);
    let (mut passed, mut broken) = (Vec::new(), Vec::new());
    for case in suspects(mutant, &**on, can) {
        let Err(report) = play(&case, &sabotaged, Pace::HASTY, seed).await else {
            passed.push(case.path());
            continue;
        };
        // A case that fails anyway, for whatever reason, has noticed nothing. Another seed, since
        // the topics of the failed run are still there.
        match play(&case, &healthy, Pace::HASTY, seed.rotate_left(16)).await {
            Ok(()) => return Ok(Catch { case: case.path(), why: report.why }),
            Err(healthy) => broken.push(format!("{} ({})", case.path(), healthy.why)),
        }
    }
    let what = if broken.is_empty() {
        "survived"
    } else {
        "could not be told from cases that fail anyway"
    };
    Err(format!(
        "the mutant {mutant} {what} on {}: {}\n  cases that did not notice: {}\n  cases that \
         fail without it, too: {}",
        on.name(),
        mutant.what(),
        passed.join(", "),
        broken.join(", "),
    ))
}

/// Runs every claim on the harness with a decorator that does nothing wrong. Returns how many.
///
/// # Errors
/// The reports of cases that fail with the decorator alone: what they notice of a mutant would
/// prove nothing.
///
/// # Cancel safety
/// When dropped, topics of the cases that run are left.
pub async fn harmless(
    on: &Arc<dyn Harness>,
    can: &Capabilities,
    seed: u64,
) -> Result<usize, Vec<Report>> {
    let decorated = harness(Arc::clone(on), Mutant::Nothing);
    let claims = cases::all().into_iter().filter(|case| case.kind() == Kind::Claim);
    let mut waiting: Vec<Case> =
        claims.filter(|case| case.applies(can) && is_offered(case, &**on)).collect();
    let count = waiting.len();
    let mut running = JoinSet::new();
    let mut reports = Vec::new();
    while !(waiting.is_empty() && running.is_empty()) {
        while let Some(case) = waiting.pop_if(|_| running.len() < AT_ONCE) {
            let decorated = Arc::clone(&decorated);
            running.spawn(async move { play(&case, &decorated, Pace::HASTY, seed).await });
        }
        // A panic is a report of the case, so that joining only fails with the runtime.
        if let Some(Ok(Err(report))) = running.join_next().await {
            reports.push(report);
        }
    }
    if reports.is_empty() { Ok(count) } else { Err(reports) }
}

fn is_offered(case: &Case, on: &dyn Harness) -> bool {
    case.needed().iter().all(|need| on.offers().contains(need))
}

fn suspects(mutant: Mutant, on: &dyn Harness, can: &Capabilities) -> Vec<Case> {
    let mut suspects: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| Some(case.promise()) == mutant.promise())
        .filter(|case| case.applies(can) && is_offered(case, on))
        .collect();
    suspects.sort_by_key(|case| case.kind() == Kind::Fault);
    suspects
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.why)
    }
}
