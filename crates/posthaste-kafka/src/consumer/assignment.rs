//! A partition while it is this member's: what came, where it is now, and what is settled.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use posthaste_core::broker::{Attempt, Lane, Position, Received, Token};
use posthaste_core::{Envelope, Timestamp};
use tokio::time::Instant;

use super::arrived::Arrived;
use super::gate::Gate;
use crate::private;
use crate::tracker::{Again, Cap, Known, Progress, Tracker};

/// How many topics one subscription may have: tokens name them in twelve bits.
pub(crate) const MOST_TOPICS: usize = 1 << 12;
/// The bits of a token's lane that name the partition.
const PARTITION_BITS: u32 = 20;
const PARTITION_MASK: u32 = (1 << PARTITION_BITS) - 1;

/// What a token names besides the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which topic of the subscription.
    pub(crate) source: usize,
    pub(crate) partition: i32,
    /// Which life of the partition here.
    pub(crate) life: u16,
    /// Which hand-out of the record: one whose lease has ended comes again in the same life.
    handout: u16,
}

impl Place {
    /// Reads a token, whatever made it.
    pub(crate) fn of(token: &Token) -> Self {
        let [low, high, ..] = [token.generation & 0xffff, token.generation >> 16];
        Self {
            source: usize::try_from(token.lane >> PARTITION_BITS).unwrap_or(usize::MAX),
            partition: i32::try_from(token.lane & PARTITION_MASK).unwrap_or(-1),
            life: u16::try_from(high).unwrap_or(u16::MAX),
            handout: u16::try_from(low).unwrap_or(u16::MAX),
        }
    }

    fn token(self, sequence: u64) -> Token {
        let source = u32::try_from(self.source).unwrap_or(u32::MAX);
        let partition = u32::try_from(self.partition).unwrap_or(PARTITION_MASK);
        let lane = (source << PARTITION_BITS) | (partition & PARTITION_MASK);
        Token::sequence(lane, (u32::from(self.life) << 16) | u32::from(self.handout), sequence)
    }
}

/// As many bytes of a partition may be unsettled.
pub(crate) const UNSETTLED_BYTES: usize = 64 << 20;

/// Where an unsettled record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// Waits to be taken by core.
    Buffered,
    /// With core, which has it so long.
    Out(Instant),
    /// Waits here for its next delivery.
    Held,
    /// A copy of it is on its way to the private topic.
    Moving,
    /// Given back while the partition goes: the next owner gets it.
    Back,
}

/// An unsettled record.
#[derive(Debug)]
struct Record {
    envelope: Envelope,
    position: Position,
    /// Which delivery it is, or will be next.
    attempt: u32,
    handout: u16,
    at: Whereabouts,
    /// Not to be delivered again before that.
    due: Option<Timestamp>,
    /// Its key waits with it.
    is_gated: bool,
}

/// Where the records of a topic wait that failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keeping {
    /// What waits for long goes to the private topic, which is there.
    pub(crate) spills: bool,
    /// A failed record keeps back what follows it of its key.
    pub(crate) ordered: bool,
}

/// What is to be done with a record that came.
#[derive(Debug)]
pub(super) enum Next {
    /// To be handed out.
    HandOut(Received),
    /// It waits here until then.
    Wait(Instant, u64),
    /// It waits longer than is waited for here.
    Move(Hop),
}

/// A record of which a copy goes to the private topic.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) token: Token,
    pub(crate) envelope: Envelope,
    /// Deliveries so far.
    pub(crate) attempts: u32,
    pub(crate) due: Timestamp,
}

/// A partition from its assignment until it goes.
pub(super) struct Partition {
    pub(super) lane: Arc<Lane>,
    source: usize,
    number: i32,
    pub(super) life: u16,
    pub(super) tracker: Tracker,
    records: HashMap<u64, Record>,
    /// The size of the records.
    bytes: usize,
    out: usize,
    moving: usize,
    /// Records that came while only one may be out.
    pub(super) waiting: VecDeque<Arrived>,
    /// Records of the private topic whose time in this partition is not over. The first is the next.
    pub(super) parked: VecDeque<Arrived>,
    /// Where the client reads on.
    pub(super) fetched: i64,
    /// The client was told to stop reading it.
    pub(super) is_paused: bool,
    /// Something is to be committed.
    pub(super) is_dirty: bool,
    keeping: Keeping,
    /// Keys that wait since before this life.
    gate: Gate,
    /// Records that were handed out before this life, and have not come yet.
    delivered: BTreeMap<i64, Again>,
}

