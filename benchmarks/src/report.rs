//! What is printed: a table for people, or lines of JSON for programs.

use posthaste::Result;

use crate::row::{Goal, Row};

/// Where results go.
#[derive(Debug, Default)]
pub(crate) struct Report {
    json: bool,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json, rows: Vec::new() }
    }

    /// Says something beside the results.
    pub(crate) fn say(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// A result: printed at once, and kept for the end.
    pub(crate) fn add(&mut self, row: Row) -> Result<()> {
        if self.json {
            println!("{}", row.to_json()?);
        }
        self.say(&line(&row));
        self.rows.push(row);
        Ok(())
    }

    /// Says what was skipped, missed and invalid; whether the results can be used.
    pub(crate) fn finish(&self) -> bool {
        self.say("");
        for row in &self.rows {
            if let Some(why) = &row.skipped {
                self.say(&format!("SKIPPED {}: {why}", row.case));
            }
        }
        for row in &self.rows {
            for goal in row.goals.iter().filter(|goal| !goal.is_met) {
                self.say(&format!("MISSED {}: {}", place(row), wanted(goal)));
            }
        }
        let invalid: Vec<_> = self.rows.iter().filter(|row| !row.valid).collect();
        for row in &invalid {
            let why = row.remark.as_deref().unwrap_or("it says nothing");
            self.say(&format!("INVALID {}: {why}", place(row)));
        }
        invalid.is_empty()
    }
}

/// Which line it is.
fn place(row: &Row) -> String {
    let payload = row.payload_bytes.map(|bytes| format!(" {bytes} B"));
    let runtime = row.runtime.map(|runtime| format!(" {runtime}"));
    format!("{}{}{}", row.case, payload.unwrap_or_default(), runtime.unwrap_or_default())
}

fn wanted(goal: &Goal) -> String {
    let least = goal.at_least.map(|least| format!("at least {least}"));
    let most = goal.at_most.map(|most| format!("at most {most}"));
    format!("{} {}", goal.what, least.or(most).unwrap_or_default())
}

/// A line of the table: only what was measured.
fn line(row: &Row) -> String {
    let mut parts = vec![format!("{:<18}", row.case)];
    if row.skipped.is_some() {
        parts.push("skipped".to_owned());
        return parts.join(" ");
    }
    let mut part = |name: &str, value: Option<String>| {
        parts.extend(value.map(|value| format!("{name} {value}")));
    };
    let number = |value: Option<f64>| value.map(|value| amount(value, row.unit));
    let fixed = |value: Option<f64>| value.map(|value| format!("{value:.2}"));
    part("bytes", row.payload_bytes.map(|bytes| format!("{bytes:<5}")));
    part("ours", number(row.posthaste));
    part("raw", number(row.raw_tuned));
    part("naive", number(row.raw_naive));
    part("bare", number(row.raw_bare));
    let interval =
        row.ci95.map_or_else(String::new, |[low, high]| format!(" ({low:.3}-{high:.3})"));
    part("| ratio", row.ratio_tuned.map(|ratio| format!("{ratio:.3}{interval}")));
    part("to naive", fixed(row.ratio_naive));
    part(
        "| p99 us",
        row.p99_us.map(|own| match row.raw_p99_us {
            Some(raw) => format!("{own:.0} raw {raw:.0}"),
            None => format!("{own:.0}"),
        }),
    );
    part("| ns", row.ns_per_message.map(|nanos| format!("{nanos:.1}")));
    part("| cpu us", fixed(row.cpu_us_posthaste));
    part("x raw", fixed(row.cpu_ratio));
    part("| allocs", fixed(row.allocs_posthaste));
    part("raw", fixed(row.allocs_raw));
    part("| longest gap ms", row.longest_gap_ms.map(|gap| format!("{gap:.1}")));
    part(
        "|",
        row.runtime.map(|own| {
            let prefetch = row.prefetch.map(|count| format!(" {count}")).unwrap_or_default();
            match (row.raw_runtime, row.raw_window) {
                (Some(raw), Some(window)) => format!("{own}{prefetch}, raw {raw} {window}"),
                _ => format!("{own}{prefetch}"),
            }
        }),
    );
    part("|", row.remark.clone());
    parts.join(" ")
}

fn amount(value: f64, unit: &str) -> String {
    if unit == "us" { format!("{value:.0} us") } else { format!("{value:.0}/s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;

    #[test]
    fn a_line_shows_what_was_measured_and_nothing_else() {
        let mut row = Row::new("nats", Case::PublishAwaited, "messages/s");
        row.posthaste = Some(12_345.6);
        row.ratio_tuned = Some(0.987_6);
        row.ci95 = Some([0.9, 1.1]);
        let line = line(&row);
        assert!(line.contains("ours 12346/s"), "{line}");
        assert!(line.contains("ratio 0.988 (0.900-1.100)"), "{line}");
        assert!(!line.contains("raw"), "{line}");
    }

    #[test]
    fn an_invalid_result_makes_the_run_useless_and_a_missed_goal_does_not() {
        let mut report = Report::new(false);
        let mut row = Row::new("nats", Case::PublishPipelined, "messages/s");
        row.wants_at_least("ratio_tuned", Some(0.5), 0.9);
        report.add(row.clone()).unwrap();
        assert!(report.finish());
        row.valid = false;
        report.add(row).unwrap();
        assert!(!report.finish());
    }
}
