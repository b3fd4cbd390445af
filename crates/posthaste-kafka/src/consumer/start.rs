//! Where a partition is read from: what the group has committed, else where it shall start.

use std::collections::{BTreeMap, HashMap};
use std::thread;
use std::time::Duration;

use posthaste_core::broker::Start;
use posthaste_core::{Error, ErrorKind, Result};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::assignment::Remembered;
use super::commit::{self, Committed, Entry};
use super::context::Reader;
use super::topics::Topics;
use crate::error::{self, BROKER};
use crate::groups;
use crate::tracker::{Again, Progress, Tracker};

/// The pause after a question that failed in passing.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one answer is awaited.
const ANSWER: Duration = Duration::from_secs(5);

/// How a partition begins.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) partition: i32,
    pub(super) tracker: Tracker,
    /// How many messages were removed before the group read them.
    pub(super) lost: Option<u64>,
    /// Records that were delivered before, by this member or another one.
    pub(super) delivered: BTreeMap<i64, Again>,
}

impl Beginning {
    pub(super) const fn new(partition: i32, tracker: Tracker) -> Self {
        Self { partition, tracker, lost: None, delivered: BTreeMap::new() }
    }
}

/// Asks again until then what fails in passing.
pub(crate) fn patiently<T>(
    until: Instant,
    mut ask: impl FnMut(Duration) -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let failed = match ask(left.clamp(Duration::from_millis(1), ANSWER)) {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let passes = matches!(
            error::of(&failed).kind(),
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Backpressure
        );
        if !passes || Instant::now() + PAUSE >= until {
            return Err(failed);
        }
        thread::park_timeout(PAUSE);
    }
}

/// The first and the last offset of a partition that can be read, the last one exclusive.
pub(super) fn ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    (topic, partition): (&str, i32),
    until: Instant,
) -> Result<(i64, i64), KafkaError> {
    patiently(until, |limit| consumer.fetch_watermarks(topic, partition, limit))
}

/// Where partitions start that have no commit yet. The starts are committed, so that whoever
/// joins later begins there too.
pub(super) fn found(
    client: &Reader,
    partitions: &[i32],
    start: Start,
    commits: bool,
    until: Instant,
) -> Result<HashMap<i32, i64>> {
    let topics = &client.context().topics;
    // The ends come first: should somebody else commit meanwhile, they are still not behind what
    // was confirmed after that, whoever commits last.
    let mut starts = resolve(client, &topics.main, partitions, start, until)?;
    if !commits {
        return Ok(starts);
    }
    let ask = |limit| commit::committed(client, topics, partitions, limit);
    let committed = patiently(until, ask).map_err(|native| error::of(&native))?;
    starts.retain(|partition, _| !committed.iter().any(|one| one.partition == *partition));
    let entry = |(partition, offset): (&i32, &i64)| Entry {
        partition: *partition,
        offset: *offset,
        metadata: String::new(),
    };
    let entries: Vec<_> = starts.iter().map(entry).collect();
    let commit = |_| match commit::commit(client, topics, &entries, CommitMode::Sync) {
        // A group with members takes commits from them only, and they have made theirs.
        Err(native) if groups::is_refused_by_members(&native) => Ok(()),
        other => other,
    };
    patiently(until, commit).map_err(|native| error::of(&native))?;
    Ok(starts)
}

/// Where partitions start that have no commit yet, as of now.
///
/// # Errors
/// `Invalid` for an offset that no partition has; what keeps the broker from answering.
pub(super) fn resolve<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    start: Start,
    until: Instant,
) -> Result<HashMap<i32, i64>> {
    let mut found = HashMap::with_capacity(partitions.len());
    let mut reached = false;
    for partition in partitions {
        let ends = ends(consumer, (topic, *partition), until);
        let (first, end) = ends.map_err(|native| error::of(&native))?;
        let at = match start {
            Start::Created | Start::Latest | Start::At(_) => end,
            Start::Earliest => first,
            Start::AtOffset { partition: only, offset } => {
                let meant = only.is_none_or(|only| i64::from(only) == i64::from(*partition));
                let offset = i64::try_from(offset).unwrap_or(i64::MAX);
                reached |= meant && offset <= end;
                if meant { offset.clamp(first, end.max(first)) } else { end }
            }
            _ => return Err(Error::unsupported("this start is not known").with_broker(BROKER)),
        };
        found.insert(*partition, at);
    }
    match start {
        Start::AtOffset { offset, .. } if !reached && !partitions.is_empty() => {
            Err(Error::invalid("there is no such offset yet, or no such partition")
                .with_context("offset", offset)
                .with_broker(BROKER))
        }
        Start::At(time) => {
            // The broker counts in milliseconds: the first that is not before that time.
            let millis = time.as_micros().saturating_add(999).div_euclid(1_000);
            let by_time =
                patiently(until, |limit| by_time(consumer, topic, partitions, millis, limit));
            found.extend(by_time.map_err(|native| error::of(&native))?);
            Ok(found)
        }
        _ => Ok(found),
    }
}