/// What a member knows of a partition that it lost: more than it could commit.
#[derive(Debug)]
pub(super) struct Remembered {
    /// Who it was.
    pub(super) owner: u32,
    pub(super) progress: Progress,
    /// Records that were handed out.
    pub(super) delivered: BTreeMap<i64, Again>,
}

impl Partition {
    /// A partition that begins.
    pub(super) fn new(
        lane: Arc<Lane>,
        source: usize,
        number: i32,
        life: u16,
        tracker: Tracker,
    ) -> Self {
        Self {
            lane,
            source,
            number,
            life,
            fetched: tracker.position(),
            tracker,
            records: HashMap::new(),
            bytes: 0,
            out: 0,
            moving: 0,
            waiting: VecDeque::new(),
            parked: VecDeque::new(),
            is_paused: false,
            is_dirty: false,
            keeping: Keeping::default(),
            gate: Gate::default(),
            delivered: BTreeMap::new(),
        }
    }

    /// Where its records wait that fail.
    pub(super) const fn keeping(mut self, keeping: Keeping) -> Self {
        self.keeping = keeping;
        self
    }

    /// Some records were delivered before, by this member or another one.
    pub(super) fn with_delivered(mut self, delivered: BTreeMap<i64, Again>) -> Self {
        self.delivered = delivered;
        self
    }

    /// What is known of it when it is lost.
    pub(super) fn remember(mut self) -> Remembered {
        let delivered = self.delivered(true);
        let owner = self.tracker.owner();
        Remembered { owner, progress: self.tracker.progress(false), delivered }
    }

    /// The unsettled records that were delivered. Those of which core has the first delivery are
    /// left out unless `all` are asked for: they are many, and of no member that ends in order.
    fn delivered(&self, all: bool) -> BTreeMap<i64, Again> {
        let next = |record: &Record| {
            let out = matches!(record.at, Whereabouts::Out(_)) && (all || record.attempt > 1);
            let offset = i64::try_from(record.position.offset?).ok()?;
            let attempt = record.attempt.saturating_add(u32::from(out));
            let due = record.due;
            (attempt > 1).then_some((offset, Again { offset, attempt, due }))
        };
        // What has not come up to here is gone from the partition.
        let to_come = self.delivered.range(self.tracker.position()..);
        let mut delivered: BTreeMap<_, _> = to_come.map(|(at, one)| (*at, *one)).collect();
        delivered.extend(self.records.values().filter_map(next));
        delivered
    }

    pub(super) const fn number(&self) -> i32 {
        self.number
    }

    /// A record came. `None` if it was settled before, or came before.
    pub(super) fn add(&mut self, arrived: Arrived, now: Instant) -> Option<Next> {
        self.is_dirty = true;
        let Known::New { sequence, attempt } = self.tracker.add(arrived.offset, now) else {
            return None;
        };
        let Arrived { envelope, position, attempts, due, offset, .. } = arrived;
        let before = self.delivered.remove(&offset);
        let attempt = attempts.saturating_add(attempt).max(before.map_or(0, |one| one.attempt));
        let due = before.and_then(|one| one.due).or(due);
        let at = Whereabouts::Buffered;
        let mut record =
            Record { envelope, position, attempt, handout: 0, at, due, is_gated: false };
        let left = due.map(|due| (due, due.since(Timestamp::now())));
        let left = left.filter(|(_, left)| !left.is_zero());
        let until = left.map(|(_, left)| now + left);
        let next = match (self.gated(&mut record, until), left) {
            (Some(until), _) => wait(sequence, &mut record, until),
            (None, None) => Next::HandOut(self.received(sequence, &record)),
            (None, Some((due, left))) if left > private::IN_MEMORY && self.keeping.spills => {
                Next::Move(self.hop(sequence, &mut record, due))
            }
            (None, Some((_, left))) => wait(sequence, &mut record, now + left),
        };
        self.bytes += record.envelope.size();
        self.records.insert(sequence, record);
        Some(next)
    }

