//! One lane's lease: what its holder may believe, and when others may take it.
//!
//! A lease is a key of a bucket that every writer replaces only at the revision it knows. It runs
//! for as long as its revision keeps changing. Clocks of machines are never compared: the holder
//! counts from the moment it sent its last write, everybody else from the moment they saw that
//! write, which is later. So the holder gives up first, by the margin of [`Terms`].
//!
//! Nothing here reads or writes the bucket, or knows what a lane is.

use std::time::Duration;

use tokio::time::Instant;

/// For how long a lease runs, which all members of a group must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    ttl: Duration,
}

impl Terms {
    /// A lease may be taken over when it was not renewed for `ttl`. At least some seconds: a
    /// renewal has to reach the server within four fifths of it.
    pub(crate) const fn new(ttl: Duration) -> Self {
        Self { ttl }
    }

    /// When others may take it, counted from when they saw it change.
    pub(crate) const fn ttl(self) -> Duration {
        self.ttl
    }

    /// When its holder renews it.
    pub(crate) fn renewal(self) -> Duration {
        self.ttl / 3
    }

    /// When its holder tries again after a write without an answer.
    pub(crate) fn retry(self) -> Duration {
        self.ttl / 12
    }

    /// For how long its holder may act on it: a fifth shorter than for others. The rest pays for
    /// clocks that run at different speeds, and for what the holder has still under way.
    pub(crate) fn believed(self) -> Duration {
        self.ttl - self.ttl / 5
    }
}

/// A lease from its holder's side.
///
/// One write is under way at a time. Whoever acts on the lease asks [`is_held`](Self::is_held)
/// directly before, since the process may have been stopped in between.
#[derive(Debug)]
pub(crate) struct Lease {
    terms: Terms,
    revision: u64,
    /// When the last write that is known to count was sent.
    since: Instant,
    under_way: Option<Instant>,
    /// When the first write was sent of those whose outcome is not known.
    doubtful: Option<Instant>,
    next: Instant,
    lost: bool,
}

impl Lease {
    /// Taken by a write that was sent at that time and got that revision.
    pub(crate) fn acquired(terms: Terms, revision: u64, sent: Instant) -> Self {
        Self {
            terms,
            revision,
            since: sent,
            under_way: None,
            doubtful: None,
            next: sent + terms.renewal(),
            lost: false,
        }
    }

    /// Whether it may be acted on.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        !self.lost && now < self.ends_at()
    }

    /// When it is lost unless it is renewed before.
    pub(crate) fn ends_at(&self) -> Instant {
        self.since + self.terms.believed()
    }

    /// When [`write`](Self::write) has something to do, if nothing is under way.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        (self.under_way.is_none() && !self.lost).then_some(self.next)
    }

    /// The next write is due now.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// The revision to replace, if a write is due: it counts as sent now.
    pub(crate) fn write(&mut self, now: Instant) -> Option<u64> {
        let due = self.is_held(now) && self.due_at().is_some_and(|at| at <= now);
        due.then(|| {
            self.under_way = Some(now);
            self.revision
        })
    }

    /// The write was taken and got that revision.
    pub(crate) fn renewed(&mut self, revision: u64) {
        let Some(sent) = self.under_way.take() else { return };
        self.revision = revision;
        self.since = sent;
        self.doubtful = None;
        self.next = sent + self.terms.renewal();
    }

    /// The write got no answer: it may have been taken or not.
    pub(crate) fn unanswered(&mut self, now: Instant) {
        let Some(sent) = self.under_way.take() else { return };
        self.doubtful = Some(self.doubtful.map_or(sent, |first| first.min(sent)));
        self.next = now + self.terms.retry();
    }

    /// The write was refused, and this is what the key holds: its revision, and whether this very
    /// lease wrote it. `None` if that could not be read.
    pub(crate) fn refused(&mut self, found: Option<(u64, bool)>, now: Instant) {
        self.under_way = None;
        match found {
            Some((revision, true)) => self.adopt(revision, now),
            Some((_, false)) => self.lost = true,
            None => self.next = now + self.terms.retry(),
        }
    }

    /// The key was seen to change to that revision; `mine` if this very lease wrote it. Anything
    /// older than what is known is ignored.
    pub(crate) fn seen(&mut self, revision: u64, mine: bool) {
        if revision <= self.revision {
            return;
        }
        if mine {
            let sent = self.doubtful.or(self.under_way);
            self.revision = revision;
            self.since = sent.map_or(self.since, |sent| sent.max(self.since));
        } else {
            self.lost = true;
        }
    }

    /// One of the writes without an answer was taken after all, it is not known which.
    fn adopt(&mut self, revision: u64, now: Instant) {
        self.revision = revision;
        self.since = self.doubtful.take().map_or(self.since, |sent| sent.max(self.since));
        self.next = now;
    }
}

