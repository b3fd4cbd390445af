//! One owner's life with a lane: what it hands out, and when.
//!
//! The rule: a message of the lane is handed out only if every earlier one that is not settled is
//! in core's hands. Core keeps the order of a key among what it was handed; this keeps it among
//! what it was not. An earlier message can be elsewhere for four reasons, and each holds back the
//! later ones:
//!
//! - It was delivered to the owner before, and its lease there has not ended. So a life begins in
//!   doubt, which ends as [`doubt`](super::doubt) says.
//! - It was delivered and lost on the way, or to somebody whose request was late. Deliveries of a
//!   consumer are numbered: one that is skipped, or a connection that was lost, is a new doubt.
//! - It was given back to the server by [`released`](Takeover::released), and will come again.
//! - It waits here for room in core. What is handed out goes out in sequence.
//!
//! A life ends when the lane's lease ends, or a message's lease in core's hands does: core forgets
//! such a message, and would let later ones of its key pass. See [`lapses_at`](Takeover::lapses_at).
//!
//! Nothing here does I/O or reads a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::doubt::{Doubt, Facts, Question, Sight, Verdict, Wait};
use super::message::{Coming, Hand, Held, Needs, Place, Step};
use super::settled::Settled;

/// A life with a lane; `M` is a message with its reply subject.
#[derive(Debug)]
pub(crate) struct Takeover<M> {
    lease: Duration,
    /// The last delivery that is accounted for, and the last that came.
    last: u64,
    came: u64,
    /// Up to here nothing is out of sight, unless it is in `coming`.
    top: u64,
    held: BTreeMap<u64, Held<M>>,
    hand: BTreeMap<u64, Hand>,
    coming: BTreeMap<u64, Coming>,
    doubt: Option<Doubt>,
    /// The number of the next question.
    question: u64,
    /// When to look after what is coming, at the earliest.
    look_at: Instant,
    /// When it was last found that something was delivered and did not come.
    missed_at: Instant,
    settled: Settled,
}

impl<M> Takeover<M> {
    /// Begins a life with a lane that is this member's since before `facts` were asked for.
    ///
    /// `lease` is the consumer's `ack_wait`. `clean` if all that is not settled was given back
    /// before the lane was: else what is missing may come as late as a lease from now.
    pub(crate) fn begin(lease: Duration, facts: &Facts, clean: bool, now: Instant) -> Self {
        let longer = patience(lease);
        let until = if clean { now } else { now + longer };
        let mut life = Self {
            lease,
            last: facts.consumer,
            came: facts.consumer,
            top: 0,
            held: BTreeMap::new(),
            hand: BTreeMap::new(),
            coming: BTreeMap::new(),
            doubt: Some(Doubt::new(0, true, Wait { until, longer }, now)),
            question: 0,
            look_at: now,
            missed_at: now,
            settled: Settled::default(),
        };
        let question = life.asked(now);
        life.learn(question, facts, now);
        life
    }

    /// A message came. Deliveries must be told in the order in which they arrive.
    pub(crate) fn arrived(&mut self, place: Place, message: M, now: Instant) -> Step<M> {
        let Place { sequence, consumer, deliveries } = place;
        let first = deliveries == 1;
        let late = self.came < consumer && consumer <= self.last;
        let next = consumer == self.last + 1;
        self.came = consumer;
        if !late {
            self.last = consumer;
        }
        let fresh = sequence > self.top;
        if !(late || next) || fresh && !first && self.doubt.is_none() {
            self.suspect(false, now);
        }
        if self.hand.contains_key(&sequence) {
            self.note(consumer, first, false, now);
            return Step::InHand(message);
        }
        if self.was_settled(sequence) {
            self.note(consumer, first, false, now);
            return Step::AckAgain(message);
        }
        let known = self.has(sequence);
        self.note(consumer, first, !known, now);
        let back = self.coming.remove(&sequence);
        if let Some(doubt) = &mut self.doubt
            && back.as_ref().is_some_and(|coming| coming.last)
        {
            doubt.nearly_dry(now);
        }
        let before = self.held.get(&sequence).map(|held| held.inherited);
        let inherited = back.is_some() || before.unwrap_or(!first);
        let since_doubt = self.doubt.as_ref().map(|_| consumer);
        self.held.insert(sequence, Held { message, inherited, since_doubt });
        if self.doubt.is_none() {
            self.top = self.top.max(sequence);
        }
        Step::Kept
    }

