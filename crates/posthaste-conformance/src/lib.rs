//! The conformance suite: what every adapter of Posthaste has to prove, and the tools to prove it
//! under faults.
//!
//! It is public, so that an adapter that lives elsewhere is held to the same promises. It contains
//! no broker client and decides nothing about retries or recovery: it only watches and breaks.
//!
//! # For the author of an adapter
//!
//! 1. Implement [`Harness`] over your broker: a shared instance with connections of their own, and
//!    as many [`Need`]s as can be had. Each one that is missing leaves cases out, by name.
//! 2. Take [`cases::all`]. For each [`Case`] that applies to your
//!    [`Capabilities`](posthaste_core::Capabilities), and whose needs you offer, call [`play`].
//!    What you refuse has a denial case, which then applies.
//! 3. Run [`sabotage`] over your harness: the cases have to notice each mutant.
//! 4. Run [`fault_run`] on it for minutes, now and then: what happens once in a thousand
//!    reconnects shows there.
//!
//! The way from an empty crate to there is in `CONTRIBUTING.md`. A test binary, with
//! `harness = false` in the manifest:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use libtest_mimic::{Arguments, Failed, Trial};
//! use posthaste_conformance::{Case, Harness, Pace, cases, play};
//! use tokio::runtime::Runtime;
//!
//! /// Each case that applies to what the broker can do; what the harness cannot break is ignored.
//! fn trials(harness: &Arc<dyn Harness>) -> Result<Vec<Trial>, Box<dyn std::error::Error>> {
//!     let broker = Runtime::new()?.block_on(harness.connect())?;
//!     let can = broker.capabilities(None);
//!     let all = cases::all().into_iter().filter(|case| case.applies(&can));
//!     Ok(all.map(|case| trial(case, Arc::clone(harness))).collect())
//! }
//!
//! fn trial(case: Case, harness: Arc<dyn Harness>) -> Trial {
//!     let can_run = case.needed().iter().all(|need| harness.offers().contains(need));
//!     let name = case.path();
//!     let run = move || {
//!         let seed = std::env::var("POSTHASTE_SEED").ok().and_then(|seed| seed.parse().ok());
//!         let seed = seed.unwrap_or_else(|| fastrand::u64(..));
//!         // A runtime of its own, so that cases share no worker.
//!         let runtime = Runtime::new()?;
//!         let played = runtime.block_on(play(&case, &harness, Pace::STEADY, seed));
//!         runtime.shutdown_background();
//!         played.map_err(|report| Failed::from(report.to_string()))
//!     };
//!     Trial::test(name, run).with_ignored_flag(!can_run)
//! }
//!
//! fn suite(harness: Arc<dyn Harness>) -> Result<(), Box<dyn std::error::Error>> {
//!     libtest_mimic::run(&Arguments::from_args(), trials(&harness)?).exit()
//! }
//! # fn main() {}
//! ```
//!
//! Only on Unix, because the faults of processes are signals.
#![cfg(unix)]

mod case;
pub mod cases;
pub mod child;
pub mod coverage;
mod failure;
pub mod fault;
pub mod fault_run;
mod feature;
mod harness;
mod load;
mod order;
mod receive;
mod refusing;
mod runner;
pub mod sabotage;
mod scene;
mod scripted;
mod seam;
mod send;

pub use case::{Case, Kind, Run};
pub use failure::{Failed, Outcome};
pub use feature::Feature;
pub use harness::{Connect, Foreign, Harness, Instance, Link, Mistake, Need, proxy_to};
pub use refusing::Refusing;
pub use runner::{Report, play};
pub use scene::{Pace, SOURCE, Scene};
