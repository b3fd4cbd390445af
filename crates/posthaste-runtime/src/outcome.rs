//! What a handler may return.

use std::time::Duration;

use posthaste_core::Cause;
use posthaste_core::Event;
use posthaste_core::codec::Encode;

use crate::publish::Message;
use crate::{HandlerError, Publish};

/// What becomes of a message that a handler has seen.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is handled.
    Ack,
    /// It failed: again by the retry policy.
    Retry,
    /// It failed: again, not before that time is over, whatever the retry policy's delay is.
    RetryAfter(Duration),
    /// It is given up, as a dead letter with this cause.
    DeadLetter(Cause),
    /// It is of no use: it is settled, and counted as discarded.
    Discard,
    /// It failed with this error: again by the retry policy, unless the error says otherwise.
    Failed(HandlerError),
}

/// An [`Outcome`], and what is published before it counts.
#[derive(Debug)]
pub struct Reply {
    pub(crate) outcome: Outcome,
    pub(crate) messages: Vec<Message>,
}

impl Reply {
    pub(crate) const fn of(outcome: Outcome) -> Self {
        Self { outcome, messages: Vec::new() }
    }
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        Self::of(outcome)
    }
}

/// What a handler may return: `()`, [`Outcome`], [`Publish`] (one, an `Option` or a `Vec` of
/// them), or a `Result` of these.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not something that says what becomes of a message",
    note = "a handler returns `()`, `Outcome`, `Publish<T>`, or a `Result` of these",
    note = "the error of a `Result` is any `std::error::Error + Send + Sync`, `HandlerError` or `Permanent`"
)]
pub trait IntoReply {
    /// The outcome, and what is to be published before.
    fn into_reply(self) -> Reply;
}

impl IntoReply for () {
    fn into_reply(self) -> Reply {
        Reply::of(Outcome::Ack)
    }
}

impl IntoReply for Outcome {
    fn into_reply(self) -> Reply {
        Reply::of(self)
    }
}

impl<T, E> IntoReply for Result<T, E>
where
    T: IntoReply,
    E: Into<HandlerError>,
{
    fn into_reply(self) -> Reply {
        match self {
            Ok(done) => done.into_reply(),
            Err(error) => Reply::of(Outcome::Failed(error.into())),
        }
    }
}

impl<T> IntoReply for Publish<T>
where
    T: Event,
    T::Codec: Encode<T>,
{
    fn into_reply(self) -> Reply {
        reply([self])
    }
}

impl<T> IntoReply for Option<Publish<T>>
where
    T: Event,
    T::Codec: Encode<T>,
{
    fn into_reply(self) -> Reply {
        reply(self)
    }
}

impl<T> IntoReply for Vec<Publish<T>>
where
    T: Event,
    T::Codec: Encode<T>,
{
    fn into_reply(self) -> Reply {
        reply(self)
    }
}

fn reply<T>(publish: impl IntoIterator<Item = Publish<T>>) -> Reply
where
    T: Event,
    T::Codec: Encode<T>,
{
    match publish.into_iter().map(Publish::encode).collect::<Result<_, _>>() {
        Ok(messages) => Reply { outcome: Outcome::Ack, messages },
        // The same value has no form at the next attempt either.
        Err(error) => Reply::of(Outcome::Failed(HandlerError::permanent(error))),
    }
}
