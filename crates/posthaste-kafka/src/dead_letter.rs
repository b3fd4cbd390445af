//! Dead letters: a compacted topic for each group, one record for each letter.
//!
//! The key of a record names the letter. Compaction keeps it, however old it is, until a record
//! without a value follows under the same key.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use posthaste_core::broker::{DeadLetterPage, DeadLetterQuery};
use posthaste_core::{Cause, DeadLetter, Error, ErrorKind, GroupName, LetterId, Result, TopicName};
use rdkafka::message::OwnedHeaders;
use tokio::time::Instant;
use uuid::Uuid;

use crate::completion::{Fate, Waiting};
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::letters::{self, PARTITION, Place};
use crate::producer::Record;
use crate::{convert, groups, names, private, topology};

/// What is kept of a cause that is too long for its message.
const SHORT_CAUSE: usize = 100;
/// How many letters a replay has in memory.
const AT_ONCE: usize = 64;

/// Stores letters. One outcome for each, in order.
///
/// # Cancel safety
/// When dropped, each letter is stored or not.
pub(crate) async fn store(hub: &Hub, letters: &[&DeadLetter]) -> Vec<Result<()>> {
    let mut outcomes = send(hub, letters).await;
    let until = hub.deadline();
    let mut late = Vec::new();
    for (letter, outcome) in letters.iter().copied().zip(&mut outcomes) {
        if is_missing(outcome) {
            // The topic is created once more, because nothing else could become of the message.
            match ensure(hub, &letter.topic, &letter.group, until).await {
                Ok(()) => late.push((letter, outcome)),
                Err(error) => *outcome = Err(error),
            }
        }
    }
    if !late.is_empty() {
        let letters: Vec<_> = late.iter().map(|(letter, _)| *letter).collect();
        for ((_, outcome), stored) in late.into_iter().zip(send(hub, &letters).await) {
            *outcome = stored;
        }
    }
    outcomes
}

fn is_missing<T>(outcome: &Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Creates the topic for a group's dead letters unless it is there, and waits until it can be
/// used.
///
/// # Errors
/// What the broker has against it, or what keeps it from answering.
///
/// # Cancel safety
/// When dropped, the topic is made or not.
pub(crate) async fn ensure(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    until: Instant,
) -> Result<()> {
    let name = names::dead_letter_topic(topic, group);
    topology::create_private(hub, &name, (1, &[("cleanup.policy", "compact")]), until).await
}

/// A page of a group's letters.
///
/// # Errors
/// `NotFound` if there is no such group and it has left no letters, and for a name that is none of
/// a letter.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn list(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    query: &DeadLetterQuery,
) -> Result<DeadLetterPage> {
    let until = hub.deadline();
    // One that was removed since still has its place.
    let place = |letter| Place::of(letter).ok_or_else(|| no_letter(letter));
    let after = query.after.as_ref().map(place).transpose()?;
    let name = names::dead_letter_topic(topic, group);
    let page = match letters::page(hub, &name, after, query.limit, until).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Nobody has failed yet; but is there anybody?
            exists(hub, topic, group).await?;
            Vec::new()
        }
        page => page?,
    };
    Ok(DeadLetterPage::new(page, true))
}

