//! Who is there, as far as heartbeats tell.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How much longer than a heartbeat lasts an observer waits: its owner gives up earlier.
const MARGIN: f64 = 1.1;

/// The members of a group as one of them sees them.
#[derive(Debug)]
pub(crate) struct Members {
    me: String,
    others: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When the heartbeat changed last, on our clock.
    at: Instant,
    sequence: u64,
    lasts: Duration,
    /// It takes no lanes any more, and frees those it has.
    leaving: bool,
    /// Its time is over, and nothing newer was found.
    gone: bool,
}

impl Members {
    pub(crate) const fn new(me: String) -> Self {
        Self { me, others: BTreeMap::new() }
    }

    /// Nothing could be heard of anybody since then: this time does not count. What was heard before
    /// does, else nobody would ever be gone where the connection breaks again and again.
    pub(crate) fn was_deaf(&mut self, since: Instant) {
        let now = Instant::now();
        let deaf = now.saturating_duration_since(since);
        self.others.values_mut().for_each(|seen| seen.at = now.min(seen.at + deaf));
    }

    /// A heartbeat.
    pub(crate) fn take(&mut self, member: String, lasts: Duration, leaving: bool, sequence: u64) {
        if member == self.me {
            return;
        }
        let heard = Seen { at: Instant::now(), sequence, lasts, leaving, gone: false };
        let seen = self.others.entry(member).or_insert(heard);
        if sequence > seen.sequence {
            *seen = heard;
        }
    }

    /// Who seems to be gone. To be looked at again before anything follows from it.
    pub(crate) fn suspects(&self) -> Vec<String> {
        let overdue = |seen: &Seen| !seen.gone && seen.is_silent(MARGIN);
        self.others.iter().filter(|(_, seen)| overdue(seen)).map(|(name, _)| name.clone()).collect()
    }

    /// The sequence of the suspect's last heartbeat as it is now.
    pub(crate) fn look_again(&mut self, suspect: &str, sequence: Option<u64>) {
        let Some(seen) = self.others.get_mut(suspect) else { return };
        match sequence {
            Some(sequence) if sequence > seen.sequence => {
                seen.sequence = sequence;
                seen.at = Instant::now();
            }
            _ => seen.gone = true,
        }
    }

    /// Who is there and takes lanes, in order.
    pub(crate) fn present(&self, with_me: bool) -> Vec<&str> {
        let others = self.others.iter().filter(|(_, seen)| !seen.gone && !seen.leaving);
        let mut present: Vec<_> = others.map(|(name, _)| name.as_str()).collect();
        if with_me {
            present.push(&self.me);
            present.sort_unstable();
        }
        present
    }

    /// Whether an owner still has what the records give it.
    pub(crate) fn holds(&self, owner: &str) -> bool {
        owner == self.me || self.others.get(owner).is_some_and(|seen| !seen.gone)
    }

    /// Somebody whose heartbeat nobody needs any more.
    pub(crate) fn to_bury(&self) -> Option<String> {
        // One of those who are there does it.
        if self.present(true).first() != Some(&&*self.me) {
            return None;
        }
        let old = |seen: &Seen| seen.gone && seen.is_silent(2.0 * MARGIN);
        self.others.iter().find(|(_, seen)| old(seen)).map(|(name, _)| name.clone())
    }

    pub(crate) fn buried(&mut self, member: &str) {
        self.others.remove(member);
    }
}

impl Seen {
    fn is_silent(&self, times: f64) -> bool {
        self.at.elapsed() > self.lasts.mul_f64(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(10);

    fn members() -> Members {
        let mut members = Members::new("b".into());
        members.take("a".into(), LASTS, false, 1);
        members.take("c".into(), LASTS, false, 2);
        members
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_gone_only_after_a_second_look() {
        let mut members = members();
        assert_eq!(members.present(true), ["a", "b", "c"]);
        tokio::time::advance(Duration::from_secs(8)).await;
        members.take("c".into(), LASTS, false, 3);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(members.suspects(), ["a"]);
        assert!(members.holds("a"));
        // It is there after all.
        members.look_again("a", Some(5));
        assert!(members.suspects().is_empty());
        tokio::time::advance(Duration::from_secs(12)).await;
        members.look_again("a", Some(5));
        members.look_again("c", None);
        assert_eq!(members.present(true), ["b"]);
        assert!(!members.holds("a") && members.holds("b") && !members.holds("stranger"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_gap_in_the_news_does_not_count() {
        let mut members = members();
        let gap = Instant::now() + Duration::from_secs(2);
        tokio::time::advance(Duration::from_secs(60)).await;
        members.was_deaf(gap);
        assert!(members.suspects().is_empty());
        // One that was heard after the gap began had less of it.
        members.take("c".into(), LASTS, false, 3);
        members.was_deaf(gap);
        assert!(members.others.values().all(|seen| seen.at <= Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_gone_however_often_the_news_break_off() {
        let mut members = members();
        for sequence in 3..6 {
            tokio::time::advance(Duration::from_secs(4)).await;
            members.take("c".into(), LASTS, false, sequence);
            let gap = Instant::now();
            tokio::time::advance(Duration::from_secs(4)).await;
            members.was_deaf(gap);
        }
        assert_eq!(members.suspects(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_frees_its_lanes_itself_and_is_buried_by_one() {
        let mut members = members();
        members.take("a".into(), LASTS, true, 9);
        assert_eq!(members.present(false), ["c"]);
        assert!(members.holds("a"));
        tokio::time::advance(Duration::from_secs(12)).await;
        members.take("c".into(), LASTS, false, 10);
        assert_eq!(members.suspects(), ["a"]);
        members.look_again("a", None);
        assert!(!members.holds("a"));
        assert_eq!(members.to_bury(), None);
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(members.to_bury(), Some("a".into()));
        members.buried("a");
        assert_eq!(members.to_bury(), None);
    }
}
