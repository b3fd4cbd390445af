//! Property tests of the lanes' state machines, each against a small model of the world.

mod board;
mod share;