/// A key from the side of those who do not write it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    revision: u64,
    since: Instant,
}

impl Watch {
    /// Seen for the first time now: how long it has been there is not known.
    pub(crate) const fn new(revision: u64, now: Instant) -> Self {
        Self { revision, since: now }
    }

    /// The revision seen last.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Seen with that revision now.
    pub(crate) fn seen(&mut self, revision: u64, now: Instant) {
        if revision != self.revision {
            *self = Self::new(revision, now);
        }
    }

    /// When its holder counts as gone.
    pub(crate) fn expires_at(&self, terms: Terms) -> Instant {
        self.since + terms.ttl()
    }

    /// Whether its holder counts as gone. A write decides: it fails if the key has changed.
    pub(crate) fn is_expired(&self, terms: Terms, now: Instant) -> bool {
        now >= self.expires_at(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms::new(Duration::from_secs(15));

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn is_renewed_at_a_third_and_runs_from_when_that_was_sent() {
        let start = Instant::now();
        let mut lease = Lease::acquired(TERMS, 7, start);
        assert_eq!(lease.write(after(start, 4)), None);
        assert_eq!(lease.write(after(start, 5)), Some(7));
        assert_eq!((lease.write(after(start, 6)), lease.due_at()), (None, None), "under way");
        lease.renewed(9);
        assert_eq!(lease.ends_at(), after(start, 17));
        assert_eq!(lease.due_at(), Some(after(start, 10)));
        assert_eq!(lease.write(after(start, 10)), Some(9));
    }

    #[test]
    fn ends_before_others_may_take_it() {
        let start = Instant::now();
        let lease = Lease::acquired(TERMS, 7, start);
        // Seen at once, which is the earliest.
        let watch = Watch::new(7, start);
        assert!(lease.is_held(after(start, 11)));
        assert!(!lease.is_held(after(start, 12)));
        assert!(!watch.is_expired(TERMS, after(start, 14)));
        assert!(watch.is_expired(TERMS, after(start, 15)));
    }

    #[test]
    fn a_write_without_an_answer_is_tried_again_and_counts_when_it_is_found() {
        let start = Instant::now();
        let mut lease = Lease::acquired(TERMS, 7, start);
        assert!(lease.write(after(start, 5)).is_some());
        lease.unanswered(after(start, 7));
        assert_eq!(lease.ends_at(), after(start, 12), "nothing is known of it");
        assert_eq!(lease.write(after(start, 9)), Some(7));
        // Refused, because the first one was taken.
        lease.refused(Some((8, true)), after(start, 10));
        assert_eq!(lease.ends_at(), after(start, 17));
        assert_eq!(lease.write(after(start, 10)), Some(8));
    }

    #[test]
    fn its_own_write_is_recognized_when_it_is_seen() {
        let start = Instant::now();
        let mut lease = Lease::acquired(TERMS, 7, start);
        assert!(lease.write(after(start, 5)).is_some());
        lease.unanswered(after(start, 7));
        lease.seen(8, true);
        assert_eq!(lease.ends_at(), after(start, 17));
        assert_eq!(lease.write(after(start, 9)), Some(8));
    }

    #[test]
    fn is_lost_to_another_writer_at_once_and_for_good() {
        let start = Instant::now();
        let mut lease = Lease::acquired(TERMS, 7, start);
        lease.seen(6, false);
        assert!(lease.is_held(start), "that was before");
        lease.seen(8, false);
        assert!(!lease.is_held(start));
        assert_eq!(lease.write(after(start, 5)), None);

        let mut lease = Lease::acquired(TERMS, 7, start);
        assert!(lease.write(after(start, 5)).is_some());
        lease.refused(Some((8, false)), after(start, 6));
        assert!(!lease.is_held(after(start, 6)));
    }

    #[test]
    fn a_refusal_that_cannot_be_explained_runs_out() {
        let start = Instant::now();
        let mut lease = Lease::acquired(TERMS, 7, start);
        assert!(lease.write(after(start, 5)).is_some());
        lease.refused(None, after(start, 6));
        assert!(lease.is_held(after(start, 11)));
        assert!(!lease.is_held(after(start, 12)));
    }

    #[test]
    fn a_key_counts_as_alive_while_it_changes() {
        let start = Instant::now();
        let mut watch = Watch::new(3, start);
        watch.seen(3, after(start, 10));
        assert_eq!(watch.expires_at(TERMS), after(start, 15));
        watch.seen(4, after(start, 14));
        assert!(!watch.is_expired(TERMS, after(start, 20)));
    }
}
