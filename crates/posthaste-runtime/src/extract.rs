//! What a handler's arguments are made of: the message, and the state of the consumer.

use std::ops::Deref;

use posthaste_core::codec::Decode;
use posthaste_core::{Bus, Envelope, Event, Lease, Result};

use crate::Incoming;

/// An argument of a handler: made from a delivery, by reference, before the handler runs.
///
/// An error here makes the message a dead letter with reason `undecodable`, and the stream goes
/// on: what cannot be read now cannot be read later.
///
/// ```
/// use posthaste_core::Result;
/// use posthaste_runtime::{FromDelivery, Incoming};
///
/// struct Tenant(String);
///
/// impl<S> FromDelivery<S> for Tenant {
///     fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
///         let name = incoming.require_header("tenant")?;
///         Ok(Self(String::from_utf8_lossy(name).into_owned()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an argument that a handler can take",
    label = "this argument cannot be made from a delivery",
    note = "a handler takes `Payload<T>`, `Envelope`, `Metadata`, `Headers`, `Key`, `Attempt`, `State<T>`, `Lease`, `Outgoing` and `Bus`, in any order",
    note = "for a type of your own, implement `FromDelivery`"
)]
pub trait FromDelivery<S>: Sized {
    /// The event that it is decoded from, if it is: messages are routed by it.
    const EVENT: Option<EventType> = None;

    /// Makes the argument.
    ///
    /// # Errors
    /// What the message lacks; kind `Decode` by custom.
    fn from_delivery(incoming: &Incoming<'_>, state: &S) -> Result<Self>;
}

/// The type and version of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventType {
    /// The CloudEvents `type`.
    pub name: &'static str,
    /// The version of its schema.
    pub version: u32,
}

impl EventType {
    /// That of an event.
    #[must_use]
    pub const fn of<E: Event>() -> Self {
        Self { name: E::TYPE, version: E::VERSION }
    }
}

/// The decoded event. A handler that takes it gets the messages of that type and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Payload<T>(pub T);

impl<T> Deref for Payload<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<S, T> FromDelivery<S> for Payload<T>
where
    T: Event,
    T::Codec: Decode<T>,
{
    const EVENT: Option<EventType> = Some(EventType::of::<T>());

    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        incoming.delivery().decode().map(Self)
    }
}

/// What was given to [`Consumer::state`](crate::Consumer::state), or a part of it: a clone for
/// each message, so keep it cheap to clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State<T>(pub T);

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<S, T> FromDelivery<S> for State<T>
where
    T: FromRef<S>,
{
    fn from_delivery(_: &Incoming<'_>, state: &S) -> Result<Self> {
        Ok(Self(T::from_ref(state)))
    }
}

/// A part of a consumer's state. Everything that can be cloned is a part of itself; implement it
/// for the fields of a state of your own.
///
/// ```
/// use posthaste_runtime::FromRef;
///
/// #[derive(Clone)]
/// struct Cards;
/// #[derive(Clone)]
/// struct App {
///     cards: Cards,
/// }
///
/// impl FromRef<App> for Cards {
///     fn from_ref(app: &App) -> Self {
///         app.cards.clone()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the consumer has no state `{Self}`: its state is `{S}`",
    label = "a handler asks for `State<{Self}>`",
    note = "call `.state(value)` before `.on(..)`, or implement `FromRef<{S}>` for `{Self}`"
)]
pub trait FromRef<S> {
    /// The part.
    fn from_ref(state: &S) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> Self {
        state.clone()
    }
}

/// The message as it came. Costs no copy.
impl<S> FromDelivery<S> for Envelope {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        Ok(incoming.envelope().clone())
    }
}

/// The lease, for work that runs longer than it, or must stop when it is lost.
impl<S> FromDelivery<S> for Lease {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        Ok(incoming.delivery().lease())
    }
}

/// The bus that the consumer runs on.
impl<S> FromDelivery<S> for Bus {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        Ok(incoming.bus().clone())
    }
}

macro_rules! several {
    ($($name:ident),*) => {
        /// Several at once: for the items of a batch.
        impl<S, $($name: FromDelivery<S>),*> FromDelivery<S> for ($($name,)*) {
            const EVENT: Option<EventType> = first([$($name::EVENT),*]);

            fn from_delivery(incoming: &Incoming<'_>, state: &S) -> Result<Self> {
                Ok(($($name::from_delivery(incoming, state)?,)*))
            }
        }
    };
}

several!(A, B);
several!(A, B, C);
several!(A, B, C, D);

/// The first event among those of several arguments.
pub(crate) const fn first<const N: usize>(events: [Option<EventType>; N]) -> Option<EventType> {
    let mut at = 0;
    while at < N {
        if events[at].is_some() {
            return events[at];
        }
        at += 1;
    }
    None
}
