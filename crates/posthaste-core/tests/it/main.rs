//! The public API, in one binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, clippy::disallowed_methods, reason = "tests spawn and join by themselves")]

mod cloudevents;
mod codec;
mod envelope;
mod envelope_arbitrary;
mod envelope_flaws;
mod envelope_foreign;
mod envelope_letters;
mod envelope_plain;
mod envelope_samples;
mod names;
mod public_types;
mod publisher;
mod script;
mod subscription;
mod wire;
