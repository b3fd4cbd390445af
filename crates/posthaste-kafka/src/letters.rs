//! Reading the topic with a group's dead letters.
//!
//! A letter stands there until a record of its key follows that has no value, a tombstone. The
//! broker removes both some time after. So what stands is known to who has read to the end, and
//! every answer here costs that, from the first place that matters.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use posthaste_core::broker::StoredLetter;
use posthaste_core::{DeadLetter, LetterId, Result, Retry};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;
use uuid::Uuid;

use crate::convert::{self, Origin};
use crate::error;
use crate::hub::Hub;
use crate::offsets::{self, Offsets};
use crate::topology::Found;

/// All letters are in one partition, so that an offset says which one is older.
pub(crate) const PARTITION: i32 = 0;

/// The client wants the name of a group also where it joins none and commits nothing.
const NO_GROUP: &str = "posthaste-letters";
/// One look for letters: a deadline is noticed within it.
const LOOK: Duration = Duration::from_millis(100);
/// How many letters are remembered by their places in one reading. More are needed only for a page
/// before which so many have been removed.
const WINDOW: usize = 65_536;

/// Where a letter is, and which one it is.
///
/// Both make the id of a letter. The offset says from where to read: with the key alone each page
/// and each removal would begin at the start of the topic. The key says that it is that letter,
/// and not another one in a topic that was deleted and made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) offset: i64,
    pub(crate) key: Uuid,
}

impl Place {
    pub(crate) fn id(self) -> LetterId {
        LetterId::new(format!("{}.{}", self.offset, self.key))
    }

    /// The place in an id of [`id`](Self::id). `None` for all other texts.
    pub(crate) fn of(letter: &LetterId) -> Option<Self> {
        let (offset, key) = letter.as_str().split_once('.')?;
        let place = Self { offset: offset.parse().ok()?, key: Uuid::try_parse(key).ok()? };
        // Both can be written in other ways than ours.
        (place.offset >= 0 && place.id() == *letter).then_some(place)
    }
}

/// The oldest letters behind a place, at most so many.
///
/// # Errors
/// `NotFound` if there is no such topic; what keeps the broker from answering.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn page(
    hub: &Hub,
    name: &str,
    after: Option<Place>,
    limit: usize,
    until: Instant,
) -> Result<Vec<StoredLetter>> {
    let read = move |offsets: &Offsets| {
        let from = after.map_or(0, |after| after.offset.saturating_add(1));
        let places = oldest(offsets, from, limit, WINDOW)?;
        let stored = |(place, letter): (Place, _)| StoredLetter::new(place.id(), letter);
        Ok(fetched(offsets, &places)?.into_iter().map(stored).collect())
    };
    ask(hub, name, until, read).await
}

/// Which of these letters stand there.
///
/// # Errors
/// As [`page`].
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn standing(
    hub: &Hub,
    name: &str,
    asked: HashSet<Place>,
    until: Instant,
) -> Result<HashSet<Place>> {
    let read = move |offsets: &Offsets| {
        let Some(from) = asked.iter().map(|place| place.offset).min() else {
            return Ok(HashSet::new());
        };
        let found = Survey::take(offsets, bounds(offsets, from)?, asked.len(), |place| {
            asked.contains(place)
        })?;
        Ok(found.places().collect())
    };
    ask(hub, name, until, read).await
}

/// The letters at these places, in their order. One that is not there any more is left out.
///
/// # Errors
/// As [`page`].
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn fetch(
    hub: &Hub,
    name: &str,
    mut places: Vec<Place>,
    until: Instant,
) -> Result<Vec<(Place, DeadLetter)>> {
    places.sort_unstable_by_key(|place| place.offset);
    ask(hub, name, until, move |offsets| fetched(offsets, &places)).await
}