/// Sends letters to the group's private channel, the oldest first, and removes each that has
/// arrived there.
///
/// # Errors
/// For each letter `NotFound`, also if there is no group that could get it; for all of them what
/// keeps the broker from answering.
///
/// # Cancel safety
/// When dropped, a letter may have been sent and not removed.
pub(crate) async fn replay(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Result<Vec<Result<()>>> {
    let name = names::dead_letter_topic(topic, group);
    let found = look_up(hub, &name, letters).await?;
    let mut places: Vec<Place> = found.iter().flatten().copied().collect();
    // As they were given up, which is the order of their key.
    places.sort_unstable_by_key(|place| place.offset);
    let mut failed = None;
    if !places.is_empty() {
        match exists(hub, topic, group).await {
            // The copies would be nobody's, and expire.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                places.clear();
                failed = Some(error);
            }
            there => there?,
        }
    }
    let mut outcomes = HashMap::with_capacity(places.len());
    for step in places.chunks(AT_ONCE) {
        match letters::fetch(hub, &name, step.to_vec(), hub.deadline()).await {
            Ok(fetched) => outcomes.extend(send_back(hub, topic, group, &name, fetched).await),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let outcome = |(found, letter): (Result<Place>, _)| {
        // Without an outcome it was not read: it was removed meanwhile, unless reading failed.
        let missing = || Err(failed.as_ref().map_or_else(|| no_letter(letter), Error::duplicate));
        outcomes.remove(&found?).unwrap_or_else(missing)
    };
    Ok(found.into_iter().zip(letters).map(outcome).collect())
}

/// Removes letters for good.
///
/// # Errors
/// For each letter `NotFound`; for all of them what keeps the broker from answering.
///
/// # Cancel safety
/// When dropped, each letter is removed or not.
pub(crate) async fn discard(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Result<Vec<Result<()>>> {
    let name = names::dead_letter_topic(topic, group);
    let found = look_up(hub, &name, letters).await?;
    let keys: Vec<Uuid> = found.iter().flatten().map(|place| place.key).collect();
    let mut removed = remove(hub, &name, &keys).await.into_iter();
    let outcome = |found: Result<Place>| {
        found?;
        removed.next().unwrap_or_else(|| Err(error::closed()))
    };
    Ok(found.into_iter().map(outcome).collect())
}

/// # Errors
/// `NotFound` if there is no such topic or group.
async fn exists(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    let found = topology::find(hub, topic, hub.deadline()).await?;
    groups::verify(hub, topic, &found, group).await
}

/// The places of those letters that stand there: one reading for all. A letter that is named twice
/// is there once.
async fn look_up(hub: &Hub, name: &str, letters: &[LetterId]) -> Result<Vec<Result<Place>>> {
    let asked: HashSet<Place> = letters.iter().filter_map(Place::of).collect();
    let mut standing = HashSet::new();
    if !asked.is_empty() {
        match letters::standing(hub, name, asked, hub.deadline()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => standing = found?,
        }
    }
    let mut find = |letter| {
        let place = Place::of(letter).filter(|place| standing.remove(place));
        place.ok_or_else(|| no_letter(letter))
    };
    Ok(letters.iter().map(&mut find).collect())
}

/// Sends copies of letters to the group, and removes those that were confirmed.
async fn send_back(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    name: &str,
    letters: Vec<(Place, DeadLetter)>,
) -> Vec<(Place, Result<()>)> {
    let copies = letters.iter().map(|(_, letter)| {
        // It starts anew: whoever replays it believes that it can be handled now.
        private::Copy { envelope: &letter.envelope, attempts: 0, due: None }
    });
    let sent = private::store(hub, topic, group, &copies.collect::<Vec<_>>()).await;
    let arrived = letters.iter().zip(&sent).filter(|(_, sent)| sent.is_ok());
    let keys: Vec<Uuid> = arrived.map(|((place, _), _)| place.key).collect();
    let mut removed = remove(hub, name, &keys).await.into_iter();
    let outcome = |((place, _), sent): ((Place, _), Result<()>)| {
        let removed = sent.and_then(|()| removed.next().unwrap_or_else(|| Err(error::closed())));
        (place, removed)
    };
    letters.into_iter().zip(sent).map(outcome).collect()
}

/// Writes a tombstone for each key, and awaits that the broker has it.
async fn remove(hub: &Hub, name: &str, keys: &[Uuid]) -> Vec<Result<()>> {
    let tombstone = |key: &Uuid| Entry {
        topic: Cow::Borrowed(name),
        key: *key,
        payload: None,
        headers: OwnedHeaders::new(),
    };
    write(hub, keys.iter().map(tombstone).collect()).await
}

/// Sends each letter under a name of its own. Each stays, also of a message that was given up
/// before: only who names it removes it.
async fn send(hub: &Hub, letters: &[&DeadLetter]) -> Vec<Result<()>> {
    let limit = hub.config.max_message_bytes();
    let entries = letters.iter().map(|letter| Entry {
        topic: Cow::Owned(names::dead_letter_topic(&letter.topic, &letter.group)),
        key: Uuid::now_v7(),
        payload: Some(letter.envelope.payload()),
        headers: convert::letter_headers(&fitting(letter, limit)),
    });
    write(hub, entries.collect()).await
}

/// A record in a topic for dead letters.
struct Entry<'a> {
    topic: Cow<'a, str>,
    key: Uuid,
    payload: Option<&'a [u8]>,
    headers: OwnedHeaders,
}

/// Hands everything to the client, then awaits what becomes of it. One outcome for each, in order.
async fn write(hub: &Hub, entries: Vec<Entry<'_>>) -> Vec<Result<()>> {
    let until = hub.deadline();
    let waiting = Waiting::for_batch(entries.len());
    let mut handed_over = Vec::with_capacity(entries.len());
    for (at, Entry { topic, key, payload, headers }) in entries.into_iter().enumerate() {
        let producer = async { hub.producer(hub.find(&topic, until).await?, until).await };
        let refused = match producer.await {
            Ok(producer) => {
                let key = key.to_string();
                let key = Some(key.as_bytes());
                let partition = Some(PARTITION);
                let record = Record { topic: &topic, partition, key, payload, headers };
                // Also what the client does not take is told there.
                producer.send(record, waiting.ticket(at), until).await;
                None
            }
            Err(error) => {
                waiting.forgo(1);
                Some(error)
            }
        };
        handed_over.push((topic, refused));
    }
    waiting.complete().await;
    let outcome = |(at, (topic, refused)): (usize, (Cow<'_, str>, Option<Error>))| {
        match (refused, waiting.fate(at)) {
            (Some(error), _) => Err(error),
            (None, Some(Fate::Stored { .. })) => Ok(()),
            (None, Some(Fate::Failed { code, maybe_written })) => {
                // What is known of the topic may be old.
                hub.forget(&topic);
                Err(hub.not_stored(code, maybe_written))
            }
            // Whoever was handed over has a ticket.
            (None, None) => Err(error::closed()),
        }
    };
    handed_over.into_iter().enumerate().map(outcome).collect()
}

/// The letter with no more of its cause than there is room for. Every publish keeps room for a
/// short one free.
fn fitting(letter: &DeadLetter, limit: usize) -> Cow<'_, DeadLetter> {
    /// As much as `convert` keeps free.
    const RESERVE: usize = 2_048;
    let Some(cause) = &letter.cause else { return Cow::Borrowed(letter) };
    let causes: usize = cause.chain().iter().map(String::len).sum();
    // What is no plain text in a header takes more.
    if convert::size(&letter.envelope) + RESERVE + 3 * causes <= limit {
        return Cow::Borrowed(letter);
    }
    let mut short = letter.clone();
    let text = cause.chain().first().map_or("", String::as_str);
    short.cause = Some(Cause::new(text.chars().take(SHORT_CAUSE).collect::<String>()));
    Cow::Owned(short)
}

#[cold]
fn no_letter(letter: &LetterId) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such dead letter")
        .with_context("letter", letter.as_str().escape_debug())
        .with_broker(BROKER)
}

#[cfg(test)]
pub(crate) mod tests {
    use posthaste_core::broker::StoredLetter;
    use posthaste_core::{Envelope, Reason};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::*;
    use crate::config::KafkaConfig;

    pub(crate) fn names() -> (TopicName, GroupName) {
        (TopicName::new("orders").unwrap(), GroupName::new("billing").unwrap())
    }

    pub(crate) fn letter(number: usize) -> DeadLetter {
        let envelope = Envelope::builder("test").source("/it").key(vec![0xff, 7]);
        let envelope = envelope.payload(number.to_string()).build().unwrap();
        let (topic, group) = names();
        let mut letter = DeadLetter::new(envelope, Reason::AttemptsExhausted, topic, group);
        letter.cause = Some(Cause::new("no luck").handler("charge"));
        letter.attempts = 3;
        letter
    }

    /// The topic for the letters, on a broker inside of the client.
    pub(crate) async fn simulated() -> (MockCluster<'static, DefaultProducerContext>, Hub) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders__billing__dlq", 1, 1).unwrap();
        let hub = Hub::connect(KafkaConfig::new(cluster.bootstrap_servers())).await.unwrap();
        (cluster, hub)
    }

    #[tokio::test]
    async fn what_is_stored_is_listed_until_it_is_discarded() {
        let (_cluster, hub) = simulated().await;
        let (topic, group) = names();
        let letters: Vec<_> = (0..4).map(letter).collect();
        let stored = store(&hub, &letters.iter().collect::<Vec<_>>()).await;
        assert!(stored.len() == 4 && stored.iter().all(Result::is_ok), "{stored:?}");
        let first = DeadLetterQuery::first(10);
        let listed = list(&hub, &topic, &group, &first).await.unwrap().letters;
        assert_eq!(listed.len(), 4);
        for (found, letter) in listed.iter().zip(&letters) {
            let found = &found.letter;
            assert_eq!((&found.envelope, &found.cause), (&letter.envelope, &letter.cause));
            assert_eq!((&found.reason, found.attempts), (&letter.reason, 3));
        }
        let gone = [listed[1].id.clone(), listed[3].id.clone()];
        let outcomes = discard(&hub, &topic, &group, &gone).await.unwrap();
        assert!(outcomes.len() == 2 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let left = list(&hub, &topic, &group, &first).await.unwrap().letters;
        let ids = |letters: &[StoredLetter]| -> Vec<_> {
            letters.iter().map(|letter| letter.id.clone()).collect()
        };
        assert_eq!(ids(&left), [listed[0].id.clone(), listed[2].id.clone()]);
    }

    #[test]
    fn a_cause_is_cut_where_the_message_leaves_no_room() {
        let envelope = Envelope::builder("t").source("/s").payload(vec![0; 5_000]).build().unwrap();
        let (topic, group) = (TopicName::new("t").unwrap(), GroupName::new("g").unwrap());
        let mut letter = DeadLetter::new(envelope, Reason::AttemptsExhausted, topic, group);
        letter.cause = Some(Cause::new("x".repeat(3_000)));
        let length = |limit| fitting(&letter, limit).cause.as_ref().unwrap().chain()[0].len();
        // Core has a bound of its own.
        assert!(length(20_000) > SHORT_CAUSE);
        assert_eq!(length(7_500), SHORT_CAUSE);
    }
}
