//! The command line: what can be asked for, and how it is written.

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt};

/// The help text.
pub(crate) const USAGE: &str = "\
usage: cargo xtask <command>

  brokers up [NAME[@VERSION]...] [--install]   start brokers on loopback and print their URLs
  brokers down [NAME...] [--keep-data]         stop what `up` started, and delete its data
  brokers status [NAME...]                     which brokers answer, and where
  brokers logs [NAME...]                       the end of each broker's log

  test [--only BROKER[@VERSION]] [--filter CASE] [--repeat N] [--list] [--install] [-- ARGS...]
      no option: unit, doc and public API tests of every crate, then the integration suite
      --only, --filter, --repeat, --list: the integration suite alone; ARGS go to its binary
  faults BROKER[@VERSION] [--minutes M] [--kills K] [--messages N] [--rate R] [--only a,b]
         [--longest S] [--gap A,B] [--partitions N] [--seed S] [--json] [--install]
      break a broker at random for minutes, under load, and account for every message;
      a,b are of kill, restart, pause, cut, black-hole, half-open
  examples [NAME...] [--url URL] [--install]   run the examples and compare what they print
  tables [--check]                             write (or compare) the generated tables
  features                                     compile the facade with each feature alone
  tidy                                         check the house rules

--install (or CI=true) allows installing a missing broker into the cache folder.
POSTHASTE_<NAME>_URL names a broker that is already there; POSTHASTE_REQUIRE_BROKERS=a,b makes
these mandatory.";

/// One parsed command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Brokers(BrokersOptions),
    Test(TestOptions),
    Tables { check: bool },
    Features,
    Tidy,
    Examples(ExamplesOptions),
    Faults(FaultsOptions),
}

/// `brokers …`
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BrokersOptions {
    pub(crate) action: BrokersAction,
    /// Empty means all of them.
    pub(crate) names: Vec<String>,
    pub(crate) install: bool,
    pub(crate) keep_data: bool,
}

/// What to do with the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokersAction {
    Up,
    Down,
    Status,
    Logs,
}

/// `test …`
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestOptions {
    pub(crate) only: Option<String>,
    pub(crate) filter: Option<String>,
    pub(crate) repeat: Option<u32>,
    pub(crate) list: bool,
    pub(crate) install: bool,
    /// Handed to the integration binary as they are.
    pub(crate) rest: Vec<OsString>,
}

/// `examples …`
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ExamplesOptions {
    pub(crate) names: Vec<String>,
    pub(crate) url: Option<String>,
    pub(crate) install: bool,
}

/// `faults …`
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FaultsOptions {
    pub(crate) broker: String,
    pub(crate) install: bool,
    /// Handed to the program that does it, which knows its options.
    pub(crate) rest: Vec<OsString>,
}

/// Reads the command line (without the program's name). The error is a sentence for the user.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Command, lexopt::Error> {
    let mut parser = Parser::from_args(arguments);
    let Some(first) = parser.next()? else { return Err("no command was given".into()) };
    let command = match first {
        Arg::Value(word) => word.string()?,
        Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
        other => return Err(other.unexpected()),
    };
    match command.as_str() {
        "help" => Ok(Command::Help),
        "brokers" => brokers(parser),
        "test" => test(parser),
        "examples" => examples(parser),
        "faults" => faults(parser),
        "tables" => {
            let mut check = false;
            while let Some(argument) = parser.next()? {
                match argument {
                    Arg::Long("check") => check = true,
                    other => return Err(other.unexpected()),
                }
            }
            Ok(Command::Tables { check })
        }
        "tidy" => bare(parser, Command::Tidy),
        "features" => bare(parser, Command::Features),
        other => Err(format!("there is no command `{other}`").into()),
    }
}

/// A command that takes nothing more.
fn bare(mut parser: Parser, command: Command) -> Result<Command, lexopt::Error> {
    match parser.next()? {
        None => Ok(command),
        Some(other) => Err(other.unexpected()),
    }
}

fn brokers(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let action = match parser.next()? {
        Some(Arg::Value(word)) => match word.string()?.as_str() {
            "up" => BrokersAction::Up,
            "down" => BrokersAction::Down,
            "status" => BrokersAction::Status,
            "logs" => BrokersAction::Logs,
            other => return Err(format!("there is no `brokers {other}`").into()),
        },
        Some(other) => return Err(other.unexpected()),
        None => return Err("`brokers` needs one of up, down, status, logs".into()),
    };
    let mut options =
        BrokersOptions { action, names: Vec::new(), install: false, keep_data: false };
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(name) => options.names.push(name.string()?),
            Arg::Long("install") if action == BrokersAction::Up => options.install = true,
            Arg::Long("keep-data") if action == BrokersAction::Down => options.keep_data = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Brokers(options))
}

