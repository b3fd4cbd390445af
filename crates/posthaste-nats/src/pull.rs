//! The books of one consumer's pull requests: how many messages are still to come.
//!
//! Messages do not say which request they answer, and the server serves several requests in
//! turn. So only the sum is kept exactly; a request that ends says what it had left.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long the end of a request may be late before it counts as lost.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Pulls {
    open: VecDeque<Open>,
    outstanding: usize,
    next: u64,
}

#[derive(Debug)]
struct Open {
    number: u64,
    batch: usize,
    until: Instant,
}

impl Pulls {
    /// A request for that many messages, which the server ends at `until`. Returns its number.
    pub(crate) fn issue(&mut self, batch: usize, until: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.outstanding += batch;
        self.open.push_back(Open { number, batch, until });
        number
    }

    /// How many messages may still come.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// A message came.
    pub(crate) fn received(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            // Whatever is open was fulfilled; the server says nothing of that.
            self.open.clear();
        }
    }

    /// A request ended with that many messages not delivered, where the server says so.
    pub(crate) fn ended(&mut self, number: u64, left: Option<usize>) {
        let Some(at) = self.open.iter().position(|open| open.number == number) else { return };
        let ended = self.open.remove(at);
        if let Some(left) = left {
            let batch = ended.map_or(0, |open| open.batch);
            self.outstanding = self.outstanding.saturating_sub(left.min(batch));
        }
        self.bound();
    }

    /// No more can come than the open requests asked for.
    fn bound(&mut self) {
        let asked = self.open.iter().map(|open| open.batch).sum();
        self.outstanding = self.outstanding.min(asked);
        if self.outstanding == 0 {
            self.open.clear();
        }
    }

    /// Nothing will come any more.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.outstanding = 0;
    }

    /// Forgets requests whose end is overdue. Returns whether messages were still awaited from
    /// them: then the requests, or the ends of them, were lost.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let before = self.outstanding;
        while self.open.front().is_some_and(|open| open.until + GRACE <= now) {
            self.open.pop_front();
        }
        self.bound();
        self.outstanding < before
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        self.open.front().map(|open| open.until + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_what_is_still_to_come() {
        let until = Instant::now() + Duration::from_secs(2);
        let mut pulls = Pulls::default();
        let one = pulls.issue(10, until);
        let two = pulls.issue(5, until);
        assert_eq!(pulls.outstanding(), 15);
        (0..4).for_each(|_| pulls.received());
        // The server served both in turn: what each has left, it says itself.
        pulls.ended(one, Some(8));
        assert_eq!(pulls.outstanding(), 3);
        pulls.ended(one, Some(8));
        assert_eq!(pulls.outstanding(), 3, "an end is counted once");
        pulls.ended(two, Some(3));
        assert_eq!(pulls.outstanding(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_without_a_count_leaves_what_the_others_asked_for() {
        let until = Instant::now() + Duration::from_secs(2);
        let mut pulls = Pulls::default();
        let one = pulls.issue(10, until);
        let two = pulls.issue(5, until);
        pulls.ended(one, None);
        assert_eq!(pulls.outstanding(), 5);
        pulls.ended(two, None);
        assert_eq!(pulls.outstanding(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_request_is_noticed_and_a_fulfilled_one_is_not() {
        let now = Instant::now();
        let mut pulls = Pulls::default();
        pulls.issue(2, now + Duration::from_secs(1));
        pulls.received();
        pulls.received();
        pulls.issue(3, now + Duration::from_secs(2));
        assert_eq!(pulls.overdue_at(), Some(now + Duration::from_secs(3)));
        assert!(!pulls.expire(now + Duration::from_millis(2_500)));
        assert!(pulls.expire(now + Duration::from_secs(3)));
        assert_eq!((pulls.outstanding(), pulls.overdue_at()), (0, None));
    }

    /// A server that serves requests in turn, one message each.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Issue(usize),
        Deliver,
        End,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1_usize..6).prop_map(Step::Issue),
            Just(Step::Deliver),
            Just(Step::Deliver),
            Just(Step::End),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn agrees_with_a_server_that_tells_what_is_left(steps in steps()) {
            let mut pulls = Pulls::default();
            // What the server has waiting: number and messages left.
            let mut server: VecDeque<(u64, usize)> = VecDeque::new();
            let until = Instant::from_std(std::time::Instant::now()) + Duration::from_secs(60);
            for step in steps {
                match step {
                    Step::Issue(batch) => server.push_back((pulls.issue(batch, until), batch)),
                    Step::Deliver => {
                        if let Some((number, left)) = server.pop_front() {
                            pulls.received();
                            if left > 1 {
                                server.push_back((number, left - 1));
                            }
                        }
                    }
                    Step::End => {
                        if let Some((number, left)) = server.pop_front() {
                            pulls.ended(number, Some(left));
                        }
                    }
                }
                let waiting: usize = server.iter().map(|(_, left)| left).sum();
                prop_assert_eq!(pulls.outstanding(), waiting);
            }
        }
    }
}