    /// Until when a record that came has to wait for the sake of its key, where keys are ordered.
    fn gated(&mut self, record: &mut Record, until: Option<Instant>) -> Option<Instant> {
        if !self.keeping.ordered || (until.is_none() && self.gate.is_open()) {
            return None;
        }
        let until = self.gate.come(record.envelope.key()?, until)?;
        record.is_gated = true;
        Some(until)
    }

    /// A copy of a record that waits here goes to the private topic. `None` if it does not wait.
    pub(super) fn spill(&mut self, sequence: u64, due: Timestamp) -> Option<Hop> {
        let mut record = self.records.remove(&sequence)?;
        let held = record.at == Whereabouts::Held;
        let hop = held.then(|| self.hop(sequence, &mut record, due));
        self.records.insert(sequence, record);
        hop
    }

    fn hop(&mut self, sequence: u64, record: &mut Record, due: Timestamp) -> Hop {
        (record.at, record.due) = (Whereabouts::Moving, Some(due));
        self.moving += 1;
        Hop {
            token: self.place(record).token(sequence),
            envelope: record.envelope.clone(),
            attempts: record.attempt.saturating_sub(1),
            due,
        }
    }

    /// The copy was not stored: the record waits here. Whether it does.
    pub(super) fn stay(&mut self, sequence: u64) -> bool {
        let Some(record) = self.records.get_mut(&sequence) else { return false };
        if record.at != Whereabouts::Moving {
            return false;
        }
        record.at = Whereabouts::Held;
        self.moving -= 1;
        true
    }

    /// Hands a record out once more, if it still waits for that.
    pub(super) fn again(&mut self, sequence: u64) -> Option<Received> {
        let record = self.records.get_mut(&sequence)?;
        if record.at != Whereabouts::Held {
            return None;
        }
        (record.at, record.due) = (Whereabouts::Buffered, None);
        record.handout = record.handout.wrapping_add(1);
        if std::mem::take(&mut record.is_gated) {
            self.gate.go(record.envelope.key().unwrap_or_default());
        }
        let record = self.records.get(&sequence)?;
        Some(self.received(sequence, record))
    }

    const fn place(&self, record: &Record) -> Place {
        Place {
            source: self.source,
            partition: self.number,
            life: self.life,
            handout: record.handout,
        }
    }

    fn received(&self, sequence: u64, record: &Record) -> Received {
        let token = self.place(record).token(sequence);
        Received::new(record.envelope.clone(), token, Arc::clone(&self.lane))
            // What was out when an owner ended without a word is an estimate.
            .with_attempt(Attempt::approximate(record.attempt))
            .with_position(record.position)
    }

    /// Core took it, until then unless it is prolonged. `false` if it is not to be handed out.
    pub(super) fn hand_out(&mut self, sequence: u64, until: Instant) -> bool {
        let Some(record) = self.records.get_mut(&sequence) else { return false };
        if record.at != Whereabouts::Buffered {
            return false;
        }
        record.at = Whereabouts::Out(until);
        self.out += 1;
        true
    }

    /// The record is settled, wherever it is. `false` if it was already.
    pub(super) fn settle(&mut self, sequence: u64) -> bool {
        let Some(record) = self.records.remove(&sequence) else { return false };
        self.bytes = self.bytes.saturating_sub(record.envelope.size());
        match record.at {
            Whereabouts::Out(_) => self.out -= 1,
            Whereabouts::Moving => self.moving -= 1,
            Whereabouts::Buffered | Whereabouts::Held | Whereabouts::Back => {}
        }
        if record.is_gated {
            self.gate.go(record.envelope.key().unwrap_or_default());
        }
        self.is_dirty = true;
        self.tracker.settle(sequence)
    }

    /// Whether core has just this hand-out of the record.
    pub(super) fn holds(&self, place: Place, sequence: u64) -> bool {
        let record = self.records.get(&sequence);
        record.is_some_and(|record| {
            record.handout == place.handout && matches!(record.at, Whereabouts::Out(_))
        })
    }