async fn ask<T: Send + 'static>(
    hub: &Hub,
    name: &str,
    until: Instant,
    call: impl FnOnce(&Offsets) -> Result<T> + Send + 'static,
) -> Result<T> {
    offsets::ask(hub, NO_GROUP, &Found::letters(name), until, call).await
}

/// The places of the oldest letters. In memory are as many as were asked for, or the window.
fn oldest(offsets: &Offsets, from: i64, limit: usize, window: usize) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    if limit == 0 {
        return Ok(places);
    }
    // The end stays the same: tombstones that come meanwhile count for the next page.
    let (mut from, end) = bounds(offsets, from)?;
    loop {
        let left = limit - places.len();
        let found = Survey::take(offsets, (from, end), left.max(window), |_| true)?;
        let mut found_places: Vec<_> = found.places().collect();
        found_places.sort_unstable_by_key(|place| place.offset);
        found_places.truncate(left);
        places.append(&mut found_places);
        match found.next {
            // So many have been removed.
            Some(next) if places.len() < limit => from = next,
            _ => return Ok(places),
        }
    }
}

/// From where there is something to read, and to where.
fn bounds(offsets: &Offsets, from: i64) -> Result<(i64, i64)> {
    let one = |places: Vec<i64>| places.first().copied().unwrap_or(0);
    let start = one(offsets.places(Offset::Beginning)?);
    Ok((from.max(start), one(offsets.places(Offset::End)?)))
}

/// What stands in a part of the topic.
struct Survey {
    standing: HashMap<Uuid, i64>,
    /// The first letter for which there was no room.
    next: Option<i64>,
}

impl Survey {
    /// Reads all of that part, and remembers the first letters that are wanted and stand.
    fn take(
        offsets: &Offsets,
        part: (i64, i64),
        most: usize,
        is_wanted: impl Fn(&Place) -> bool,
    ) -> Result<Self> {
        let mut survey = Self { standing: HashMap::new(), next: None };
        read(offsets, part, |message| {
            let Some(key) = key(message) else { return };
            // What comes later under the same key counts.
            survey.standing.remove(&key);
            let place = Place { offset: message.offset(), key };
            // Once there was no room, only removals count: the rest is for the next survey.
            if survey.next.is_some() || message.payload().is_none() || !is_wanted(&place) {
                return;
            }
            if letter(message, Bytes::new()).is_none() {
                return;
            }
            if survey.standing.len() < most {
                survey.standing.insert(key, place.offset);
            } else {
                survey.next = Some(place.offset);
            }
        })?;
        Ok(survey)
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.standing.iter().map(|(key, offset)| Place { offset: *offset, key: *key })
    }
}

/// The letters at these places, which are in order.
fn fetched(offsets: &Offsets, places: &[Place]) -> Result<Vec<(Place, DeadLetter)>> {
    let mut found = Vec::with_capacity(places.len());
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(found) };
    read(offsets, (first.offset, last.offset.saturating_add(1)), |message| {
        let at = places.binary_search_by_key(&message.offset(), |place| place.offset);
        let place = at.ok().and_then(|at| places.get(at));
        if let (Some(place), Some(payload)) = (place, message.payload())
            && key(message) == Some(place.key)
            && let Some(letter) = letter(message, Bytes::copy_from_slice(payload))
        {
            found.push((*place, letter));
        }
    })?;
    Ok(found)
}

/// Reads a part of the topic, as far as it exists.
fn read(
    offsets: &Offsets,
    (from, end): (i64, i64),
    mut each: impl FnMut(&BorrowedMessage<'_>),
) -> Result<()> {
    if from >= end {
        return Ok(());
    }
    let consumer = offsets.consumer();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(offsets.topic(), PARTITION, Offset::Offset(from))
        .map_err(|native| error::of(&native))?;
    consumer.assign(&list).map_err(|native| error::of(&native))?;
    drop(list);
    loop {
        match consumer.poll(LOOK.min(offsets.left()?)) {
            None => {}
            Some(Ok(message)) => {
                if message.offset() < end {
                    each(&message);
                }
                if message.offset().saturating_add(1) >= end {
                    return Ok(());
                }
            }
            // The last records of the part were compacted away.
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(native)) => match native.rdkafka_error_code() {
                // Reading needs no right to the group, which is none.
                Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {}
                // The client tries again by itself.
                Some(code) if error::code(code).1 == Retry::Transient => {}
                _ => return Err(error::of(&native)),
            },
        }
    }
}

