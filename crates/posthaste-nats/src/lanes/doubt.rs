//! Whether messages of a lane may be out of its owner's sight, and how that is found out.
//!
//! The server does not say which messages it waits for, only how many. So the owner compares that
//! number with what it has. Two arguments end a doubt:
//!
//! - *The number is right.* Nothing that the owner has was ever with somebody else, so the server
//!   waits for all of it. If it waits for no more, nothing is missing.
//! - *The server has nothing left.* Some of what the owner has was with somebody else before, whose
//!   late acknowledgement may have settled it: the number may be right by accident. But once the
//!   leases of others have ended, whatever is missing is what the server delivers before anything
//!   else. When it delivers a message for the first time, or has nothing to deliver, and the number
//!   is not too large, then nothing is missing.

use std::time::Duration;

use tokio::time::Instant;

/// The first and the longest pause between two questions to the server.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a delivery may be under way before it counts as lost.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// A question to the server. What happened after it was asked, the answer does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(super) number: u64,
    pub(super) at: Instant,
}

/// What the server says of a lane's consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `num_ack_pending`: how many messages were delivered and are not settled.
    pub(crate) pending: u64,
    /// `delivered.stream_seq`: up to where messages were delivered at all.
    pub(crate) delivered: u64,
    /// `delivered.consumer_seq`: how many deliveries there were.
    pub(crate) consumer: u64,
    /// `ack_floor.stream_seq`: everything of the lane up to there is settled. May be raised to just
    /// below the lane's next message in the stream.
    pub(crate) floor: u64,
}

/// What the owner has, of what was delivered when the server was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// How many messages it has, or has given back.
    pub(super) count: u64,
    /// Whether one of them was with somebody else before.
    pub(super) inherited: bool,
    /// The last delivery that came.
    pub(super) last: u64,
}

/// What is to be thought of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not known yet.
    Open,
    /// A delivery was lost on the way: the doubt begins anew.
    Again,
    /// Nothing is missing.
    Over,
    /// Nothing is missing, and what was given back long before that time and did not come does
    /// not exist any more.
    Exhausted {
        at: Instant,
        /// Whether that is sure, or only likely.
        surely: bool,
    },
}

/// How long others may keep what is out of sight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// What was delivered before the doubt began.
    pub(super) until: Instant,
    /// What was delivered since, from when that is known.
    pub(super) longer: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Dry {
    /// Not before that time.
    at: Instant,
    /// The first question that covers it.
    question: u64,
    surely: bool,
}

#[derive(Debug)]
pub(super) struct Doubt {
    wait: Wait,
    /// How many deliveries the server told of.
    told: u64,
    /// Whether nothing that was delivered before will arrive any more.
    cut: bool,
    /// The first question that covers what is out of sight.
    since: u64,
    /// When whatever is out of sight is what the server delivers first.
    due: Instant,
    ask_at: Instant,
    pull_at: Instant,
    pause: Duration,
    /// The number of deliveries at a time after `due`, and that time.
    due_known: Option<(u64, Instant)>,
    missing: u64,
    /// When the server was seen to have nothing left.
    dry: Option<Dry>,
    /// The next question.
    question: u64,
    /// Deliveries seem to be under way since then.
    under_way: Option<Instant>,
    /// The last delivery that came since the doubt began.
    pub(super) newest: Option<u64>,
    /// Up to where messages were delivered, as far as the server said.
    pub(super) delivered: u64,
    /// Everything up to there is settled, and nothing of it is under way.
    pub(super) floor: u64,
}

impl Doubt {
    /// A doubt that begins now, with questions from that number on.
    pub(super) const fn new(question: u64, cut: bool, wait: Wait, now: Instant) -> Self {
        Self {
            cut,
            wait,
            told: 0,
            since: question,
            question,
            due: wait.until,
            ask_at: now,
            pull_at: now,
            pause: FIRST_PAUSE,
            due_known: None,
            missing: 0,
            dry: None,
            under_way: None,
            newest: None,
            delivered: 0,
            floor: 0,
        }
    }

    /// Nobody else has a lease any more: whatever is missing was given back.
    pub(super) fn hasten(&mut self, now: Instant) {
        if now < self.due {
            self.due = now;
            self.ask_at = now;
        }
    }

    /// A message came. `missing` if it was.
    pub(super) fn arrived(&mut self, consumer: u64, first: bool, missing: bool, now: Instant) {
        self.newest = Some(consumer);
        if missing {
            self.missing = self.missing.saturating_sub(1);
        }
        if let Some((due, at)) = self.due_known
            && first
            && consumer > due
        {
            self.run_dry(at, now);
        }
    }

