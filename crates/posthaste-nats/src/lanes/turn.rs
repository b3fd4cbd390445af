//! What a [`Board`](super::board::Board) and its caller say to each other.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The value of a lane's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Who wrote it.
    pub(crate) member: String,
    /// Which of its leases: no two have the same.
    pub(crate) life: u64,
    /// What it has of the lane.
    pub(crate) tenure: Tenure,
}

/// What the writer of an entry has of the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tenure {
    /// It may handle the lane.
    Held,
    /// Held for the last time: it drains.
    Leaving,
    /// Nothing any more.
    Free {
        /// Everything that was not acknowledged was given back to the server, and the server has
        /// confirmed that.
        clean: bool,
    },
}

impl Tenure {
    /// Whether the writer has nothing of the lane any more.
    pub(crate) const fn is_free(self) -> bool {
        matches!(self, Self::Free { .. })
    }
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Writes to the keys of lanes. Each gets one answer: taken, refused or unanswered.
    pub(crate) writes: Vec<Write>,
    /// Lanes to drain: nothing new is asked of the server for them. Then they are drained.
    pub(crate) drain: Vec<u32>,
    /// Lanes that are not this member's any more: they are lost at once.
    pub(crate) lost: Vec<u32>,
    /// Write this member's own key, at whatever revision.
    pub(crate) beat: bool,
    /// Keys of members that are long gone, to be deleted at these revisions.
    pub(crate) bury: Vec<(String, u64)>,
    /// When to ask again if nothing happens before.
    pub(crate) wake: Option<Instant>,
}

/// Replace the key's value if it still has that revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Whose key.
    pub(crate) lane: u32,
    /// 0 is that of a key that is not there.
    pub(crate) revision: u64,
    /// The new value.
    pub(crate) entry: Entry,
}

/// What a write brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The lane is this member's now.
    Claimed {
        /// What the one before left, as in [`Tenure::Free`].
        clean: bool,
    },
    /// It was renewed or freed, or the answer came too late to matter.
    Known,
}