/// The key of a letter or a tombstone, if it is one that this library writes.
fn key(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    let text = message.key()?;
    let key = Uuid::try_parse_ascii(text).ok()?;
    // A tombstone has to have the same bytes.
    let mut buffer = Uuid::encode_buffer();
    (key.hyphenated().encode_lower(&mut buffer).as_bytes() == text).then_some(key)
}

fn letter(message: &BorrowedMessage<'_>, payload: Bytes) -> Option<DeadLetter> {
    let origin = Origin {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        stored_at: convert::stored_at(message.timestamp()),
    };
    convert::letter(message.headers(), Some(payload), &origin)
}

#[cfg(test)]
mod tests {
    use posthaste_core::broker::DeadLetterQuery;

    use super::*;
    use crate::dead_letter;
    use crate::dead_letter::tests::{letter, names, simulated};

    /// With room for few places, what was removed makes it read several times.
    #[tokio::test]
    async fn a_page_is_the_same_in_a_window_of_any_size() {
        const COUNT: usize = 20;
        let (_cluster, hub) = simulated().await;
        let (topic, group) = names();
        let letters: Vec<_> = (0..COUNT).map(letter).collect();
        dead_letter::store(&hub, &letters.iter().collect::<Vec<_>>()).await;
        let all = DeadLetterQuery::first(COUNT);
        let all = dead_letter::list(&hub, &topic, &group, &all).await.unwrap().letters;
        let all: Vec<_> = all.into_iter().map(|letter| letter.id).collect();
        assert_eq!(all.len(), COUNT);
        let is_gone = |at: usize| at < 9 || (11..16).contains(&at);
        let gone: Vec<_> = (0..COUNT).filter(|at| is_gone(*at)).map(|at| all[at].clone()).collect();
        dead_letter::discard(&hub, &topic, &group, &gone).await.unwrap();
        let left: Vec<_> =
            (0..COUNT).filter(|at| !is_gone(*at)).map(|at| all[at].clone()).collect();
        let found = Found::letters("orders__billing__dlq");
        let pages = offsets::ask(&hub, NO_GROUP, &found, hub.deadline(), |offsets| {
            let sizes = [(1, 1), (1, 4), (2, 3), (4, 5), (6, 7), (9, 2), (3, 99)];
            sizes
                .into_iter()
                .map(|(limit, window)| Ok((limit, oldest(offsets, 0, limit, window)?)))
                .collect::<Result<Vec<_>>>()
        });
        for (limit, places) in pages.await.unwrap() {
            let ids: Vec<_> = places.into_iter().map(Place::id).collect();
            assert_eq!(ids, left[..limit.min(left.len())], "{limit}");
        }
    }

    #[test]
    fn ids_are_read_back_and_nothing_else_is() {
        let place = Place { offset: 81, key: Uuid::now_v7() };
        assert_eq!(Place::of(&place.id()), Some(place));
        let key = place.key;
        for text in [
            String::new(),
            "no-such-letter".to_owned(),
            "81".to_owned(),
            "81.".to_owned(),
            key.to_string(),
            format!("-1.{key}"),
            format!("+81.{key}"),
            format!("081.{key}"),
            format!("81.{}", key.simple()),
            format!("81.{}", key.to_string().to_uppercase()),
            format!("81.{key}.1"),
            format!("99999999999999999999.{key}"),
        ] {
            assert_eq!(Place::of(&LetterId::new(&*text)), None, "{text}");
        }
    }
}
