//! The facade through its public API: connecting by URL, the environment, the prelude.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "tests, in functions that clippy does not know for tests"
)]

mod connect;
mod environment;
mod prelude;
