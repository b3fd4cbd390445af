//! Faults, made on purpose: a network that breaks, a broker that dies, a process that is killed.
//!
//! - [`Proxy`] stands between a client and a broker and cuts, resets, swallows, stalls or delays.
//! - [`Server`] is a broker process that a test may kill, pause and start again on its data.
//! - [`Child`] is this test binary once more, in a [`role`], so that a whole consumer can be killed.
//! - [`wait::until`] waits for what a fault should bring about, with a deadline.
//!
//! Nothing here injects faults at random or decides when to break: a case does that, so that a
//! failure can be told from its cause. Only on Unix, because the faults of processes are signals.

mod child;
mod port;
mod process;
mod proxy;
mod server;
pub mod wait;

pub use child::{Child, ROLE_VARIABLE, role, say};
pub use port::free_port;
pub use proxy::{Armed, Direction, Proxy, Traffic};
pub use server::{Ready, Server, ServerSpec};
