//! From brokers and cases to trials.

use std::sync::Arc;

use integration_tests::brokers::{Found, Missing, variable};
use libtest_mimic::{Failed, Trial};
use posthaste_conformance::sabotage::{self, Mutant};
use posthaste_conformance::{Case, Feature, Harness, Kind, Pace, Refusing, cases, play};

use crate::fault_runs;
use crate::ran::Ran;

/// Everything that can be run.
pub(crate) fn all(found: &[Found], missing: &[Missing], ran: &Ran) -> Vec<Trial> {
    let mut trials: Vec<Trial> = missing.iter().map(absent).collect();
    for broker in found {
        trials.extend(conformance(broker, ran));
        trials.extend(mutants(broker));
        trials.push(harmless(broker));
    }
    let memory = found.iter().find(|broker| broker.harness.name() == "memory");
    trials.extend(memory.into_iter().flat_map(refusals));
    trials.extend(memory.into_iter().flat_map(|memory| fault_runs::all(&memory.harness)));
    trials
}

/// A broker that is not there: a failure if it had to be, else ignored by name.
fn absent(missing: &Missing) -> Trial {
    let why = missing.why.clone();
    let name = format!("{}::is_there", missing.id);
    let trial = Trial::test(name, move || Err(Failed::from(format!("it is required: {why}"))));
    trial.with_ignored_flag(!missing.required)
}

fn conformance(broker: &Found, ran: &Ran) -> Vec<Trial> {
    let applies = |case: &Case| case.applies(&broker.can);
    let all = cases::all().into_iter().filter(applies);
    all.map(|case| {
        let (harness, ran) = (Arc::clone(&broker.harness), ran.clone());
        let name = format!("{}::{}", harness.name(), case.path());
        let can_run = case.needed().iter().all(|need| harness.offers().contains(need));
        let trial = Trial::test(name, move || {
            ran.note(harness.name());
            block_on(async { play(&case, &harness, Pace::STEADY, seed()).await })?
                .map_err(|report| Failed::from(report.to_string()))
        });
        // What the harness cannot break here stays in the list.
        trial.with_ignored_flag(!can_run)
    })
    .collect()
}

/// The decorator that carries the mutants does nothing by itself.
fn harmless(broker: &Found) -> Trial {
    let name = format!("{}::sabotage::{}", broker.harness.name(), Mutant::Nothing);
    let (hunts, broker) = (is_hunted(broker), broker.clone());
    let trial = Trial::test(name, move || {
        let played = block_on(sabotage::harmless(&broker.harness, &broker.can, seed()))?;
        played.map(drop).map_err(|reports| {
            let reports: Vec<String> = reports.iter().map(ToString::to_string).collect();
            Failed::from(reports.join("\n"))
        })
    });
    trial.with_ignored_flag(!hunts)
}

/// Each mutant is noticed by a case of its promise.
fn mutants(broker: &Found) -> Vec<Trial> {
    let applies = |mutant: &&Mutant| mutant.applies(&broker.can, broker.harness.offers());
    let hunts = is_hunted(broker);
    Mutant::ALL
        .iter()
        .filter(applies)
        .map(|mutant| {
            let (broker, mutant) = (broker.clone(), *mutant);
            let name = format!("{}::sabotage::{mutant}", broker.harness.name());
            let trial = Trial::test(name, move || {
                let hunted = sabotage::hunt(mutant, &broker.harness, &broker.can, seed());
                match block_on(hunted)? {
                    Ok(caught) => {
                        // Enough to see that it was caught for what it does.
                        let why: String =
                            caught.why.lines().next().unwrap_or("").chars().take(160).collect();
                        println!("{mutant}: caught by {}: {why}", caught.case);
                        Ok(())
                    }
                    Err(survived) => Err(Failed::from(survived)),
                }
            });
            trial.with_ignored_flag(!hunts)
        })
        .collect()
}

/// Where mutants are hunted unless it is asked for by `--ignored`: on the in-process broker, and on the
/// server that is quickest to ask. A mutant is a fault of an adapter; which server is behind it makes
/// little difference, and a hunt takes as long as all the cases.
const HUNTED: [&str; 2] = ["memory", "nats@2.15"];

fn is_hunted(broker: &Found) -> bool {
    HUNTED.iter().any(|hunted| broker.harness.name().starts_with(hunted))
}

/// Every denial case, on the in-process broker without that feature.
fn refusals(memory: &Found) -> Vec<Trial> {
    let denials = cases::all().into_iter().filter_map(|case| match case.kind() {
        Kind::Denial(feature) => Some((case, feature)),
        _ => None,
    });
    denials
        .map(|(case, feature): (Case, Feature)| {
            let harness: Arc<dyn Harness> = Refusing::harness(Arc::clone(&memory.harness), feature);
            let name = format!("memory::refused::{}", case.path());
            Trial::test(name, move || {
                block_on(async { play(&case, &harness, Pace::STEADY, seed()).await })?
                    .map_err(|report| Failed::from(report.to_string()))
            })
        })
        .collect()
}

/// Runs one trial on a runtime of its own, so that trials share no worker.
pub(crate) fn block_on<T>(trial: impl Future<Output = T>) -> Result<T, Failed> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(trial);
    // Tasks of a case that failed may hang: they are nobody's to wait for.
    runtime.shutdown_background();
    Ok(outcome)
}

/// What all chance of a trial comes from.
pub(crate) fn seed() -> u64 {
    let given = variable("POSTHASTE_SEED").and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}
