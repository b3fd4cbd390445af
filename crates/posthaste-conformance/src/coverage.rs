//! Whether the suite covers what it has to: every promise, every refusal, and its own description.

use std::collections::BTreeMap;

use posthaste_core::Promise;

use crate::case::{Case, Kind};
use crate::feature::Feature;

/// What is missing, as sentences; nothing if the cases cover every promise and every refusal.
///
/// A promise is covered by a claim with a further case that is an edge or a fault, or by a denial
/// beside at least one other case. Every feature that may be refused has a denial.
#[must_use]
pub fn gaps(cases: &[Case]) -> Vec<String> {
    let mut gaps = Vec::new();
    for promise in Promise::ALL {
        let of = |kinds: fn(Kind) -> bool| {
            cases.iter().filter(|case| case.promise() == *promise && kinds(case.kind())).count()
        };
        let claims = of(|kind| kind == Kind::Claim);
        let others = of(|kind| matches!(kind, Kind::Edge | Kind::Fault));
        let denials = of(|kind| matches!(kind, Kind::Denial(_)));
        if claims == 0 {
            gaps.push(format!("{promise} has no claim"));
        }
        if claims + others < 2 && denials == 0 {
            gaps.push(format!("{promise} has one case and no denial"));
        }
        if others == 0 && denials == 0 {
            gaps.push(format!("{promise} has neither an edge, nor a fault, nor a denial"));
        }
    }
    for feature in Feature::ALL {
        if !cases.iter().any(|case| case.kind() == Kind::Denial(*feature)) {
            gaps.push(format!("{} may be refused and has no denial", feature.as_str()));
        }
    }
    let mut names = BTreeMap::new();
    for case in cases {
        *names.entry(case.path()).or_insert(0) += 1;
    }
    gaps.extend(names.into_iter().filter(|(_, n)| *n > 1).map(|(name, _)| format!("two {name}")));
    gaps
}

/// The cases by promise, as the page about the promises lists them.
#[must_use]
pub fn listing(cases: &[Case]) -> String {
    let mut text = String::new();
    for promise in Promise::ALL {
        let of = cases.iter().filter(|case| case.promise() == *promise);
        let names: Vec<String> =
            of.map(|case| format!("`{}`{}", case.name(), mark(case.kind()))).collect();
        text.push_str(&format!("- **{promise}** {}\n", names.join(", ")));
    }
    text
}

const fn mark(kind: Kind) -> &'static str {
    match kind {
        Kind::Claim => "",
        Kind::Edge => " (edge)",
        Kind::Fault => " (fault)",
        Kind::Denial(_) => " (denial)",
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Capabilities, Sharing};

    use super::*;
    use crate::cases;

    #[test]
    fn every_promise_and_every_refusal_is_covered() {
        let gaps = gaps(&cases::all());
        assert!(gaps.is_empty(), "{gaps:#?}");
    }

    /// No promise goes without cases where the members of a group share lanes, or where a topic
    /// keeps no number of messages.
    #[test]
    fn every_promise_is_covered_also_on_a_log() {
        let mut can = Capabilities::all("log");
        can.sharing = Sharing::Lanes;
        Feature::RetentionByCount.refuse(&mut can);
        let mut cases = cases::all();
        // Denials are asked of every broker that refuses, so that they are counted with the rest.
        cases.retain(|case| case.applies(&can) || matches!(case.kind(), Kind::Denial(_)));
        let gaps = gaps(&cases);
        assert!(gaps.is_empty(), "{gaps:#?}");
        let of = |promise| {
            let real = |case: &&Case| !matches!(case.kind(), Kind::Denial(_));
            cases.iter().filter(real).filter(|case| case.promise() == promise).count()
        };
        let few: Vec<_> = Promise::ALL.iter().filter(|promise| of(**promise) < 2).collect();
        assert!(few.is_empty(), "{few:?} have fewer than two cases beside denials");
    }

    #[test]
    fn a_gap_is_found() {
        let mut cases = cases::all();
        cases.retain(|case| case.promise() != Promise::P9);
        cases.retain(|case| case.kind() != Kind::Denial(Feature::Lag));
        let gaps = gaps(&cases);
        assert!(gaps.contains(&"P9 has no claim".to_owned()), "{gaps:?}");
        assert!(gaps.contains(&"lag may be refused and has no denial".to_owned()), "{gaps:?}");
    }

    /// A new field of the capabilities that an adapter may refuse is a new feature here.
    #[test]
    fn every_refusable_capability_is_a_feature() {
        let all = format!("{:?}", Capabilities::all("test"));
        let refusable = all.matches("Kept").count();
        assert_eq!(refusable + 1, Feature::ALL.len(), "the one more is durability: {all}");
    }

    #[test]
    fn a_denial_applies_exactly_where_its_feature_is_refused() {
        let all = Capabilities::all("test");
        for case in cases::all() {
            let Kind::Denial(feature) = case.kind() else { continue };
            assert!(!case.applies(&all), "{}", case.path());
            let mut without = all.clone();
            feature.refuse(&mut without);
            assert!(feature.is_refused(&without) && case.applies(&without), "{}", case.path());
        }
    }

    /// The page says which cases prove a promise; it is checked, so that it cannot go stale.
    #[test]
    fn the_page_about_the_promises_lists_the_cases() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/promises.md");
        let Ok(page) = std::fs::read_to_string(page) else { return };
        let listing = listing(&cases::all());
        let missing: Vec<&str> = listing.lines().filter(|line| !page.contains(line)).collect();
        assert!(
            missing.is_empty(),
            "put these lines into docs/promises.md:\n{}",
            missing.join("\n")
        );
        let is_list = |line: &&str| {
            let rest = line.strip_prefix("- **P");
            rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        };
        let listed = page.lines().filter(is_list).count();
        assert_eq!(listed, Promise::ALL.len(), "lists of cases in docs/promises.md");
    }

    #[test]
    fn names_of_topics_are_portable() {
        for case in cases::all() {
            // The longest tag that a case uses, and the seed.
            let name = format!("it-{}-subscribed-00000000", case.name().replace('_', "-"));
            assert!(posthaste_core::TopicName::new(&name).is_ok(), "{name}: {} bytes", name.len());
        }
    }
}
