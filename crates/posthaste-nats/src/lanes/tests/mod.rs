//! Tests of the lanes' state machines; property tests run against a small model of the world.

mod board;
mod life;
mod server;
mod share;
mod steps;
mod takeover;
mod turns;