    /// Whether that delivery was made when whatever is out of sight was due. If the message is
    /// given back after it, all of that comes before it.
    pub(super) fn is_after_due(&self, consumer: u64) -> bool {
        self.due_known.is_some_and(|(due, _)| consumer > due)
    }

    /// A request of that time ended, because the server had nothing to deliver.
    pub(super) fn exhausted(&mut self, requested: Instant, now: Instant) {
        if self.due_known.is_some() && requested >= self.due {
            self.run_dry(requested, now);
        }
    }

    /// A message came again that the server had put behind all others.
    pub(super) fn nearly_dry(&mut self, now: Instant) {
        if let (None, Some((_, at))) = (self.dry, self.due_known) {
            self.dry = Some(Dry { at, question: self.question, surely: false });
            self.ask_at = now;
        }
    }

    fn run_dry(&mut self, at: Instant, now: Instant) {
        if self.dry.is_none_or(|dry| !dry.surely) {
            self.dry = Some(Dry { at, question: self.question, surely: true });
            self.ask_at = now;
        }
    }

    /// The server tells how many deliveries there were. Those that nobody here knew of were made
    /// at any time until now.
    pub(super) fn told(&mut self, consumer: u64, last: u64, now: Instant) {
        if self.due_known.is_none() && consumer > last.max(self.told) {
            self.due = self.due.max(now + self.wait.longer);
        }
        self.told = self.told.max(consumer);
    }

    pub(super) fn judge(
        &mut self,
        question: Question,
        facts: &Facts,
        sight: Sight,
        now: Instant,
    ) -> Verdict {
        if question.number < self.since {
            return Verdict::Open;
        }
        self.told(facts.consumer, sight.last, now);
        // What is under way should not come when its turn is over.
        let all_here = facts.consumer <= sight.last;
        self.under_way = (!all_here).then(|| self.under_way.unwrap_or(now));
        let waited = self.under_way.is_some_and(|since| now >= since + UNDER_WAY);
        if !sight.inherited && facts.pending == sight.count && (all_here || waited) {
            return Verdict::Over;
        }
        self.delivered = self.delivered.max(facts.delivered);
        if all_here {
            self.floor = self.floor.max(facts.floor);
        }
        self.missing = facts.pending.saturating_sub(sight.count);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.ask_at = now + self.pause;
        if question.at < self.due {
            self.ask_at = self.ask_at.min(self.due);
            return Verdict::Open;
        }
        let Some(dry) = self.dry.filter(|dry| question.number >= dry.question) else {
            self.due_known.get_or_insert((facts.consumer, question.at));
            return Verdict::Open;
        };
        if !all_here {
            return if waited { Verdict::Again } else { Verdict::Open };
        }
        if facts.pending <= sight.count {
            return Verdict::Exhausted { at: dry.at, surely: dry.surely };
        }
        // Something is with the server that it does not deliver yet.
        self.dry = None;
        self.due_known = Some((facts.consumer, question.at));
        self.pull_at = self.ask_at;
        Verdict::Open
    }

    /// Whether nothing can be under way when the question is answered: nothing was requested
    /// since the connection was cut.
    pub(super) const fn is_quiet(&self, question: Question) -> bool {
        let covered = question.number >= self.since;
        self.cut && covered && self.newest.is_none() && self.due_known.is_none()
    }

    /// The server is asked that now.
    pub(super) fn asked(&mut self, question: Question) {
        self.question = question.number + 1;
        self.ask_at = question.at + LONGEST_PAUSE;
    }

    /// Whether the server can still be helped to deliver what is out of sight.
    pub(super) const fn can_be_hastened(&self) -> bool {
        self.due_known.is_none()
    }

    pub(super) fn wants_to_ask(&self, now: Instant) -> bool {
        now >= self.ask_at
    }

    /// How many messages to have requested, besides those that were given back.
    pub(super) fn wants(&self, now: Instant) -> Option<u64> {
        let pulls = self.due_known.is_some() && self.dry.is_none() && now >= self.pull_at;
        pulls.then(|| self.missing.saturating_add(1))
    }

    pub(super) fn wake(&self, now: Instant) -> Instant {
        if now < self.pull_at { self.ask_at.min(self.pull_at) } else { self.ask_at }
    }
}
