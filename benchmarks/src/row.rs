//! One line of results.

use posthaste::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::case::Case;
use crate::runtime::Flavour;

/// What was measured of one case, as a line of JSON. What does not apply is `null`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) broker: String,
    /// The broker's version.
    pub(crate) server: Option<String>,
    /// What else is set on both sides.
    pub(crate) conditions: Option<&'static str>,
    pub(crate) case: &'static str,
    pub(crate) payload_bytes: Option<usize>,
    /// Of the four columns: `messages/s`, or `us` for the median latency.
    pub(crate) unit: &'static str,
    pub(crate) pairs: usize,
    /// Short runs: good for a look, not for a figure to cite.
    pub(crate) quick: bool,
    pub(crate) posthaste: Option<f64>,
    pub(crate) raw_tuned: Option<f64>,
    pub(crate) raw_naive: Option<f64>,
    pub(crate) raw_bare: Option<f64>,
    /// Medians of the pairs' ratios. More is better: ours divided by theirs, and for latencies
    /// theirs by ours.
    pub(crate) ratio_tuned: Option<f64>,
    pub(crate) ratio_naive: Option<f64>,
    pub(crate) ratio_bare: Option<f64>,
    /// Handlers against our own low level.
    pub(crate) ratio_low_level: Option<f64>,
    /// Where the true median of `ratio_tuned` is, with 95 %.
    pub(crate) ci95: Option<[f64; 2]>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) raw_p50_us: Option<f64>,
    pub(crate) raw_p99_us: Option<f64>,
    /// Processor time of this process: ours minus the tuned raw client's, or ours where there is
    /// no raw client.
    pub(crate) cpu_us_per_message: Option<f64>,
    pub(crate) cpu_us_posthaste: Option<f64>,
    pub(crate) cpu_us_raw: Option<f64>,
    /// The median of the pairs' ratios; less is better.
    pub(crate) cpu_ratio: Option<f64>,
    /// Ours minus the tuned raw client's, or ours where there is no raw client.
    pub(crate) allocs_per_message: Option<f64>,
    pub(crate) allocs_posthaste: Option<f64>,
    pub(crate) allocs_raw: Option<f64>,
    /// Nanoseconds of processor time, where there is no raw client; for layers, what they add.
    pub(crate) ns_per_message: Option<f64>,
    pub(crate) runtime: Option<Flavour>,
    pub(crate) raw_runtime: Option<Flavour>,
    /// How many unsettled deliveries ours holds, where that was chosen.
    pub(crate) prefetch: Option<usize>,
    /// How much the tuned raw client has in flight, or asks for by one pull.
    pub(crate) raw_window: Option<usize>,
    /// What the tuned raw client was chosen from.
    pub(crate) sweep: Vec<Tried>,
    /// The rate at which latencies were measured.
    pub(crate) messages_per_s: Option<f64>,
    pub(crate) drains: Option<u32>,
    pub(crate) longest_gap_ms: Option<f64>,
    pub(crate) goals: Vec<Goal>,
    /// `false` if the comparison says nothing; `remark` says why.
    pub(crate) valid: bool,
    pub(crate) remark: Option<String>,
    /// Why the case was not run.
    pub(crate) skipped: Option<String>,
}

/// One setting that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Tried {
    pub(crate) runtime: Flavour,
    pub(crate) window: usize,
    pub(crate) messages_per_s: f64,
}

/// What a case shall reach.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    pub(crate) is_met: bool,
}

impl Row {
    /// A line without results yet.
    pub(crate) fn new(broker: &str, case: Case, unit: &'static str) -> Self {
        Self { broker: broker.to_owned(), case: case.name(), unit, valid: true, ..Self::default() }
    }

    /// Compares with what is wanted. Says nothing about what was not measured.
    pub(crate) fn wants_at_least(&mut self, what: &'static str, value: Option<f64>, wanted: f64) {
        let goal =
            |value| Goal { what, at_least: Some(wanted), at_most: None, is_met: value >= wanted };
        self.goals.extend(value.map(goal));
    }

    /// The same for what shall be small.
    pub(crate) fn wants_at_most(&mut self, what: &'static str, value: Option<f64>, wanted: f64) {
        let goal =
            |value| Goal { what, at_least: None, at_most: Some(wanted), is_met: value <= wanted };
        self.goals.extend(value.map(goal));
    }

    /// As a line of JSON.
    pub(crate) fn to_json(&self) -> Result<String> {
        let failed =
            |error| Error::new(ErrorKind::Encode, "a result is no JSON").with_source(error);
        serde_json::to_string(self).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_field_also_when_nothing_was_measured() {
        let mut row = Row::new("nats", Case::ConsumeHandlers, "messages/s");
        row.skipped = Some("why".to_owned());
        let json = row.to_json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for field in [
            "broker",
            "case",
            "payload_bytes",
            "posthaste",
            "raw_tuned",
            "raw_naive",
            "raw_bare",
            "ratio_tuned",
            "ratio_naive",
            "ratio_low_level",
            "ci95",
            "p50_us",
            "p99_us",
            "cpu_us_per_message",
            "allocs_per_message",
            "prefetch",
            "raw_window",
            "raw_runtime",
            "pairs",
            "server",
            "conditions",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(value["case"], "consume_handlers");
        assert_eq!(value["skipped"], "why");
        assert!(value["posthaste"].is_null());
        assert!(!json.contains('\n'));
    }

    #[test]
    fn goals_are_of_what_was_measured() {
        let mut row = Row::new("nats", Case::PublishAwaited, "messages/s");
        row.wants_at_least("ratio_tuned", Some(0.9), 0.95);
        row.wants_at_most("cpu_ratio", Some(1.25), 1.25);
        row.wants_at_most("allocs_per_message", None, 2.0);
        let met: Vec<_> = row.goals.iter().map(|goal| (goal.what, goal.is_met)).collect();
        assert_eq!(met, [("ratio_tuned", false), ("cpu_ratio", true)]);
    }
}
