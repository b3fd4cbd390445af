//! `cargo xtask faults <broker>`: a long fault run on one broker, with a report and an exit code.
//!
//! 0: it passed; 1: something is wrong; 2: it could not be run, or was not asked for properly;
//! 3: it was interrupted, and nothing was wrong so far.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

use std::process::ExitCode;
use std::time::Duration;

use integration_tests::{brokers, roles};
use lexopt::{Arg, Parser, ValueExt};
use posthaste_conformance::fault;
use posthaste_conformance::fault_run::{self, FaultKind, Plan, Report, Verdict};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
usage: faults BROKER [options]

  --minutes M     break things for at least so long (5; fractions are taken)
  --kills K       kill the broker at least so often (40); without kills: faults of any kind
  --messages N    at least so many confirmed messages (1000000)
  --rate R        at most so many messages a second (8000)
  --only a,b      only these faults: kill, restart, pause, cut, black-hole, half-open
  --longest S     the longest pause or fault of the network, in seconds (8)
  --stall S       how long a group may stand still while nothing is broken, in seconds (15); more
                  where a broker keeps the lanes of who died for longer, or restarts slowly
  --gap A,B       seconds without a fault in between (2,6); members change about as often
  --partitions N  of the ordered topic (8)
  --seed S        the seed of an earlier run, which it printed
  --json          the report as one line of JSON, last";

fn main() -> ExitCode {
    if let Some(role) = fault::role() {
        return roles::play(&role);
    }
    let asked = match read(Parser::from_env()) {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("faults: {wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&asked) {
        Ok(report) => {
            println!("{report}");
            println!("  repeat it with      --seed {}", report.seed);
            if asked.json {
                println!("{}", as_json(&report));
            }
            match report.verdict() {
                Verdict::Passed => ExitCode::SUCCESS,
                Verdict::Interrupted => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
        Err(why) => {
            eprintln!("faults: {why}");
            ExitCode::from(2)
        }
    }
}

#[derive(Debug)]
struct Asked {
    broker: String,
    plan: Plan,
    json: bool,
}

/// Reads the command line. Nothing if only help was asked for.
fn read(mut parser: Parser) -> Result<Option<Asked>, lexopt::Error> {
    let (mut broker, mut json) = (None, false);
    let mut plan = Plan::full(0);
    let mut seed = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(name) if broker.is_none() => broker = Some(name.string()?),
            Arg::Long("minutes") => {
                let minutes: f64 = parser.value()?.parse()?;
                let time = Duration::try_from_secs_f64(minutes * 60.0);
                plan = plan.at_least(time.map_err(|_| "--minutes is a positive number")?);
            }
            Arg::Long("kills") => plan = plan.kills(parser.value()?.parse()?),
            Arg::Long("messages") => plan = plan.messages(parser.value()?.parse()?),
            Arg::Long("rate") => match parser.value()?.parse()? {
                0 => return Err("--rate is at least 1".into()),
                rate => plan = plan.rate(rate),
            },
            Arg::Long("only") => {
                let names = parser.value()?.string()?;
                let kinds: Result<Vec<FaultKind>, _> =
                    names.split(',').map(|name| name.trim().parse()).collect();
                plan = plan.only(kinds.map_err(|wrong| format!("--only: {wrong}"))?);
            }
            Arg::Long("longest") => {
                let longest = seconds(&parser.value()?.string()?).ok_or("--longest is a number")?;
                plan = plan.longest_outage(longest);
            }
            Arg::Long("stall") => {
                plan =
                    plan.stall(seconds(&parser.value()?.string()?).ok_or("--stall is a number")?);
            }
            Arg::Long("gap") => {
                let gap = parser.value()?.string()?;
                let gap = gap.split_once(',').and_then(|(a, b)| seconds(a).zip(seconds(b)));
                let (shortest, longest) =
                    gap.filter(|(a, b)| a <= b).ok_or("--gap is two numbers, as 2,6")?;
                plan = plan.gap(shortest, longest);
            }
            Arg::Long("partitions") => match parser.value()?.parse()? {
                partitions @ 1..=1024 => plan = plan.partitions(partitions),
                _ => return Err("--partitions is a number from 1 to 1024".into()),
            },
            Arg::Long("seed") => seed = Some(parser.value()?.parse()?),
            Arg::Long("json") => json = true,
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    let broker = broker.ok_or("no broker was named")?;
    Ok(Some(Asked {
        broker,
        plan: plan.with_seed(seed.unwrap_or_else(|| fastrand::u64(..))),
        json,
    }))
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.trim().parse().ok()?).ok()
}

fn run(asked: &Asked) -> Result<Report, String> {
    let found = brokers::one(&asked.broker)?;
    let (_, cannot) = asked.plan.offered(found.harness.offers());
    for kind in cannot {
        println!("not offered by the harness of {}: {kind}", found.harness.name());
    }
    println!("fault run on {}, --seed {}", found.harness.name(), asked.plan.seed());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let ran = runtime.block_on(async {
        let mut signals = Vec::new();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            signals.push(signal(kind).map_err(|error| format!("no signals: {error}"))?);
        }
        let interrupt = async {
            let [first, second, third] = &mut signals[..] else { return };
            tokio::select! {
                _ = first.recv() => {}
                _ = second.recv() => {}
                _ = third.recv() => {}
            }
        };
        let tell = |line: &str| println!("{line}");
        fault_run::run(&found.harness, &asked.plan, tell, interrupt)
            .await
            .map_err(|error| format!("{error:?}"))
    });
    // What hangs has been reported.
    runtime.shutdown_timeout(Duration::from_secs(5));
    ran
}

fn as_json(report: &Report) -> Value {
    let faults = report.faults.iter().map(|(kind, fault)| {
        let values = json!({
            "count": fault.count,
            "longest_recovery_s": fault.longest_recovery.as_secs_f64(),
            "longest_stall_s": fault.longest_stall.as_secs_f64(),
            "who_stalled": fault.who_stalled,
        });
        (kind.as_str().to_owned(), values)
    });
    let groups = report.groups.iter().map(|group| {
        json!({
            "name": group.name,
            "handled": group.handled,
            "pending": group.pending,
            "redelivered": group.redelivered,
            "after_settlement": group.again,
            "dead_lettered": group.dead_lettered,
        })
    });
    let findings = report.findings.iter();
    let findings = findings.map(
        |(wrong, count, words)| json!({ "wrong": wrong.as_str(), "count": count, "first": words }),
    );
    json!({
        "broker": report.harness,
        "seed": report.seed,
        "verdict": report.verdict().as_str(),
        "seconds": report.elapsed.as_secs_f64(),
        "faults": faults.collect::<serde_json::Map<String, Value>>(),
        "not_offered": report.not_offered.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
        "attempted": report.attempted,
        "confirmed": report.confirmed,
        "confirmed_duplicates": report.duplicates,
        "not_stored": report.not_stored,
        "unknown": report.unknown,
        "doubts": report.doubts,
        "stored": report.stored,
        "second_copies": report.copies,
        "groups": groups.collect::<Vec<_>>(),
        "members": report.members,
        "members_dropped": report.dropped,
        "processes_killed": report.processes,
        "longest_stall_s": report.longest_stall().as_secs_f64(),
        "longest_wait_of_a_key_s": report.longest_wait_of_a_key.map(|wait| wait.as_secs_f64()),
        "median_messages_per_s": report.median_rate,
        "memory_bytes": report.memory.map(|(first, last, most)| [first, last, most]),
        "books_bytes": report.books,
        "findings": findings.collect::<Vec<_>>(),
    })
}
