//! Short fault runs over the in-process broker: one that has to pass, and one for each of some
//! defects, which has to notice it. The long ones are `cargo xtask faults`.

use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use posthaste_conformance::Harness;
use posthaste_conformance::fault_run::{FaultKind, Plan, Report, Verdict, Wrong, run};
use posthaste_conformance::sabotage::{self, Mutant};

use crate::trials::{block_on, seed};

/// A defect, and what has to be found because of it.
const NOTICED: &[(Mutant, Wrong)] = &[
    (Mutant::ConfirmWithoutStoring, Wrong::Lost),
    (Mutant::FailuresAsSuccess, Wrong::Lost),
    (Mutant::LoseWhatWasInFlight, Wrong::Lost),
    (Mutant::AcknowledgeEverythingBefore, Wrong::Lost),
    (Mutant::DenyWhatIsStored, Wrong::StoredTwice),
    (Mutant::SendTwice, Wrong::StoredTwice),
    (Mutant::StoreTwice, Wrong::StoredTwice),
    (Mutant::ForgetAcknowledgements, Wrong::Repeated),
    (Mutant::SwapTwoOfAKey, Wrong::Overtaken),
    (Mutant::TwoHoldersOfAKey, Wrong::Overtaken),
    (Mutant::ForgetTheFlag, Wrong::AttemptsWentBack),
    (Mutant::DropTheLetter, Wrong::LetterMissing),
    (Mutant::StayAway, Wrong::Stalled),
    (Mutant::HangInPublish, Wrong::Stalled),
    (Mutant::TruncateThePayload, Wrong::Foreign),
    (Mutant::GiveUpAtOnce, Wrong::GaveUp),
];

/// The trials, on a harness of which each run takes a private instance.
pub(crate) fn all(memory: &Arc<dyn Harness>) -> Vec<Trial> {
    let healthy = Arc::clone(memory);
    let mut trials = vec![Trial::test("memory::fault_run::passes", move || passes(&healthy))];
    for (mutant, wrong) in NOTICED {
        let harness = sabotage::harness(Arc::clone(memory), *mutant);
        let name = format!("memory::fault_run::notices::{mutant}");
        let plan = plan(*mutant);
        trials.push(Trial::test(name, move || notices(&harness, &plan, *wrong)));
    }
    trials
}

fn play(harness: &Arc<dyn Harness>, plan: &Plan) -> Result<Report, Failed> {
    let never = std::future::pending();
    let played = block_on(run(harness, plan, |_| (), never))?;
    played.map_err(|error| Failed::from(format!("{error:?}")))
}

fn passes(harness: &Arc<dyn Harness>) -> Result<(), Failed> {
    let report = play(harness, &Plan::short(seed()))?;
    if report.verdict() != Verdict::Passed {
        return Err(Failed::from(report.to_string()));
    }
    // It did what it was asked for, and not nothing.
    let kills = report.count(FaultKind::Kill);
    let handled = report.groups.iter().all(|group| group.handled > 0 && group.redelivered > 0);
    if kills < 2 || report.confirmed < 5_000 || !handled {
        return Err(Failed::from(format!("it did too little\n{report}")));
    }
    Ok(())
}

/// Few faults, with time between them: near one a repetition is no wonder.
fn plan(mutant: Mutant) -> Plan {
    let seconds = Duration::from_secs;
    let plan = Plan::short(seed()).kills(1).gap(seconds(2), seconds(3)).stall(seconds(3));
    match mutant {
        // Deploys, which take as long as gaps, would bring new members soon.
        Mutant::StayAway => plan.gap(seconds(6), seconds(7)).stall(seconds(2)),
        _ => plan,
    }
}

fn notices(harness: &Arc<dyn Harness>, plan: &Plan, wrong: Wrong) -> Result<(), Failed> {
    let report = play(harness, plan)?;
    if report.verdict() == Verdict::Failed && report.findings.count(wrong) > 0 {
        return Ok(());
    }
    Err(Failed::from(format!("it was not found to be {wrong}\n{report}")))
}