    /// Core gave it back: it waits here, or for the next owner. It must be [held](Self::holds).
    /// `delivered` is how often the application has had it, at most once more than is known here
    /// unless core counts by itself, as it does for ordered keys.
    pub(super) fn take_back(
        &mut self,
        sequence: u64,
        delivered: Option<u32>,
        due: Option<Timestamp>,
        goes: bool,
    ) {
        if let Some(record) = self.records.get_mut(&sequence)
            && let Whereabouts::Out(_) = record.at
        {
            record.at = if goes { Whereabouts::Back } else { Whereabouts::Held };
            let delivered = delivered.unwrap_or(record.attempt);
            record.attempt = record.attempt.max(delivered.saturating_add(1));
            record.due = due;
            self.out -= 1;
            // Whoever comes next has to know.
            self.is_dirty = true;
        }
    }

    /// Core has it until then. It must be [held](Self::holds).
    pub(super) fn extend(&mut self, sequence: u64, until: Instant) {
        if let Some(record) = self.records.get_mut(&sequence)
            && let Whereabouts::Out(_) = record.at
        {
            record.at = Whereabouts::Out(until);
        }
    }

    /// Takes back what core has had for too long. Whoever has it there knows that.
    pub(super) fn end_leases(&mut self, now: Instant) -> Vec<u64> {
        let over = |record: &Record| matches!(record.at, Whereabouts::Out(until) if until <= now);
        let ended = self.records.iter().filter(|(_, record)| over(record));
        let ended: Vec<_> = ended.map(|(sequence, _)| *sequence).collect();
        ended.iter().for_each(|sequence| self.take_back(*sequence, None, None, false));
        ended
    }

    /// How many records are not here: with core, or on their way to the private topic.
    pub(super) const fn away(&self) -> usize {
        self.out + self.moving
    }

    /// Whether it is at its cap: so much is unsettled, or for so long, that it must not be read
    /// further until that has changed.
    pub(super) fn is_at_cap(&self, now: Instant) -> bool {
        self.bytes >= UNSETTLED_BYTES || self.tracker.full(&Cap::USUAL, now).is_some()
    }

    /// Whether no more may be read for now, because much of it is on its way elsewhere or waits.
    pub(super) fn is_full(&self) -> bool {
        /// As many as travel well in one go.
        const MOST: usize = 512;
        self.moving >= MOST || !self.parked.is_empty() || !self.waiting.is_empty()
    }

    /// What is to be committed now. `clean`: it ends, and nothing of it is handed out any more.
    pub(super) fn progress(&mut self, clean: bool) -> Progress {
        self.is_dirty = false;
        let again = self.delivered(false).into_values().collect();
        Progress { again, ..self.tracker.progress(clean && self.out == 0) }
    }
}

