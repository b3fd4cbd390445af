//! The private topic of a group: copies that wait, and replays, for this group alone.
//!
//! Kafka has no timers. So a copy that waits for long stands in a partition whose copies all wait
//! equally long there: the first is always the next that is due, readers keep none in memory, and
//! one hour does not stand before ten seconds. When its time in that partition is over, it moves
//! to the one with the longest wait that is not too long for it, and what is left of half a minute
//! at most is waited for in memory. Such moves are no deliveries.

use std::time::Duration;

use posthaste_core::{Envelope, Error, GroupName, Result, Timestamp, TopicName};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::completion::{Fate, Waiting};
use crate::hub::Hub;
use crate::producer::Record;
use crate::{convert, error, names, topology};

/// How long copies wait in the partitions of a private topic, from the first on. Who reads with
/// other numbers than the writer is early or late by a hop, but never before the copy's own time.
const WAITS: [Duration; 6] = [
    Duration::ZERO,
    IN_MEMORY,
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(3_600),
    Duration::from_secs(6 * 3_600),
];

/// What is due within that time is waited for in memory.
pub(crate) const IN_MEMORY: Duration = Duration::from_secs(30);

/// A message that goes to the private topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy<'a> {
    pub(crate) envelope: &'a Envelope,
    /// Deliveries before this copy.
    pub(crate) attempts: u32,
    /// Not before that.
    pub(crate) due: Option<Timestamp>,
}

/// Creates the topic unless it is there. It keeps everything: what is settled of it is removed by
/// who reads it, with [`forget`].
///
/// # Errors
/// What keeps the broker from answering, or from making it.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn ensure(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    until: Instant,
) -> Result<()> {
    let name = names::retry_topic(topic, group);
    let partitions = i32::try_from(WAITS.len()).unwrap_or(1);
    let settings =
        [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    topology::create_private(hub, &name, (partitions, &settings), until).await
}

/// Stores copies. One outcome for each, in order.
///
/// # Cancel safety
/// When dropped, each copy may be stored or not.
pub(crate) async fn store(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    copies: &[Copy<'_>],
) -> Vec<Result<()>> {
    let until = hub.deadline();
    let name = names::retry_topic(topic, group);
    let ready = async {
        // Nothing else could become of the messages: a topic that is gone is made once more.
        ensure(hub, topic, group, until).await?;
        let known = hub.find(&name, until).await?;
        Ok::<_, Error>((hub.producer(known, until).await?, known.partitions))
    };
    let (producer, partitions) = match ready.await {
        Ok(ready) => ready,
        Err(error) => return copies.iter().map(|_| Err(error.duplicate())).collect(),
    };
    let (now, waiting) = (Timestamp::now(), Waiting::for_batch(copies.len()));
    for (at, copy) in copies.iter().enumerate() {
        let record = Record {
            topic: &name,
            // It may have been made with fewer.
            partition: Some(
                partition(left(copy.due, now)).min(partitions.saturating_sub(1)).max(0),
            ),
            key: copy.envelope.key(),
            payload: Some(copy.envelope.payload()),
            headers: convert::copy_headers(copy),
        };
        // Also what the client does not take is told there.
        producer.send(record, waiting.ticket(at), until).await;
    }
    drop(producer);
    waiting.complete().await;
    let outcome = |at| match waiting.fate(at) {
        Some(Fate::Stored { .. }) => Ok(()),
        Some(Fate::Failed { code, maybe_written }) => {
            if matches!(
                code,
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic
            ) {
                hub.forget(&name);
            }
            Err(hub.not_stored(code, maybe_written))
        }
        None => Err(error::closed()),
    };
    (0..copies.len()).map(outcome).collect()
}

/// Removes what lies below those offsets of the partitions, all of it settled.
///
/// # Errors
/// What the broker has against it, or what keeps it from answering.
///
/// # Cancel safety
/// When dropped, it is removed or not.
pub(crate) async fn forget(hub: &Hub, name: &str, settled: &[(i32, i64)]) -> Result<()> {
    let until = hub.deadline();
    let removing = {
        let mut list = TopicPartitionList::with_capacity(settled.len());
        for (partition, below) in settled {
            let added = list.add_partition_offset(name, *partition, Offset::Offset(*below));
            added.map_err(|native| error::of(&native))?;
        }
        hub.admin()?.delete_records(&list, &topology::options(until))
    };
    let removed = topology::answered(hub, until, removing).await?;
    removed.elements().iter().try_for_each(|one| one.error().map_err(|native| error::of(&native)))
}

fn left(due: Option<Timestamp>, now: Timestamp) -> Duration {
    due.map_or(Duration::ZERO, |due| due.since(now))
}

/// Where a copy goes that has to wait so long.
fn partition(left: Duration) -> i32 {
    let fits = WAITS.iter().rposition(|wait| *wait <= left).unwrap_or(0);
    i32::try_from(fits).unwrap_or(0)
}

/// When a copy that came to that partition then may go on.
pub(crate) fn released(
    partition: i32,
    stored_at: Option<Timestamp>,
    due: Option<Timestamp>,
) -> Option<Timestamp> {
    let wait = usize::try_from(partition).ok().and_then(|at| WAITS.get(at));
    let over = stored_at.zip(wait).map(|(stored_at, wait)| stored_at + *wait);
    // What does not say when it is due is due.
    due.map(|due| over.map_or(due, |over| over.min(due)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_copy_goes_where_it_does_not_wait_too_long() {
        let at = [0, 29, 30, 119, 120, 599, 600, 3_599, 3_600, 21_599, 21_600, u64::MAX]
            .map(|seconds| partition(Duration::from_secs(seconds)));
        assert_eq!(at, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }

    #[test]
    fn every_wait_is_reached_by_hops_and_none_is_too_long() {
        for seconds in [31_u32, 59, 150, 1_000, 9_999, 100_000] {
            let mut left = SECOND * seconds;
            let mut hops = 0;
            while left > IN_MEMORY {
                let wait = WAITS[usize::try_from(partition(left)).unwrap()];
                assert!(wait <= left && !wait.is_zero(), "{left:?}");
                left -= wait;
                hops += 1;
            }
            assert!(hops <= 30, "{seconds} s take {hops} hops");
        }
    }

    #[test]
    fn a_copy_is_released_when_its_wait_is_over_or_when_it_is_due() {
        let (then, due) = (Timestamp::from_micros(0), Timestamp::from_micros(40_000_000));
        assert_eq!(released(1, Some(then), Some(due)), Some(then + IN_MEMORY));
        assert_eq!(released(2, Some(then), Some(due)), Some(due));
        assert_eq!(released(1, None, Some(due)), Some(due));
        assert_eq!(released(77, Some(then), Some(due)), Some(due));
        assert_eq!(released(1, Some(then), None), None);
    }
}
