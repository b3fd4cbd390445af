//! Requests to JetStream: one way for all, so that errors are told apart in one place.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::response::Response;
use bytes::Bytes;
use posthaste_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error;
use crate::link::Link;

/// Asks JetStream, through a client that may be disconnected now.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) link: Link,
    pub(crate) prefix: String,
    pub(crate) timeout: Duration,
}

impl Api {
    /// One request. The answer is awaited until the timeout, or shortly after a reconnect.
    ///
    /// # Errors
    /// By the server's code; `Auth` if the server named the subject as forbidden; `Connection`,
    /// `Timeout`, `Closed`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: &(impl Serialize + ?Sized + Sync),
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Error::new(ErrorKind::Fatal, "a request could not be written").with_source(error)
        })?;
        let payload = self.raw(&format!("{}.{subject}", self.prefix), body.into()).await?;
        match serde_json::from_slice(&payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(error::api(&error)),
            Err(error) => Err(Error::new(ErrorKind::Fatal, "the server's answer is malformed")
                .with_context("subject", subject)
                .with_source(error)
                .with_broker(error::BROKER)),
        }
    }

    /// A request to any subject, for its answer's payload.
    pub(crate) async fn raw(&self, subject: &str, body: Bytes) -> Result<Bytes> {
        let start = Instant::now();
        let until = start + self.timeout;
        self.link.ready(until).await?;
        let losses = self.link.losses();
        let answered = tokio::select! {
            answered = self.client.request(subject.to_owned(), body) => answered,
            () = self.link.lost_since(losses, until) => {
                return Err(self.unanswered(subject, start));
            }
        };
        answered.map(|message| message.payload).map_err(|error| {
            let timed_out = error.kind() == async_nats::RequestErrorKind::TimedOut;
            let made =
                if timed_out { self.unanswered(subject, start) } else { error::request(error) };
            made.with_context("subject", subject)
        })
    }

    #[cold]
    fn unanswered(&self, subject: &str, since: Instant) -> Error {
        if let Some(refusal) = self.link.refusal_of(subject, since) {
            return refusal;
        }
        if self.link.is_closed() {
            return error::closed();
        }
        Error::new(ErrorKind::Timeout, "the server did not answer in time")
            .with_broker(error::BROKER)
    }
}
