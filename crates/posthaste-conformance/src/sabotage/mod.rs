//! Brokers with a defect, to see whether the cases notice.
//!
//! A case that cannot fail proves nothing. [`Sabotage`] stands before any broker and breaks one
//! promise in one small way, a [`Mutant`]; [`hunt`] runs the cases of that promise until one fails.
//! A mutant that survives is a hole in the suite. It decides nothing about how a broker is
//! reached: that is the harness's, which [`harness`] wraps.
//!
//! ```
//! use std::sync::Arc;
//! use posthaste_conformance::Harness;
//! use posthaste_conformance::sabotage::{Mutant, hunt};
//!
//! # use posthaste_core::Capabilities;
//! async fn all(harness: &Arc<dyn Harness>, can: &Capabilities, seed: u64) -> Result<(), String> {
//!     for mutant in Mutant::ALL.iter().filter(|mutant| mutant.applies(can, harness.offers())) {
//!         let caught = hunt(*mutant, harness, can, seed).await?;
//!         assert!(caught.case.starts_with('p'));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Mutants sit at the adapter's seam, and every promise has some. What of a promise is kept above
//! the seam, by core, once for all adapters, no mutant can break; core's own tests, and cases over
//! an adapter that is scripted, look after that.
//!
//! | promise | kept by core, without a mutant | what an adapter can break |
//! |---|---|---|
//! | P2 | publishing again what is unknown, with its id | outcomes, and the entries beside |
//! | P4 | which question the topology asks | the answer, and what it creates |
//! | P12 | the record of a letter | its parts, listing, replay |
//! | P13 | the timer that prolongs, and `max_handling` | prolonging, and the lease that it is told |
//! | P14 | the limit of attempts | the count, and what becomes of a release |
//! | P15 | the gate of each key, also while publishing | the order of what comes, and who has it |
//! | P16 | the books of what is unsettled | the credit |
//! | P19 | decoding | foreign messages, and the delay of what was dropped |
//! | P21 | what becomes of an expired message | the time at which it expires |
//! | P27 | the names of operation, topic and group in an error | kinds, secrets, the end |
//! | P30 | deadlines, the window, whoever is not polled | calls that never end |
//! | P31 | windows and books apart from each other | drivers and settlers that know each other |

mod admin;
mod broker;
mod driver;
mod envelope;
mod harness;
mod hunt;
mod mutant;
mod plot;
mod publish;
mod saboteur;
mod settler;
#[cfg(test)]
mod tests;

pub use self::broker::Sabotage;
pub use self::harness::harness;
pub use self::hunt::{Catch, harmless, hunt};
pub use self::mutant::Mutant;
