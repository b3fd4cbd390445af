//! What can be said of the table by itself.

use std::collections::BTreeSet;

use posthaste_core::{Capabilities, Promise};

use super::Mutant;
use crate::feature::Feature;
use crate::harness::Need;

#[test]
fn every_promise_has_a_mutant() {
    let seen: BTreeSet<_> = Mutant::ALL.iter().filter_map(|mutant| mutant.promise()).collect();
    let missing: Vec<_> = Promise::ALL.iter().filter(|promise| !seen.contains(promise)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn names_are_different_and_those_of_trials() {
    let names: BTreeSet<String> = Mutant::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), Mutant::ALL.len());
    assert!(!names.contains(&Mutant::Nothing.to_string()));
    assert_eq!(Mutant::SwapTwoOfAKey.to_string(), "swap_two_of_a_key");
}

#[test]
fn every_mutant_says_what_it_does() {
    for mutant in Mutant::ALL {
        let what = mutant.what();
        assert!(what.ends_with('.') && what.len() > 20, "{mutant}: {what}");
    }
}

/// Whatever a broker refuses, and whatever cannot be broken there, most promises keep a mutant.
#[test]
fn a_mutant_needs_what_it_breaks() {
    let all = Capabilities::all("all");
    let everything = [
        Need::Restart,
        Need::Kill,
        Need::Pause,
        Need::Cut,
        Need::BlackHole,
        Need::HalfOpen,
        Need::Child,
        Need::Foreign,
        Need::Native,
        Need::Bind,
        Need::Mistakes,
    ];
    let idle = |can: &Capabilities, offers: &[Need]| {
        Mutant::ALL.iter().filter(|mutant| !mutant.applies(can, offers)).count()
    };
    let mut largest = all.clone();
    largest.max_message_bytes = Some(1 << 20);
    assert_eq!(idle(&largest, &everything), 0);
    assert!(idle(&largest, &[]) > 0);

    let mut none = all;
    Feature::ALL.iter().for_each(|feature| feature.refuse(&mut none));
    assert!(idle(&none, &everything) > idle(&largest, &everything));
    assert!(!Mutant::StoreTwice.applies(&none, &everything));
    assert!(Mutant::ConfirmWithoutStoring.applies(&none, &[]));
}
