//! The dead letters of a group: look, replay, discard.

use posthaste_core::broker::StoredLetter;
use posthaste_core::{Bus, LetterId, Result};

/// How many letters are read or taken by one call.
const PAGE: usize = 100;

/// The dead letters of a group on a topic, on any broker.
///
/// ```
/// # use posthaste_core::{Bus, Result, TopicConfig};
/// # use posthaste_memory::MemoryBroker;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new(MemoryBroker::new());
/// # bus.ensure(TopicConfig::new("orders").group("billing")).await?;
/// use posthaste_runtime::DeadLetters;
/// let letters = DeadLetters::of(&bus, "orders", "billing");
/// for stored in letters.scan(1_000).await?.letters {
///     println!("{}: {:?}", stored.id, stored.letter.cause);
/// }
/// let replayed = letters.replay_all(1_000, |letter| letter.attempts < 10).await?;
/// # assert!(replayed.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    bus: Bus,
    topic: String,
    group: String,
}

/// What a look at the dead letters has found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scan {
    /// The letters, oldest first.
    pub letters: Vec<StoredLetter>,
    /// Whether these are exactly the oldest; `false` where the broker can only take a sample and
    /// give it back.
    pub exact: bool,
    /// Whether there may be more behind them.
    pub more: bool,
}

impl DeadLetters {
    /// Those of a group. No I/O.
    pub fn of(bus: &Bus, topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self { bus: bus.clone(), topic: topic.into(), group: group.into() }
    }

    /// The oldest ones, at most `limit`. Where the broker can only take a sample, it is one page.
    ///
    /// # Errors
    /// `Invalid` for malformed names; `NotFound`, `Unsupported`, `Connection`, `Timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn scan(&self, limit: usize) -> Result<Scan> {
        let mut scan = Scan { letters: Vec::new(), exact: true, more: true };
        while scan.more && scan.exact && scan.letters.len() < limit {
            let wanted = PAGE.min(limit - scan.letters.len());
            let last = scan.letters.last().map(|stored| stored.id.clone());
            let admin = self.bus.admin();
            let page = match last {
                Some(last) => {
                    admin.dead_letters_after(&self.topic, &self.group, last, wanted).await?
                }
                None => admin.dead_letters(&self.topic, &self.group, wanted).await?,
            };
            scan.exact = page.exact;
            scan.more = page.letters.len() >= wanted;
            scan.letters.extend(page.letters);
        }
        Ok(scan)
    }

    /// The letter of that id, if it is among the oldest `limit`.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn find(&self, id: &LetterId, limit: usize) -> Result<Option<StoredLetter>> {
        Ok(self.scan(limit).await?.letters.into_iter().find(|stored| stored.id == *id))
    }

    /// Sends letters to the group that gave them up, and to no other, with the same message ids.
    /// One outcome for each, in order.
    ///
    /// # Errors
    /// Per letter `NotFound`; for the whole call as [`scan`](Self::scan).
    ///
    /// # Cancel safety
    /// When dropped, a letter may have been sent and not removed: it may then be sent again.
    pub async fn replay(&self, letters: &[LetterId]) -> Result<Vec<Result<()>>> {
        self.bus.admin().replay(&self.topic, &self.group, letters).await
    }

    /// Replays those of the oldest `limit` that are wanted, and says of each what became of it.
    ///
    /// # Errors
    /// As [`replay`](Self::replay); those that were sent before stay sent.
    ///
    /// # Cancel safety
    /// As [`replay`](Self::replay).
    pub async fn replay_all(
        &self,
        limit: usize,
        wanted: impl Fn(&posthaste_core::DeadLetter) -> bool + Send,
    ) -> Result<Vec<(LetterId, Result<()>)>> {
        // All are looked at first: one that fails again meanwhile is not replayed twice.
        let letters = self.scan(limit).await?.letters;
        let wanted = letters.into_iter().filter(|stored| wanted(&stored.letter));
        let ids: Vec<_> = wanted.map(|stored| stored.id).collect();
        let mut done = Vec::with_capacity(ids.len());
        for page in ids.chunks(PAGE) {
            let outcomes = self.replay(page).await?;
            done.extend(page.iter().cloned().zip(outcomes));
        }
        Ok(done)
    }

    /// Removes letters for good. One outcome for each, in order.
    ///
    /// # Errors
    /// Per letter `NotFound`; for the whole call as [`scan`](Self::scan).
    ///
    /// # Cancel safety
    /// When dropped, each letter is removed or not.
    pub async fn discard(&self, letters: &[LetterId]) -> Result<Vec<Result<()>>> {
        self.bus.admin().discard(&self.topic, &self.group, letters).await
    }
}
