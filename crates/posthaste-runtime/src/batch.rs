//! Handlers of several messages at once.

use crate::extract::{EventType, FromDelivery, FromRef};
use crate::{HandlerError, IntoReply, Outcome, Reply, State};

/// The arguments of a handler of batches: `Vec<T>` of whatever a handler of one message can take,
/// and then the state if it is wanted.
///
/// Take `Vec<(Payload<T>, Metadata)>` for several things of each message. A message that one of
/// them cannot be made of is a dead letter, and the handler gets the others.
#[diagnostic::on_unimplemented(
    message = "`{Self}` are not the arguments of a handler of batches",
    note = "a handler of batches takes `Vec<Payload<T>>`, and then `State<T>` if it wants it"
)]
pub trait BatchArguments<S>: Sized {
    /// What is made of each message.
    type Item: FromDelivery<S>;
    /// The event that it is decoded from.
    const EVENT: Option<EventType> = <Self::Item as FromDelivery<S>>::EVENT;

    /// Makes the arguments.
    fn gather(items: Vec<Self::Item>, state: &S) -> Self;
}

impl<S, T: FromDelivery<S>> BatchArguments<S> for (Vec<T>,) {
    type Item = T;

    fn gather(items: Vec<T>, _: &S) -> Self {
        (items,)
    }
}

impl<S, T: FromDelivery<S>, D: FromRef<S>> BatchArguments<S> for (Vec<T>, State<D>) {
    type Item = T;

    fn gather(items: Vec<T>, state: &S) -> Self {
        (items, State(D::from_ref(state)))
    }
}

/// What becomes of the messages of a batch.
#[derive(Debug)]
#[non_exhaustive]
pub enum Replies {
    /// The same of each.
    All(Reply),
    /// One for each message, in order.
    Each(Vec<Reply>),
}

/// What a handler of batches may return: `()` or [`Outcome`] for all of them, a `Vec` with one
/// outcome (or `Result`, or `Publish`) for each in order, or a `Result` of these.
///
/// A `Vec` that is not as long as the batch is a failure of all of them.
#[diagnostic::on_unimplemented(
    message = "a handler of batches cannot return `{Self}`",
    note = "it returns `()`, `Outcome`, `Vec<Outcome>`, `Vec<Result<(), E>>`, or a `Result` of these"
)]
pub trait IntoReplies {
    /// The outcomes.
    fn into_replies(self) -> Replies;
}

impl IntoReplies for () {
    fn into_replies(self) -> Replies {
        Replies::All(self.into_reply())
    }
}

impl IntoReplies for Outcome {
    fn into_replies(self) -> Replies {
        Replies::All(self.into_reply())
    }
}

impl<T: IntoReply> IntoReplies for Vec<T> {
    fn into_replies(self) -> Replies {
        Replies::Each(self.into_iter().map(T::into_reply).collect())
    }
}

impl<T, E> IntoReplies for Result<T, E>
where
    T: IntoReplies,
    E: Into<HandlerError>,
{
    fn into_replies(self) -> Replies {
        match self {
            Ok(done) => done.into_replies(),
            Err(error) => Replies::All(Reply::of(Outcome::Failed(error.into()))),
        }
    }
}
