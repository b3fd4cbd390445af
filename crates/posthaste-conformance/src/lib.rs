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