fn test(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let mut options = TestOptions::default();
    loop {
        // Everything after `--` belongs to the integration binary.
        if let Some(raw) = parser.try_raw_args()
            && raw.peek().is_some_and(|next| next == "--")
        {
            options.rest = raw.skip(1).collect();
            break;
        }
        match parser.next()? {
            Some(Arg::Long("only")) => options.only = Some(parser.value()?.string()?),
            Some(Arg::Long("filter")) => options.filter = Some(parser.value()?.string()?),
            Some(Arg::Long("repeat")) => match parser.value()?.parse()? {
                0 => return Err("--repeat needs at least 1".into()),
                times => options.repeat = Some(times),
            },
            Some(Arg::Long("list")) => options.list = true,
            Some(Arg::Long("install")) => options.install = true,
            Some(other) => return Err(other.unexpected()),
            None => break,
        }
    }
    Ok(Command::Test(options))
}

fn examples(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let mut options = ExamplesOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(name) => options.names.push(name.string()?),
            Arg::Long("url") => options.url = Some(parser.value()?.string()?),
            Arg::Long("install") => options.install = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Examples(options))
}

fn faults(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let Some(Arg::Value(broker)) = parser.next()? else {
        return Err("`faults` needs the name of a broker first".into());
    };
    let mut rest: Vec<OsString> = parser.raw_args()?.collect();
    let before = rest.len();
    rest.retain(|argument| argument != "--install");
    let install = rest.len() < before;
    Ok(Command::Faults(FaultsOptions { broker: broker.string()?, install, rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn brokers_take_names_and_the_options_of_their_action() {
        assert_eq!(
            read("brokers up nats nats@2.9 --install"),
            Ok(Command::Brokers(BrokersOptions {
                action: BrokersAction::Up,
                names: vec!["nats".to_owned(), "nats@2.9".to_owned()],
                install: true,
                keep_data: false,
            }))
        );
        assert!(read("brokers down --install").is_err());
        assert!(read("brokers up --keep-data").is_err());
        assert!(read("brokers restart").is_err());
        assert!(read("brokers").is_err());
    }

    #[test]
    fn test_options_are_read_and_the_rest_is_kept_for_the_binary() {
        assert_eq!(
            read("test --only nats@2.9 --filter=p11 --repeat 3 --list -- --nocapture x"),
            Ok(Command::Test(TestOptions {
                only: Some("nats@2.9".to_owned()),
                filter: Some("p11".to_owned()),
                repeat: Some(3),
                list: true,
                install: false,
                rest: vec!["--nocapture".into(), "x".into()],
            }))
        );
        assert!(read("test --repeat 0").is_err());
        assert!(read("test --repeat many").is_err());
        assert!(read("test nats").is_err());
    }

    #[test]
    fn faults_take_a_broker_and_hand_on_the_rest() {
        assert_eq!(
            read("faults nats@2.9 --seed 7 --install --only kill,cut"),
            Ok(Command::Faults(FaultsOptions {
                broker: "nats@2.9".to_owned(),
                install: true,
                rest: ["--seed", "7", "--only", "kill,cut"].map(OsString::from).to_vec(),
            }))
        );
        assert!(read("faults").is_err());
        assert!(read("faults --seed 7").is_err());
    }

    #[test]
    fn the_other_commands_refuse_what_they_do_not_know() {
        assert_eq!(read("tables --check"), Ok(Command::Tables { check: true }));
        assert_eq!(read("tidy"), Ok(Command::Tidy));
        assert_eq!(read("features"), Ok(Command::Features));
        assert!(read("tidy now").is_err());
        assert!(read("tables --verify").is_err());
        assert!(read("").is_err());
        assert!(read("deploy").is_err());
        assert_eq!(
            read("examples quickstart --url memory:"),
            Ok(Command::Examples(ExamplesOptions {
                names: vec!["quickstart".to_owned()],
                url: Some("memory:".to_owned()),
                install: false,
            }))
        );
    }
}