    /// The connection was lost: what was delivered and has not been told will not arrive.
    pub(crate) fn interrupted(&mut self, now: Instant) {
        self.suspect(true, now);
    }

    /// Everything that [`absent`](Self::absent) told was given back on the owner's behalf, and the
    /// server has confirmed that: so it need not be waited for.
    pub(crate) fn swept(&mut self, now: Instant) {
        if let Some(doubt) = &mut self.doubt {
            doubt.hasten(now);
        }
    }

    /// Facts are asked for now. The answer, if there is one, comes to [`learn`](Self::learn).
    pub(crate) fn asked(&mut self, now: Instant) -> Question {
        let question = Question { number: self.question, at: now };
        self.question += 1;
        if let Some(doubt) = &mut self.doubt {
            doubt.asked(question);
        }
        question
    }

    /// The server has answered.
    pub(crate) fn learn(&mut self, question: Question, facts: &Facts, now: Instant) {
        if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.is_quiet(question)) {
            // Deliveries are counted from here, also if the server lost count in a crash.
            doubt.told(facts.consumer, self.last, now);
            (self.last, self.came) = (facts.consumer, facts.consumer);
        }
        if facts.consumer <= self.last {
            // Nothing of it is under way any more.
            self.settled.prune(facts.floor);
        }
        self.coming = self.coming.split_off(&facts.floor.saturating_add(1));
        let sight = self.sight(facts.delivered);
        let Some(doubt) = &mut self.doubt else { return };
        let verdict = doubt.judge(question, facts, sight, now);
        let newest = doubt.newest;
        match verdict {
            Verdict::Open => return,
            Verdict::Again => {
                self.last = self.last.max(facts.consumer);
                return self.suspect(false, now);
            }
            Verdict::Over => {}
            Verdict::Exhausted { at, surely } => {
                let missed = self.missed_at;
                let wait = patience(self.lease) * if surely { 1 } else { 3 };
                let gone = |coming: &&mut Coming| coming.since.max(missed) + wait <= at;
                self.coming.values_mut().filter(gone).for_each(|coming| coming.waits = false);
            }
        }
        self.doubt = None;
        self.last = newest.unwrap_or(0).max(facts.consumer);
        self.came = newest.unwrap_or(self.came).min(self.last);
        // A server that lost its memory in a crash delivers the rest as if for the first time, and
        // what was not seen of it in between.
        for (sequence, held) in self.held.split_off(&facts.delivered.saturating_add(1)) {
            if held.since_doubt > Some(facts.consumer) {
                self.held.insert(sequence, held);
            } else {
                self.coming.insert(sequence, Coming { since: now, waits: true, last: false });
            }
        }
        let held = self.held.last_key_value().map(|(sequence, _)| *sequence);
        let hand = self.hand.last_key_value().map(|(sequence, _)| *sequence);
        let top = facts.delivered.max(held.max(hand).unwrap_or(0)).max(self.top);
        self.settled.doubt(self.top, top);
        self.top = top;
        self.look_at = now + look(self.lease);
    }

    /// A request of that time ended, because the server had nothing more to deliver, and
    /// everything it had delivered for it has arrived.
    pub(crate) fn exhausted(&mut self, requested: Instant, now: Instant) {
        if let Some(doubt) = &mut self.doubt {
            doubt.exhausted(requested, now);
        }
    }

    /// Moves up to `max` messages to `out`, which core gets now, and in that order.
    pub(crate) fn hand_out(&mut self, max: usize, out: &mut Vec<(u64, M)>, now: Instant) {
        for _ in 0..max {
            let Some(first) = self.held.first_entry() else { return };
            let sequence = *first.key();
            let sure = match &self.doubt {
                Some(doubt) => sequence <= self.top || sequence == doubt.floor + 1,
                None => true,
            };
            let earlier = self.coming.range(..sequence);
            if !sure || earlier.clone().any(|(_, coming)| coming.waits) {
                return;
            }
            let Held { message, inherited, .. } = first.remove();
            self.hand.insert(sequence, Hand { until: now + self.believed(), inherited });
            out.push((sequence, message));
        }
    }

    /// A message in core's hands was settled for good, and the server was told.
    pub(crate) fn settled(&mut self, sequence: u64) {
        let ours = self.hand.remove(&sequence).is_some();
        if ours && (sequence > self.top || self.settled.is_unsure(sequence)) {
            self.settled.remember(sequence);
        }
    }

    /// A message in core's hands was given back, or could not be settled: it comes again, and
    /// later ones wait for it.
    pub(crate) fn released(&mut self, sequence: u64, now: Instant) {
        self.give_back(sequence, true, now);
    }

    /// As [`released`](Self::released), but later ones need not wait: the message has no key.
    pub(crate) fn deferred(&mut self, sequence: u64, now: Instant) {
        self.give_back(sequence, false, now);
    }

    fn give_back(&mut self, sequence: u64, waits: bool, now: Instant) {
        if self.hand.remove(&sequence).is_some() {
            self.coming.insert(sequence, Coming { since: now, waits, last: false });
        }
    }

    /// The lease of a message in core's hands was prolonged by a call that began at that time.
    pub(crate) fn extended(&mut self, sequence: u64, at: Instant) {
        let until = at + self.believed();
        if let Some(hand) = self.hand.get_mut(&sequence) {
            hand.until = until.max(hand.until);
        }
    }

    /// When core counts the first message in its hands as lost, unless that is prolonged. The lane
    /// must be lost then, as a whole.
    pub(crate) fn lapses_at(&self) -> Option<Instant> {
        self.hand.values().map(|hand| hand.until).min()
    }

    /// What waits here. Its leases are the caller's to prolong.
    pub(crate) fn held(&self) -> impl Iterator<Item = &M> {
        self.held.values().map(|held| &held.message)
    }

    /// Takes out the latest of what waits here, to be given back to the server at once: for a life
    /// that has to request more than the subscription's prefetch leaves it.
    pub(crate) fn make_room(&mut self, messages: usize, now: Instant) -> Vec<M> {
        let mut out = Vec::new();
        let Some(doubt) = &self.doubt else { return out };
        while out.len() < messages {
            let Some((sequence, held)) = self.held.pop_last() else { break };
            let last = held.since_doubt.is_some_and(|consumer| doubt.is_after_due(consumer));
            self.coming.insert(sequence, Coming { since: now, waits: true, last });
            out.push(held.message);
        }
        out
    }

    /// Takes out all that waits here, to be given back to the server: for the end of a life.
    pub(crate) fn give_up(&mut self) -> Vec<M> {
        std::mem::take(&mut self.held).into_values().map(|held| held.message).collect()
    }

    /// Whether nothing is in core's hands or waits here.
    pub(crate) fn is_empty(&self) -> bool {
        self.hand.is_empty() && self.held.is_empty()
    }

    /// Whether everything that is not settled is known to be with the server. So the lane may be
    /// left as clean, once the server has confirmed all settlements.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_empty() && self.doubt.is_none()
    }

    /// Whether later messages are held back because earlier ones may be out of sight.
    pub(crate) const fn is_doubtful(&self) -> bool {
        self.doubt.is_some()
    }

    /// The stretch of sequences in which something may be out of sight: after the first, up to and
    /// with the second.
    pub(crate) fn absent(&self) -> Option<(u64, u64)> {
        let doubt = self.doubt.as_ref().filter(|doubt| doubt.can_be_hastened())?;
        let after = self.top.max(doubt.floor);
        (after < doubt.delivered).then_some((after, doubt.delivered))
    }

    /// Whether the message is not out of sight: giving it back in a sweep would only repeat it.
    pub(crate) fn has(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence)
            || self.hand.contains_key(&sequence)
            || self.coming.contains_key(&sequence)
    }

    /// What the caller has to do.
    pub(crate) fn needs(&mut self, now: Instant) -> Needs {
        let waits = self.coming.values().filter(|coming| coming.waits);
        let oldest = waits.clone().map(|coming| coming.since).min();
        let look_at = oldest.map(|since| (since + look(self.lease)).max(self.look_at));
        let count = waits.count();
        if self.doubt.is_none() && look_at.is_some_and(|at| at <= now) {
            // It should have come. Perhaps there is no room for it, or it does not exist any more.
            self.begin_doubt(false, now, now);
        }
        let Some(doubt) = &self.doubt else {
            let pull = if count == 0 { usize::MAX } else { count };
            return Needs { ask: false, pull, no_wait: false, wake: look_at };
        };
        let missing = doubt.wants(now).and_then(|missing| usize::try_from(missing).ok());
        let pull = missing.map_or(0, |missing| missing.saturating_add(count));
        Needs { ask: doubt.wants_to_ask(now), pull, no_wait: true, wake: Some(doubt.wake(now)) }
    }

    /// Something was delivered that did not come.
    fn suspect(&mut self, cut: bool, now: Instant) {
        self.missed_at = now;
        self.begin_doubt(cut, now, now + patience(self.lease));
    }

    fn begin_doubt(&mut self, cut: bool, now: Instant, until: Instant) {
        let wait = Wait { until, longer: patience(self.lease) };
        self.doubt = Some(Doubt::new(self.question, cut, wait, now));
        self.held.values_mut().for_each(|held| held.since_doubt = None);
        self.coming.values_mut().for_each(|coming| coming.last = false);
    }

    fn note(&mut self, consumer: u64, first: bool, missing: bool, now: Instant) {
        if let Some(doubt) = &mut self.doubt {
            doubt.arrived(consumer, first, missing && !first, now);
        }
    }

    /// Whether a message that is not here was settled in this life.
    fn was_settled(&self, sequence: u64) -> bool {
        let here = self.held.contains_key(&sequence) || self.coming.contains_key(&sequence);
        let seen = sequence <= self.top && !self.settled.is_unsure(sequence);
        !here && (seen || self.settled.remembers(sequence))
    }

    fn sight(&self, upto: u64) -> Sight {
        let hand = self.hand.range(..=upto).map(|(_, hand)| hand.inherited);
        let held = self.held.range(..=upto).map(|(_, held)| held.inherited);
        let coming = self.coming.range(..=upto).map(|_| true);
        let (mut count, mut inherited) = (0, false);
        for of_others in hand.chain(held).chain(coming) {
            count += 1;
            inherited |= of_others;
        }
        Sight { count, inherited, last: self.last }
    }

    /// For how long core may keep a message. A little shorter than core itself thinks.
    fn believed(&self) -> Duration {
        self.lease - (self.lease / 10).min(Duration::from_secs(1))
    }
}

/// How long to wait for what somebody else has: its lease, and what the server's timer and the
/// network add to it.
fn patience(lease: Duration) -> Duration {
    lease + (lease / 10).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// How long a message that was given back may take to come again without being looked after.
fn look(lease: Duration) -> Duration {
    (lease / 8).clamp(Duration::from_millis(100), Duration::from_secs(2))
}
