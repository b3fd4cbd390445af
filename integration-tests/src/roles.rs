//! These programs once more, as a process that a case kills.

use std::process::ExitCode;
use std::sync::Arc;

use posthaste_conformance::child;
use posthaste_core::{Broker, Error, Result};

use crate::brokers::variable;
use crate::{kafka, nats, rabbitmq, redis};

/// Plays the role until the process is killed.
#[expect(clippy::print_stderr, reason = "what fails here is read by a person")]
#[must_use]
pub fn play(role: &str) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let played = runtime.map_err(|error| Error::invalid("no runtime").with_source(error)).and_then(
        |runtime| match role {
            child::CONSUMER => runtime.block_on(async { child::play(connect().await?).await }),
            other => Err(Error::invalid("no such role").with_context("found", other)),
        },
    );
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// A connection from what the harness left in the environment.
async fn connect() -> Result<Arc<dyn Broker>> {
    if let Some(url) = variable(nats::CHILD_URL) {
        return nats::connect(&url).await;
    }
    if let Some(url) = variable(kafka::CHILD_URL) {
        return kafka::connect(&url).await;
    }
    if let Some(url) = variable(rabbitmq::CHILD_URL) {
        return rabbitmq::connect(&url).await;
    }
    if let Some(url) = variable(redis::CHILD_URL) {
        return redis::connect(&url).await;
    }
    Err(Error::invalid("no broker here can be reached from another process"))
}
