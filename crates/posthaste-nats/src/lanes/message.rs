//! What a [`Takeover`](super::takeover::Takeover) keeps of messages, and what it says of them.

use tokio::time::Instant;

/// Where a delivery stands, as its reply subject tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// In the stream.
    pub(crate) sequence: u64,
    /// Among the deliveries of the consumer.
    pub(crate) consumer: u64,
    /// Which delivery of the message it is, from 1.
    pub(crate) deliveries: u64,
}

/// What becomes of a message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<M> {
    /// It is here, in place of an older delivery of it if there was one.
    Kept,
    /// Core has it: drop this one. It has a new lease at the server, and either delivery's reply
    /// subject may be used from now on.
    InHand(M),
    /// It was settled in this life, and the server did not get to know: acknowledge this one.
    AckAgain(M),
}

/// What a life needs from its caller now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Ask the server for [`Facts`](super::doubt::Facts).
    pub(crate) ask: bool,
    /// How many messages may be requested and not yet come.
    pub(crate) pull: usize,
    /// Requests must not wait: those that find nothing are to end at once.
    pub(crate) no_wait: bool,
    /// When to look again if nothing happens before.
    pub(crate) wake: Option<Instant>,
}

/// A message that was not handed out yet.
#[derive(Debug)]
pub(super) struct Held<M> {
    pub(super) message: M,
    pub(super) inherited: bool,
    /// Its place among the deliveries, if it came after the doubt began.
    pub(super) since_doubt: Option<u64>,
}

/// A message in core's hands.
#[derive(Debug)]
pub(super) struct Hand {
    pub(super) until: Instant,
    pub(super) inherited: bool,
}

/// A message that was given back. It may have been settled after all.
#[derive(Debug)]
pub(super) struct Coming {
    pub(super) since: Instant,
    /// Whether later ones wait for it.
    pub(super) waits: bool,
    /// The server has nothing else left to deliver again when it comes.
    pub(super) last: bool,
}