const fn wait(sequence: u64, record: &mut Record, until: Instant) -> Next {
    record.at = Whereabouts::Held;
    Next::Wait(until, sequence)
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("lane", &self.lane)
            .field("life", &self.life)
            .field("unsettled", &self.records.len())
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use posthaste_core::TopicName;

    use super::*;

    fn partition() -> Partition {
        begins(Keeping { spills: true, ordered: false }, BTreeMap::new())
    }

    fn begins(keeping: Keeping, delivered: BTreeMap<i64, Again>) -> Partition {
        let lane = Arc::new(Lane::new(TopicName::new("orders").unwrap(), Some(3)));
        let partition = Partition::new(lane, 5, 3, 9, Tracker::begin(100));
        partition.keeping(keeping).with_delivered(delivered)
    }

    fn arrived(offset: i64) -> Arrived {
        let envelope = Envelope::builder("test").source("/it").build().unwrap();
        let (position, attempts) = (Position::default(), 0);
        Arrived { partition: 3, offset, envelope, position, attempts, due: None, released: None }
    }

    fn come(partition: &mut Partition, offset: i64) -> Token {
        let next = partition.add(arrived(offset), Instant::now());
        let Some(Next::HandOut(received)) = next else { unreachable!("{next:?}") };
        assert!(partition.hand_out(received.token.sequence, Instant::now()));
        received.token
    }

    #[test]
    fn tokens_name_topic_partition_life_and_handout() {
        for (source, partition) in [(0, 0), (MOST_TOPICS - 1, 0xf_ffff), (7, 12)] {
            let place = Place { source, partition, life: 65_535, handout: 258 };
            assert_eq!(Place::of(&place.token(u64::MAX)), place);
        }
    }

    #[test]
    fn acknowledged_in_any_order_nothing_is_skipped() {
        let mut partition = partition();
        let tokens: Vec<_> = (100..103).map(|offset| come(&mut partition, offset)).collect();
        assert!(partition.settle(tokens[2].sequence) && partition.settle(tokens[1].sequence));
        assert!(!partition.settle(tokens[1].sequence));
        assert_eq!((partition.progress(false).watermark, partition.out), (100, 1));
        assert!(partition.settle(tokens[0].sequence));
        assert_eq!((partition.progress(true).watermark, partition.out), (103, 0));
    }

    #[test]
    fn the_next_delivery_has_its_own_token_and_counts() {
        let mut partition = partition();
        let first = come(&mut partition, 100);
        let place = Place::of(&first);
        assert!(partition.holds(place, first.sequence));
        partition.take_back(first.sequence, Some(1), None, false);
        assert!(!partition.holds(place, first.sequence));
        let again = partition.again(first.sequence).unwrap();
        assert_eq!(again.attempt.count, 2);
        assert!(partition.hand_out(again.token.sequence, Instant::now()));
        // The verdict of the first one does not touch it.
        assert!(!partition.holds(place, first.sequence));
        assert!(partition.holds(Place::of(&again.token), first.sequence));
        // But a late acknowledgement completes the message.
        assert!(partition.settle(first.sequence));
        assert!(!partition.holds(Place::of(&again.token), first.sequence));
        assert_eq!(partition.out, 0);
    }

    #[test]
    fn what_is_held_too_long_is_taken_back_unless_it_was_prolonged() {
        let mut partition = partition();
        let (first, second) = (come(&mut partition, 100), come(&mut partition, 101));
        let later = Instant::now() + Duration::from_secs(5);
        partition.extend(second.sequence, later);
        assert_eq!(partition.end_leases(Instant::now()), [first.sequence]);
        assert_eq!(partition.out, 1);
        assert_eq!(partition.end_leases(later), [second.sequence]);
        assert!(partition.end_leases(later).is_empty());
    }

    #[test]
    fn who_gives_back_what_goes_does_not_get_it_again() {
        let mut partition = partition();
        let token = come(&mut partition, 100);
        partition.take_back(token.sequence, Some(1), None, true);
        assert!(partition.again(token.sequence).is_none());
        let progress = partition.progress(true);
        assert_eq!((progress.watermark, progress.clean), (100, true));
    }

    fn waits(partition: &mut Partition, offset: i64, left: Duration) -> Next {
        let mut copy = arrived(offset);
        (copy.attempts, copy.due) = (2, Some(Timestamp::now() + left));
        partition.add(copy, Instant::now()).unwrap()
    }

    #[test]
    fn a_copy_is_handed_out_when_it_is_due_and_counts_what_was_before() {
        let mut partition = partition();
        let Next::HandOut(received) = waits(&mut partition, 100, Duration::ZERO) else {
            unreachable!("it is due")
        };
        assert_eq!(received.attempt.count, 3);
        let Next::Wait(until, sequence) = waits(&mut partition, 101, Duration::from_secs(20))
        else {
            unreachable!("it is due soon")
        };
        assert!(until > Instant::now() && partition.away() == 0);
        assert_eq!(partition.again(sequence).unwrap().attempt.count, 3);
    }

    #[test]
    fn what_is_due_late_moves_on_and_is_settled_when_it_has() {
        let mut partition = partition();
        let Next::Move(hop) = waits(&mut partition, 100, Duration::from_secs(90)) else {
            unreachable!("it is due late")
        };
        assert_eq!((hop.attempts, partition.away(), partition.out), (2, 1, 0));
        assert_eq!(partition.progress(false).watermark, 100);
        assert!(partition.settle(hop.token.sequence));
        assert_eq!((partition.progress(false).watermark, partition.away()), (101, 0));
        assert!(!partition.stay(hop.token.sequence));
        // What cannot move waits here.
        let Next::Move(hop) = waits(&mut partition, 101, Duration::from_secs(90)) else {
            unreachable!("it is due late")
        };
        assert!(partition.stay(hop.token.sequence) && partition.away() == 0);
        assert_eq!(partition.again(hop.token.sequence).unwrap().attempt.count, 3);
    }

    #[test]
    fn what_failed_and_waits_can_spill() {
        let mut partition = partition();
        let (held, out) = (come(&mut partition, 100), come(&mut partition, 101));
        partition.take_back(held.sequence, Some(1), None, false);
        let hop = partition.spill(held.sequence, Timestamp::now()).unwrap();
        assert_eq!((hop.attempts, partition.away()), (1, 2));
        assert!(partition.spill(out.sequence, Timestamp::now()).is_none());
    }

    fn keyed(offset: i64, key: &'static str) -> Arrived {
        let builder = Envelope::builder("test").source("/it").key(key);
        Arrived { envelope: builder.build().unwrap(), ..arrived(offset) }
    }

    #[test]
    fn the_next_owner_knows_attempts_and_times_and_keeps_the_order_of_keys() {
        let ordered = Keeping { spills: false, ordered: true };
        let mut partition = begins(ordered, BTreeMap::new());
        let (failed, back) = (come(&mut partition, 100), come(&mut partition, 101));
        let unseen = come(&mut partition, 102);
        come(&mut partition, 103);
        let due = Timestamp::now() + Duration::from_secs(90);
        partition.take_back(failed.sequence, Some(1), Some(due), false);
        partition.take_back(back.sequence, Some(3), None, true);
        partition.take_back(unseen.sequence, Some(0), None, true);
        let again = partition.progress(false).again;
        let told: Vec<_> = again.iter().map(|one| (one.offset, one.attempt, one.due)).collect();
        assert_eq!(told, [(100, 2, Some(due)), (101, 4, None)]);
        assert_eq!(partition.delivered(true).len(), 3, "who comes back knows all");

        let delivered = again.into_iter().map(|one| (one.offset, one)).collect();
        let mut next = begins(ordered, delivered);
        assert_eq!(next.progress(false).again.len(), 2, "also who has nothing of it yet");
        let now = Instant::now();
        let Some(Next::Wait(until, first)) = next.add(keyed(100, "a"), now) else {
            unreachable!("it waits in memory, however long")
        };
        assert!(until > now + Duration::from_secs(80));
        let Some(Next::HandOut(other)) = next.add(keyed(101, "b"), now) else {
            unreachable!("another key waits for nothing")
        };
        assert_eq!(other.attempt.count, 4);
        let Some(Next::Wait(follows, second)) = next.add(keyed(103, "a"), now) else {
            unreachable!("it would overtake")
        };
        assert_eq!(follows, until);
        assert_eq!(next.again(first).unwrap().attempt.count, 2);
        let Some(Next::Wait(..)) = next.add(keyed(104, "a"), now) else {
            unreachable!("one before it still waits")
        };
        assert_eq!(next.again(second).unwrap().attempt.count, 1);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (mut partition, now) = (partition(), Instant::now());
        let large = Envelope::builder("test").source("/it").payload(vec![0; UNSETTLED_BYTES / 2]);
        let large = large.build().unwrap();
        let one = |offset| Arrived { envelope: large.clone(), ..arrived(offset) };
        assert!(partition.add(one(100), now).is_some() && !partition.is_at_cap(now));
        let Some(Next::HandOut(second)) = partition.add(one(101), now) else {
            unreachable!("it waits for nothing")
        };
        assert!(partition.is_at_cap(now));
        assert!(partition.settle(second.token.sequence) && !partition.is_at_cap(now));
    }

    #[test]
    fn an_end_is_not_clean_while_something_is_out() {
        let mut partition = partition();
        come(&mut partition, 100);
        assert!(!partition.progress(true).clean);
    }
}
