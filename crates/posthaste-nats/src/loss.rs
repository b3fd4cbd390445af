//! Noticing that messages were removed before a group read them.
//!
//! A delivery names its place in the stream and its number for the consumer. When the place
//! advances further than the number does, something between was not delivered: another subject's
//! message, or one that is gone. The stream's first sequence tells which.

use async_nats::jetstream::consumer::{DeliverPolicy, Info};

use crate::reply::Delivered;

/// What a consumer was seen to have delivered last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LossWatch {
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    place: u64,
    number: u64,
    /// How many the consumer had not delivered then.
    pending: u64,
}

/// Messages that were perhaps removed unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The last place that was delivered before.
    pub(crate) after: u64,
    /// How many at most.
    pub(crate) at_most: u64,
}

impl LossWatch {
    /// Begins behind what the group had delivered.
    pub(crate) const fn starting(stream_sequence: u64, consumer_sequence: u64) -> Self {
        let (place, number) = (stream_sequence, consumer_sequence);
        Self { last: Some(Last { place, number, pending: 0 }) }
    }

    /// What lies before that place was told already.
    pub(crate) fn advance(&mut self, place: u64) {
        if let Some(last) = &mut self.last {
            last.place = last.place.max(place);
        }
    }

    /// Takes a delivery into account. Returns what may be missing before it.
    ///
    /// A consumer that does not read everything misses places all the time. Only if messages of
    /// its own were waiting, one of those may be gone.
    pub(crate) fn see(&mut self, delivered: &Delivered, reads_all: bool) -> Option<Gap> {
        // Only what is delivered for the first time comes in the stream's order.
        if delivered.deliveries != 1 {
            return None;
        }
        let now = Last {
            place: delivered.stream_sequence,
            number: delivered.consumer_sequence,
            pending: delivered.pending,
        };
        let last = *self.last.get_or_insert(now);
        if now.place <= last.place {
            return None;
        }
        self.last = Some(now);
        let advanced = now.place - last.place;
        let counted = now.number.saturating_sub(last.number);
        let missing = advanced.saturating_sub(counted);
        let suspicious = missing > 0 && (reads_all || last.pending > 0);
        suspicious.then_some(Gap { after: last.place, at_most: missing })
    }
}

/// Up to where a group has read. Servers advance what they call delivered over messages that are
/// gone; the acknowledged floor stays behind them.
pub(crate) fn read_up_to(info: &Info) -> u64 {
    let delivered = info.delivered.stream_sequence;
    // A purge advances what counts as delivered; before the first delivery the start tells more.
    if let (0, DeliverPolicy::ByStartSequence { start_sequence }) =
        (info.delivered.consumer_sequence, info.config.deliver_policy)
    {
        return start_sequence.saturating_sub(1).min(delivered);
    }
    if info.num_ack_pending > 0 { delivered } else { delivered.min(info.ack_floor.stream_sequence) }
}

impl Gap {
    /// How many were removed, given the first sequence that the stream still has.
    pub(crate) fn removed(self, first: u64) -> u64 {
        self.at_most.min(first.saturating_sub(self.after + 1))
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::Timestamp;

    use super::*;

    fn delivered(stream_sequence: u64, consumer_sequence: u64, deliveries: u64) -> Delivered {
        let stored_at = Timestamp::UNIX_EPOCH;
        Delivered { deliveries, stream_sequence, consumer_sequence, stored_at, pending: 0 }
    }

    #[test]
    fn a_jump_that_the_consumer_did_not_count_is_a_gap() {
        let mut watch = LossWatch::starting(10, 10);
        assert_eq!(watch.see(&delivered(11, 11, 1), true), None);
        // Another member got 12 and 13.
        assert_eq!(watch.see(&delivered(14, 14, 1), true), None);
        let gap = watch.see(&delivered(105, 15, 1), true).unwrap();
        assert_eq!(gap, Gap { after: 14, at_most: 90 });
        assert_eq!(gap.removed(105), 90);
        // Nothing before 20 is gone: the others were of another subject.
        assert_eq!(gap.removed(20), 5);
        assert_eq!(gap.removed(1), 0);
    }

    #[test]
    fn a_lane_misses_places_and_is_suspicious_only_when_it_was_behind() {
        let mut watch = LossWatch::starting(10, 10);
        assert_eq!(watch.see(&delivered(30, 11, 1), false), None);
        let behind = Delivered { pending: 4, ..delivered(40, 12, 1) };
        assert_eq!(watch.see(&behind, false), None);
        let gap = watch.see(&delivered(90, 13, 1), false).unwrap();
        assert_eq!((gap.after, gap.removed(35)), (40, 0));
        assert!(gap.removed(80) > 0);
    }

    #[test]
    fn redeliveries_are_no_gap() {
        let mut watch = LossWatch::starting(10, 10);
        assert_eq!(watch.see(&delivered(4, 11, 2), true), None);
        assert_eq!(watch.see(&delivered(11, 12, 1), true), None);
        assert_eq!(watch.see(&delivered(11, 13, 2), true), None);
        assert_eq!(watch.see(&delivered(12, 14, 1), true), None);
    }

    #[test]
    fn the_first_delivery_has_nothing_before_it() {
        assert_eq!(LossWatch::default().see(&delivered(500, 3, 1), true), None);
    }
}
