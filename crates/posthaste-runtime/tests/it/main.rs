//! The runtime through its public API, on the in-process broker, mostly in virtual time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail the test, which is how it is told"
)]

mod arguments;
mod batches;
mod failures;
mod lifecycle;
mod load;
mod ordering;
mod publishing;
mod refused;
mod retries;
mod routing;
mod shop;
mod signals;
mod starting;
mod test_bus;
