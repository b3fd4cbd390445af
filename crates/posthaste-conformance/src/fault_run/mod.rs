//! Long fault runs: a broker that is killed, paused and cut off at random for minutes, under load,
//! with an auditor that knows every message.
//!
//! [`run`] takes a harness and a [`Plan`]. Publishers in several styles and groups of members that
//! come and go work on a private instance; the plan's faults happen one after the other, each some
//! seconds after things went well again. It ends when there were enough kills, minutes and
//! messages; then everything confirmed has to be handled. The [`Report`] holds figures, and
//! [`Findings`]: whatever was lost, stored twice, out of order, handled again for no reason, or
//! stood still for too long.
//!
//! The seed fixes the faults, their order, lengths and gaps, and what handlers make of each
//! message. It does not fix which message is where when something breaks: that is chance, and the
//! reason for running long.
//!
//! | what | how it is judged |
//! |---|---|
//! | P1, P5, P9, P17 | everything confirmed was acknowledged or dead-lettered by every group |
//! | P2 | what certainly failed never comes; what may be stored is published again |
//! | P8, P14 | attempts grow with each delivery, but over an outage; no message uses them up |
//! | P13 | handlers that take longer than the lease keep their message |
//! | P15 | no handler of a key begins while an earlier message is unsettled |
//! | P17 | what was settled comes again only near an outage, by [`replay_window`] |
//! | P18, P28 | members that stop and start cost nobody anything, and a stop ends |
//! | P23 | with deduplication nothing is stored twice |
//!
//! [`replay_window`]: posthaste_core::Capabilities::replay_window

mod audit;
mod clock;
mod closing;
mod deploy;
mod fate;
mod inject;
mod member;
mod memory;
mod message;
mod plan;
mod play;
mod publish;
mod report;
mod stage;
mod watch;

pub use audit::{Findings, GroupReport, Wrong};
pub use plan::{FaultKind, Plan};
pub use play::run;
pub use report::{FaultReport, Report, Verdict};