/// The first offsets that were stored at that time or later, where there are such.
fn by_time<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    millis: i64,
    limit: Duration,
) -> Result<Vec<(i32, i64)>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition_offset(topic, *partition, Offset::Offset(millis))?;
    }
    let list = consumer.offsets_for_times(list, limit)?;
    let mut found = Vec::with_capacity(partitions.len());
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            found.push((element.partition(), offset));
        }
    }
    Ok(found)
}

/// Begins partitions where their last owner ended, or at their starts. Those that are in neither
/// are new in the topic: they are read from their first message.
pub(super) fn begin<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &Topics,
    partitions: &[i32],
    (start_of, recall): (impl Fn(i32) -> Option<i64>, impl Fn(i32) -> Option<Remembered>),
    until: Instant,
) -> Result<Vec<Beginning>, KafkaError> {
    let committed =
        patiently(until, |limit| commit::committed(consumer, topics, partitions, limit))?;
    let mut beginnings = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let last = committed.iter().find(|committed| committed.partition == *partition);
        let (first, end) = ends(consumer, topics.place(*partition), until)?;
        beginnings.push(match last {
            Some(Committed { offset, progress, .. }) => {
                let progress = progress.as_ref();
                match recall(*partition).filter(|known| is_own(known, progress, end)) {
                    Some(known) => go_on(*partition, known, (first, end)),
                    None => resume(*partition, *offset, progress, (first, end)),
                }
            }
            None => {
                let at = start_of(*partition).unwrap_or(first).max(first);
                Beginning::new(*partition, Tracker::begin(at))
            }
        });
    }
    Ok(beginnings)
}

/// Whether nobody had the partition since this member lost it.
fn is_own(known: &Remembered, committed: Option<&Progress>, end: i64) -> bool {
    let owner = committed.is_some_and(|committed| committed.owner == known.owner);
    owner && known.progress.watermark <= end
}

/// The partition comes back to the member that lost it, and that knows more than it committed.
fn go_on(partition: i32, known: Remembered, (first, end): (i64, i64)) -> Beginning {
    let Remembered { mut progress, delivered, .. } = known;
    // It has not ended: what it had is known one by one.
    progress.clean = true;
    let tracker = Tracker::resume(progress.watermark.max(first), &progress, Some(end));
    Beginning { delivered, ..Beginning::new(partition, tracker) }
}

fn resume(
    partition: i32,
    offset: i64,
    progress: Option<&Progress>,
    (first, end): (i64, i64),
) -> Beginning {
    let gone = offset < first || offset > end;
    // What lies behind the end was in another topic of that name, or is cut off.
    let lost = gone.then(|| u64::try_from(first.saturating_sub(offset)).unwrap_or(0));
    let at = if gone { first } else { offset };
    let Some(progress) = progress.filter(|_| offset <= end) else {
        return Beginning { lost, ..Beginning::new(partition, Tracker::begin(at)) };
    };
    let tracker = Tracker::resume(at, progress, Some(end));
    // Other records may be behind the end later.
    let there = progress.again.iter().filter(|one| (at..end).contains(&one.offset));
    let delivered = there.map(|one| (one.offset, *one)).collect();
    Beginning { partition, tracker, lost, delivered }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_below_the_first_message_is_a_loss() {
        let lost = |offset, ends| {
            let beginning = resume(0, offset, None, ends);
            (beginning.tracker.position(), beginning.lost)
        };
        assert_eq!(lost(5, (0, 9)), (5, None));
        assert_eq!(lost(9, (0, 9)), (9, None));
        assert_eq!(lost(5, (7, 9)), (7, Some(2)));
        // Behind the end: how much is not known.
        assert_eq!(lost(50, (3, 9)), (3, Some(0)));
    }

    #[test]
    fn what_does_not_pass_is_not_asked_again() {
        let mut times = 0;
        let until = Instant::now() + Duration::from_secs(60);
        let asked: Result<(), _> = patiently(until, |_| {
            times += 1;
            Err(KafkaError::Global(rdkafka::error::RDKafkaErrorCode::GroupAuthorizationFailed))
        });
        assert!(asked.is_err());
        assert_eq!(times, 1);
    }
}
