//! `#[derive(Event)]`: what it generates, and what it says when it cannot.

mod accepted;
mod refused;
