//! The public API, in one binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(missing_docs, clippy::disallowed_methods, reason = "tests spawn and join by themselves")]

mod calls;
mod cancel;
mod cloudevents;
mod codec;
mod envelope;
mod envelope_arbitrary;
mod envelope_flaws;
mod envelope_foreign;
mod envelope_letters;
mod envelope_plain;
mod envelope_samples;
mod feed;
mod names;
mod public_types;
mod publisher;
mod script;
mod soak;
mod stub;
mod subscription;
mod subscription_drain;
mod subscription_leases;
mod subscription_order;
mod subscription_settle;
mod window;
mod window_close;
mod wire;
