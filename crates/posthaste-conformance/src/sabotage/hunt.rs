//! Looking for the case that notices a mutant.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::{Broker, Capabilities, Result, TopicName};
use tokio::task::JoinSet;

use super::Sabotage;
use super::mutant::Mutant;
use super::plot::Plot;
use crate::case::{Case, Kind};
use crate::cases;
use crate::harness::{Foreign, Harness, Instance, Link, Mistake, Need};
use crate::runner::{Report, play};
use crate::scene::Pace;

/// How many cases run at once beside each other, since most of a case is waiting.
const AT_ONCE: usize = 6;

/// A password that no harness has, for brokers without one.
const SECRET: &str = "hunter2-\u{fc}-correct-horse";

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
    let (mut passed, mut broken) = (Vec::new(), Vec::new());
    for case in suspects(mutant, &**on, can) {
        let Err(report) = play(&case, &sabotaged, Pace::HASTY, seed).await else {
            passed.push(case.path());
            continue;
        };
        // A case that fails anyway has noticed nothing. Another seed, since the topics of the
        // failed run are still there.
        match play(&case, on, Pace::HASTY, seed.rotate_left(16)).await {
            Ok(()) => return Ok(Catch { case: case.path(), why: report.why }),
            Err(_) => broken.push(case.path()),
        }
    }
    Err(format!(
        "the mutant {mutant} survived on {}: {}\n  cases that did not notice: {}\n  cases that \
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

/// The harness whose connections all have the defect.
#[must_use]
pub fn harness(inner: Arc<dyn Harness>, mutant: Mutant) -> Arc<dyn Harness> {
    let name = format!("{} with {mutant}", inner.name());
    let secret = inner.secrets().pop().unwrap_or_else(|| SECRET.to_owned());
    let shared = Arc::clone(&inner) as Arc<dyn Instance>;
    let instance = SabotagedInstance { inner: shared, mutant, plot: Arc::default(), secret };
    Arc::new(SabotagedHarness { inner, instance, name })
}

#[derive(Debug)]
struct SabotagedHarness {
    inner: Arc<dyn Harness>,
    instance: SabotagedInstance,
    name: String,
}

#[derive(Debug)]
struct SabotagedInstance {
    inner: Arc<dyn Instance>,
    mutant: Mutant,
    plot: Arc<Plot>,
    secret: String,
}

impl SabotagedInstance {
    fn sabotage(&self, broker: Arc<dyn Broker>) -> Arc<dyn Broker> {
        let plot = Arc::clone(&self.plot);
        Arc::new(Sabotage::with_plot(broker, self.mutant, plot, &self.secret))
    }
}

#[async_trait]
impl Harness for SabotagedHarness {
    fn name(&self) -> &str {
        &self.name
    }

    fn expected_version(&self) -> Option<&str> {
        self.inner.expected_version()
    }

    fn offers(&self) -> &[Need] {
        self.inner.offers()
    }

    async fn private(&self) -> Result<Arc<dyn Instance>> {
        Ok(Arc::new(SabotagedInstance {
            inner: self.inner.private().await?,
            mutant: self.instance.mutant,
            plot: Arc::default(),
            secret: self.instance.secret.clone(),
        }))
    }
}

/// The same calls, with the defect in each connection.
#[async_trait]
impl Instance for SabotagedInstance {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        Ok(self.sabotage(self.inner.connect().await?))
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        let (broker, link) = self.inner.connect_through().await?;
        Ok((self.sabotage(broker), link))
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        self.inner.make_foreign(topic, message).await
    }

    async fn stop(&self) -> Result<()> {
        self.inner.stop().await
    }

    async fn kill(&self) -> Result<()> {
        self.inner.kill().await
    }

    async fn start(&self) -> Result<()> {
        self.inner.start().await
    }

    async fn pause(&self) -> Result<()> {
        self.inner.pause().await
    }

    async fn resume(&self) -> Result<()> {
        self.inner.resume().await
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        self.inner.child_env()
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        let (broker, native) = self.inner.bind(topic).await?;
        Ok((self.sabotage(broker), native))
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.inner.mistakes()
    }

    fn secrets(&self) -> Vec<String> {
        let mut secrets = self.inner.secrets();
        secrets.push(self.secret.clone());
        secrets
    }
}

/// The shared instance of a harness.
#[async_trait]
impl Instance for SabotagedHarness {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        self.instance.connect().await
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        self.instance.connect_through().await
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        self.instance.make_foreign(topic, message).await
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        self.instance.child_env()
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        self.instance.bind(topic).await
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.instance.mistakes()
    }

    fn secrets(&self) -> Vec<String> {
        self.instance.secrets()
    }
}

impl fmt::Display for Catch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.why)
    }
}
