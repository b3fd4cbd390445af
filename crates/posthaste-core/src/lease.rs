//! A delivery's lease, apart from the right to settle it.

use std::fmt;
use std::sync::Arc;

use crate::Result;
use crate::broker::{Lane, LaneState};
use crate::subscription::{Hand, Ledger};

/// The lease of a delivery that somebody else settles: for work that must stop when the message
/// may belong to another member. From [`Delivery::lease`](crate::Delivery::lease).
///
/// It is over when the delivery was settled or given back, or when its lease was lost.
#[derive(Clone)]
pub struct Lease {
    ledger: Arc<Ledger>,
    lane: Arc<Lane>,
    /// `None` under at-most-once, where nothing is leased.
    hand: Option<(usize, Hand)>,
}

impl Lease {
    pub(crate) fn new(ledger: &Arc<Ledger>, lane: &Arc<Lane>, slot: Option<usize>) -> Self {
        let hand = slot.and_then(|slot| Some((slot, ledger.hand(slot)?)));
        Self { ledger: Arc::clone(ledger), lane: Arc::clone(lane), hand }
    }

    /// Whether it is over: somebody else may have the message, or it was settled.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let over = |(slot, hand)| self.ledger.is_over(slot, hand);
        self.lane.state() == LaneState::Lost || self.hand.is_some_and(over)
    }

    /// Waits until the lease is lost. Once the delivery was settled, it may wait for ever.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        let lease = async {
            match self.hand {
                Some((slot, hand)) => self.ledger.over(slot, hand).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = lease => {}
            () = self.lane.lost() => {}
        }
    }

    /// Prolongs the lease now, also beyond `max_handling`.
    ///
    /// # Errors
    /// `LeaseLost` if it is over; `Connection`, `Timeout` from the broker.
    ///
    /// # Cancel safety
    /// When dropped, the lease may or may not be prolonged.
    pub async fn extend(&self) -> Result<()> {
        match self.hand {
            Some((slot, hand)) => self.ledger.extend_hand(slot, hand).await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("over", &self.is_over()).finish_non_exhaustive()
    }
}
