//! Why a delivery failed, and the record that is kept when it is given up.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::{Envelope, GroupName, Timestamp, TopicName};

/// Longer error texts are cut to this many bytes, so that headers stay within broker limits.
const TEXT_LIMIT: usize = 1_024;
/// Longer chains of causes are cut to this many.
const CHAIN_LIMIT: usize = 8;

/// Why a message was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The application said so.
    Rejected,
    /// The attempts are used up.
    AttemptsExhausted,
    /// The payload is not what the type says.
    Undecodable,
    /// The message expired before it was handled.
    Expired,
    /// The message kills the processes that handle it.
    CrashLoop,
    /// It follows a dead letter of its key, whose order would break without it.
    FollowsKey,
    /// A reason that a later version or another program wrote.
    Other(Cow<'static, str>),
}

impl Reason {
    /// The name on the wire, for example `attempts_exhausted`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Undecodable => "undecodable",
            Self::Expired => "expired",
            Self::CrashLoop => "crash_loop",
            Self::FollowsKey => "follows_key",
            Self::Other(name) => name,
        }
    }

    /// The reason of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "rejected" => Self::Rejected,
            "attempts_exhausted" => Self::AttemptsExhausted,
            "undecodable" => Self::Undecodable,
            "expired" => Self::Expired,
            "crash_loop" => Self::CrashLoop,
            "follows_key" => Self::FollowsKey,
            other => Self::Other(Cow::Owned(cut(other).into_owned())),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What made a handler fail: the error and its causes as text, and where it happened.
///
/// Any error converts into it. Texts are cut at 1 KiB, chains at 8.
///
/// ```
/// use posthaste_core::Cause;
/// let cause = Cause::from(std::io::Error::other("the card was declined")).handler("charge");
/// assert_eq!(cause.chain(), ["the card was declined"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    chain: Vec<String>,
    handler: Option<String>,
    reason: Option<Reason>,
}

impl Cause {
    /// A cause from a sentence.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { chain: vec![cut(text.as_ref()).into_owned()], handler: None, reason: None }
    }

    /// A cause from its recorded parts.
    #[must_use]
    pub fn from_chain(chain: Vec<String>, handler: Option<String>) -> Self {
        Self { chain, handler, reason: None }
    }

    /// Names the handler that failed.
    #[must_use]
    pub fn handler(mut self, name: impl AsRef<str>) -> Self {
        self.handler = Some(cut(name.as_ref()).into_owned());
        self
    }

    /// Says as what the message is given up, where that is not [`Reason::Rejected`].
    #[must_use]
    pub fn with_reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// A cause from an error that is borrowed.
    #[must_use]
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let own = error.downcast_ref::<crate::Error>();
        let undecodable = own.is_some_and(|error| error.kind() == crate::ErrorKind::Decode);
        let mut chain = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next.filter(|_| chain.len() < CHAIN_LIMIT) {
            chain.push(cut(&error.to_string()).into_owned());
            next = error.source();
        }
        Self { chain, handler: None, reason: undecodable.then_some(Reason::Undecodable) }
    }

    /// The error's text, then those of its causes.
    #[must_use]
    pub fn chain(&self) -> &[String] {
        &self.chain
    }

    /// The handler that failed, if it was named.
    #[must_use]
    pub fn handler_name(&self) -> Option<&str> {
        self.handler.as_deref()
    }

    /// Equal for failures of the same kind: the texts without their numbers, and the handler.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // FNV-1a, because the value is stored and must not change with the standard library.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for text in self.handler.iter().chain(&self.chain) {
            text.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(&mut mix);
            mix(0);
        }
        format!("{hash:016x}")
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason.clone().unwrap_or(Reason::Rejected)
    }
}

impl<E: StdError + 'static> From<E> for Cause {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

/// The name of a dead letter at its broker, opaque to applications.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId(String);

impl LetterId {
    /// The id as the adapter writes it.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message that a group gave up, with everything that is known about why.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The message as it was received.
    pub envelope: Envelope,
    /// Why it was given up.
    pub reason: Reason,
    /// What failed; `None` where no handler did, for example an expired message.
    pub cause: Option<Cause>,
    /// The topic it was published to.
    pub topic: TopicName,
    /// The group that gave it up.
    pub group: GroupName,
    /// How often it had been delivered to the group.
    pub attempts: u32,
    /// When it failed first, where known.
    pub first_failed_at: Option<Timestamp>,
    /// When it was given up.
    pub failed_at: Timestamp,
}

impl DeadLetter {
    /// A record with the parts that are always known; the others are set by assignment.
    #[must_use]
    pub fn new(envelope: Envelope, reason: Reason, topic: TopicName, group: GroupName) -> Self {
        Self {
            envelope,
            reason,
            cause: None,
            topic,
            group,
            attempts: 1,
            first_failed_at: None,
            failed_at: Timestamp::now(),
        }
    }
}

fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_LIMIT {
        return Cow::Borrowed(text);
    }
    let end = (0..=TEXT_LIMIT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}
