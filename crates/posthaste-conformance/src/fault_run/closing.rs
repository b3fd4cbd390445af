//! The end of a run: what the broker says of its own is compared with the books.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Bus, DeadLetter, Reason, Result, Start};
use tokio::time::{Instant, timeout};

use super::audit::{Audit, Letter, Wrong};
use super::message::Tag;
use super::stage::{Stage, TopicSpec};

/// How many dead letters are listed at once.
const PAGE: usize = 500;
/// By when a group without pending messages has nothing in flight.
const SETTLED: Duration = Duration::from_secs(30);
/// Between two looks at a lag.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a reader of a topic waits for a further message before it takes what it has for all.
const QUIET: Duration = Duration::from_secs(3);
/// So many messages that are stored out of order are named.
const IN_WORDS: usize = 100;
/// How many messages a reader takes at once.
const BATCH: usize = 500;

/// The dead letters of a group. Those that are none of ours are findings.
pub(super) async fn letters(
    bus: &Bus,
    stage: &Stage,
    audit: &Audit,
    group: usize,
) -> Result<Vec<Letter>> {
    let of = &stage.groups[group];
    let topic = &stage.topics[of.topic].name;
    let mut letters = Vec::new();
    let mut page = bus.admin().dead_letters(topic, &of.name, PAGE).await?;
    loop {
        for stored in &page.letters {
            match letter(&stored.letter) {
                Some(letter) => letters.push(letter),
                None => {
                    let (id, reason) = (stored.letter.envelope.id(), &stored.letter.reason);
                    let words = format!("{id} of {}: {reason:?}", of.name);
                    audit.find(Wrong::LetterUnexpected, words);
                }
            }
        }
        let Some(last) = page.letters.last().map(|stored| stored.id.clone()) else {
            return Ok(letters);
        };
        page = bus.admin().dead_letters_after(topic, &of.name, last, PAGE).await?;
    }
}

/// Only the seed rejects messages here: no attempts are used up, nothing expires.
fn letter(letter: &DeadLetter) -> Option<Letter> {
    let follows = match letter.reason {
        Reason::Rejected => false,
        Reason::FollowsKey => true,
        _ => return None,
    };
    Tag::of(&letter.envelope).map(|tag| Letter { tag, follows })
}

/// Marks what became a dead letter behind another one as done.
pub(super) async fn note_followers(bus: &Bus, stage: &Stage, audit: &Audit) -> Result<()> {
    if !stage.can.dead_letters.is_kept() {
        return Ok(());
    }
    for (group, of) in stage.groups.iter().enumerate() {
        if stage.topics[of.topic].ordered {
            audit.followed(group, &letters(bus, stage, audit, group).await?);
        }
    }
    Ok(())
}

/// Compares dead letters and lag with the books, and reads the topics. Returns how many different
/// messages are stored, where that can be read.
pub(super) async fn compare(stage: &Stage, audit: &Arc<Audit>, bus: &Bus) -> Result<Option<usize>> {
    for (group, of) in stage.groups.iter().enumerate() {
        if stage.can.dead_letters.is_kept() {
            let letters = letters(bus, stage, audit, group).await?;
            audit.followed(group, &letters);
            audit.compare_letters(group, &letters);
        }
        if stage.can.lag.is_kept() {
            let left = lag(bus, &stage.topics[of.topic].name, &of.name).await?;
            if left > 0 {
                audit.find(Wrong::Behind, format!("{left} of {}", of.name));
            }
        }
    }
    if !stage.can.start_earliest.is_kept() || !stage.can.fan_out.is_kept() {
        return Ok(None);
    }
    let mut copies = Copies::default();
    for topic in &stage.topics {
        read(bus, topic, &mut copies).await?;
    }
    for (later, earlier) in copies.misplaced.iter().take(IN_WORDS) {
        audit.find(Wrong::Overtaken, format!("{earlier} is stored after {later}"));
    }
    audit.stored(&copies.counts);
    Ok(Some(copies.distinct()))
}

/// What the broker counts as still to do, once that does not sink any more.
async fn lag(bus: &Bus, topic: &str, group: &str) -> Result<u64> {
    let end = Instant::now() + SETTLED;
    loop {
        let left = bus.admin().lag(topic, group).await?.total();
        if left == 0 || Instant::now() >= end {
            return Ok(left);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads a topic from its beginning, and counts what is stored, how often.
async fn read(bus: &Bus, topic: &TopicSpec, copies: &mut Copies) -> Result<()> {
    let reader =
        bus.subscribe(&topic.name).group("reader").from(Start::Earliest).prefetch(BATCH * 4);
    let mut reader = reader.start().await?;
    while let Ok(Some(batch)) = timeout(QUIET, reader.next_batch(BATCH)).await {
        for delivery in batch? {
            if delivery.attempt() == 1
                && let Some(tag) = Tag::of(delivery.envelope())
            {
                copies.add(tag);
                if let Some(place) = delivery.offset().filter(|_| topic.ordered) {
                    copies.place(tag, place);
                }
            }
            delivery.ack().await?;
        }
    }
    reader.stop(SETTLED).await?;
    Ok(())
}

/// How many copies there are of each message, and whether those of a key are in order.
#[derive(Debug, Default)]
struct Copies {
    counts: Vec<Vec<u8>>,
    /// Of each key the last message so far, and its place.
    last: HashMap<(usize, u32), (Tag, u64)>,
    /// A message with an earlier one behind it.
    misplaced: Vec<(Tag, Tag)>,
}

impl Copies {
    fn add(&mut self, tag: Tag) {
        if self.counts.len() <= tag.publisher {
            self.counts.resize_with(tag.publisher + 1, Vec::new);
        }
        let (of, number) = (&mut self.counts[tag.publisher], usize::try_from(tag.number));
        let Ok(number) = number else { return };
        if of.len() <= number {
            of.resize(number + 1, 0);
        }
        of[number] = of[number].saturating_add(1);
    }

    /// A message of a key, once it was counted. The first copy of each has to be in order.
    fn place(&mut self, tag: Tag, place: u64) {
        let number = usize::try_from(tag.number).unwrap_or(usize::MAX);
        let copies = self.counts.get(tag.publisher).and_then(|of| of.get(number));
        if copies != Some(&1) {
            return;
        }
        let (last, at) = *self.last.entry((tag.publisher, tag.key())).or_insert((tag, place));
        if tag.turn() < last.turn() && place > at {
            self.misplaced.push((last, tag));
        }
        if tag.turn() > last.turn() {
            self.last.insert((tag.publisher, tag.key()), (tag, place));
        }
    }

    /// How many different messages there are.
    fn distinct(&self) -> usize {
        self.counts.iter().flatten().filter(|copies| **copies > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_run::message::KEYS;

    /// Places from 0, in this order.
    fn placed(tags: &[Tag]) -> Copies {
        let mut copies = Copies::default();
        for (place, tag) in (0..).zip(tags) {
            copies.add(*tag);
            copies.place(*tag, place);
        }
        copies
    }

    #[test]
    fn first_copies_of_a_key_are_in_order() {
        let [first, second, third] = [0, 1, 2].map(|turn| Tag::new(4, turn * KEYS));
        let other = Tag::new(4, 1);
        let copies = placed(&[first, second, other, first, third]);
        assert_eq!((copies.distinct(), copies.misplaced.len()), (4, 0), "a copy may be late");
        assert_eq!(placed(&[first, third, second]).misplaced, [(third, second)]);
        assert_eq!(placed(&[second, other, first]).misplaced, [(second, first)]);
    }
}
