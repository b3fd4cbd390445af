//! The command line.

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt};

use crate::case::Case;
use crate::raw;

/// The help text.
pub(crate) const USAGE: &str = "\
usage: cargo run --release -p benchmarks -- --broker NAME [options]

  --broker NAME   kafka, nats, rabbitmq: Posthaste against the raw client, on a server
                  null: the cost of the core alone; memory: the in-process broker
  --url URL       the server; else POSTHASTE_<NAME>_URL, else what `cargo xtask brokers up` started
  --case CASE     only this case; may be given several times
  --payload N     only this payload, in bytes; may be given several times
                  (default: 100, 1024 and 16384)
  --pairs N       how often each comparison is made (default: 9, with --quick 6)
  --quick         1024 bytes only, and short runs: ends within a minute, and shows less; Kafka
                  takes a few, most of it to make and delete topics
  --drains N      how often --case drain reads its topic (default: 50)
  --json          one JSON object a line on standard output; all else goes to standard error";

/// Payloads of a full run, in bytes.
const PAYLOADS: [usize; 3] = [100, 1_024, 16_384];
/// The one of a quick run.
const QUICK_PAYLOAD: usize = 1_024;

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A broker with a client, by its name.
    Network(&'static str),
    Null,
    Memory,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) target: Target,
    pub(crate) url: Option<String>,
    pub(crate) cases: Vec<Case>,
    pub(crate) payloads: Vec<usize>,
    pub(crate) pairs: usize,
    pub(crate) drains: u32,
    pub(crate) quick: bool,
    pub(crate) json: bool,
}

/// Reads the command line (without the program's name); `None` asks for help. The error is a
/// sentence for the user.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Options>, lexopt::Error> {
    let mut parser = Parser::from_args(arguments);
    let (mut broker, mut url, mut pairs, mut drains) = (None, None, None, None);
    let (mut cases, mut payloads, mut quick, mut json) = (Vec::new(), Vec::new(), false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("broker") => broker = Some(parser.value()?.string()?),
            Arg::Long("url") => url = Some(parser.value()?.string()?),
            Arg::Long("case") => cases.push(parser.value()?.string()?),
            Arg::Long("payload") => payloads.push(parser.value()?.parse()?),
            Arg::Long("pairs") => pairs = Some(parser.value()?.parse::<usize>()?),
            Arg::Long("drains") => drains = Some(parser.value()?.parse::<u32>()?),
            Arg::Long("quick") => quick = true,
            Arg::Long("json") => json = true,
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    let Some(broker) = broker else {
        return Err(format!("say which: --broker {}", brokers().join(" or --broker ")).into());
    };
    let target = target(&broker)?;
    if url.is_some() && !matches!(target, Target::Network(_)) {
        return Err(format!("--broker {broker} runs in this process and has no --url").into());
    }
    if pairs == Some(0) || drains == Some(0) {
        return Err("--pairs and --drains need at least 1".into());
    }
    if payloads.is_empty() {
        payloads = if quick { vec![QUICK_PAYLOAD] } else { PAYLOADS.to_vec() };
    }
    Ok(Some(Options {
        cases: chosen(target, &broker, &cases)?,
        target,
        url,
        payloads,
        pairs: pairs.unwrap_or(if quick { 6 } else { 9 }),
        drains: drains.unwrap_or(50),
        quick,
        json,
    }))
}

fn brokers() -> Vec<&'static str> {
    raw::ALL.iter().map(|raw| raw.broker()).chain(["null", "memory"]).collect()
}

fn target(broker: &str) -> Result<Target, lexopt::Error> {
    match broker {
        "null" => Ok(Target::Null),
        "memory" => Ok(Target::Memory),
        _ => raw::named(broker).map(|raw| Target::Network(raw.broker())).ok_or_else(|| {
            format!("there is no broker `{broker}` here; there are {}", brokers().join(", ")).into()
        }),
    }
}

/// The cases by name; all that the broker has when none is named.
fn chosen(target: Target, broker: &str, names: &[String]) -> Result<Vec<Case>, lexopt::Error> {
    let (all, by_name): (_, &[Case]) = match target {
        Target::Network(_) => (Case::NETWORK, &[Case::Drain]),
        Target::Null => (Case::NULL, &[]),
        Target::Memory => (Case::MEMORY, &[]),
    };
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: &String| {
        let known = || all.iter().chain(by_name);
        known().copied().find(|case| case.name() == name).ok_or_else(|| {
            let known: Vec<_> = known().map(|case| case.name()).collect();
            let known = known.join(", ");
            format!("--broker {broker} has no case `{name}`; there are {known}").into()
        })
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Options>, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|wrong| wrong.to_string())
    }

    fn options(line: &str) -> Options {
        read(line).unwrap().unwrap()
    }

    #[test]
    fn a_broker_alone_means_everything() {
        let all = options("--broker nats");
        assert_eq!((all.target, all.pairs, all.quick), (Target::Network("nats"), 9, false));
        assert_eq!((all.cases.as_slice(), all.payloads.as_slice()), (Case::NETWORK, &PAYLOADS[..]));
        assert_eq!(options("--broker memory").cases, Case::MEMORY);
    }

    #[test]
    fn quick_runs_have_one_payload_and_enough_pairs_for_an_interval() {
        let quick = options("--broker nats --quick --json");
        assert_eq!((quick.payloads.as_slice(), quick.pairs), (&[QUICK_PAYLOAD][..], 6));
        assert!(quick.quick && quick.json);
        assert!(crate::statistics::interval95(&vec![1.0; quick.pairs]).is_some());
        assert_eq!(options("--broker nats --quick --payload 100 --pairs 11").payloads, [100]);
    }

    #[test]
    fn cases_are_those_of_the_broker() {
        let two = options("--broker nats --case drain --case consume_ack --url nats://h:1");
        assert_eq!(two.cases, [Case::Drain, Case::ConsumeAck]);
        let wrong = read("--broker memory --case drain").unwrap_err();
        assert!(wrong.contains("`drain`") && wrong.contains("batches"), "{wrong}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, name) in [
            ("", "--broker nats"),
            ("--broker pigeon", "pigeon"),
            ("--broker nats --pairs 0", "--pairs"),
            ("--broker nats --pairs many", "many"),
            ("--broker nats --payload -1", "-1"),
            ("--broker null --url nats://h", "--url"),
            ("--broker nats --fast", "--fast"),
        ] {
            let wrong = read(line).unwrap_err();
            assert!(wrong.contains(name), "{line}: {wrong}");
        }
        assert_eq!(read("--help"), Ok(None));
    }
}
