//! Lives with a lane, step by step.

use std::time::Duration;

use tokio::time::Instant;

use super::server::LEASE;
use crate::lanes::doubt::Facts;
use crate::lanes::message::{Place, Step};
use crate::lanes::takeover::Takeover;

/// A life, and a clock.
struct Life {
    life: Takeover<u64>,
    now: Instant,
}

fn facts(pending: u64, delivered: u64, consumer: u64) -> Facts {
    Facts { pending, delivered, consumer, floor: 0 }
}

impl Life {
    fn begin(facts: Facts, clean: bool) -> Self {
        let now = Instant::now();
        Self { life: Takeover::begin(LEASE, &facts, clean, now), now }
    }

    /// With nothing delivered before.
    fn fresh() -> Self {
        Self::begin(facts(0, 0, 0), false)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn arrive(&mut self, sequence: u64, consumer: u64, deliveries: u64) -> Step<u64> {
        self.life.arrived(Place { sequence, consumer, deliveries }, sequence, self.now)
    }

    fn out(&mut self) -> Vec<u64> {
        let mut out = Vec::new();
        self.life.hand_out(100, &mut out, self.now);
        out.into_iter().map(|(sequence, _)| sequence).collect()
    }

    fn learn(&mut self, facts: Facts) {
        assert!(self.life.needs(self.now).ask, "nothing is asked");
        let question = self.life.asked(self.now);
        self.life.learn(question, &facts, self.now);
    }

    fn pull(&mut self) -> usize {
        self.life.needs(self.now).pull
    }
}

#[test]
fn goes_straight_through_when_nothing_was_delivered_before() {
    let mut life = Life::begin(facts(0, 7, 7), false);
    assert_eq!(life.pull(), usize::MAX);
    assert_eq!(life.arrive(9, 8, 1), Step::Kept);
    assert_eq!(life.arrive(12, 9, 1), Step::Kept);
    assert_eq!(life.out(), [9, 12]);
    assert!(!life.life.is_empty());
}

#[test]
fn waits_for_what_somebody_else_may_have() {
    let mut life = Life::begin(facts(2, 7, 7), false);
    assert_eq!(life.pull(), 0, "the server has nothing to deliver again yet");
    life.wait(LEASE + Duration::from_secs(2));
    life.learn(facts(2, 7, 7));
    assert_eq!(life.pull(), 3);
    life.arrive(6, 8, 2);
    life.arrive(4, 9, 2);
    assert_eq!((life.out(), life.pull()), (vec![], 1));
    // The first new one tells that nothing older is left, and the server agrees.
    life.arrive(9, 10, 1);
    assert_eq!((life.out(), life.pull()), (vec![], 0));
    life.learn(facts(3, 9, 10));
    assert_eq!(life.out(), [4, 6, 9]);
    assert_eq!(life.pull(), usize::MAX);
}

#[test]
fn does_not_wait_for_what_was_given_back() {
    let mut life = Life::begin(facts(2, 7, 7), true);
    assert_eq!(life.pull(), 3);
    life.arrive(6, 8, 2);
    life.arrive(4, 9, 2);
    life.life.exhausted(life.now, life.now);
    life.learn(facts(2, 7, 9));
    assert_eq!(life.out(), [4, 6]);
}

#[test]
fn a_sweep_shortens_the_wait() {
    let mut life = Life::begin(facts(2, 7, 7), false);
    assert_eq!(life.life.absent(), Some((0, 7)));
    life.life.swept(life.now);
    life.learn(facts(2, 7, 7));
    assert_eq!((life.pull(), life.life.absent()), (3, None));
}

#[test]
fn one_that_is_still_missing_is_waited_for() {
    let mut life = Life::begin(facts(2, 7, 7), true);
    life.arrive(6, 8, 2);
    life.arrive(9, 9, 1);
    life.learn(facts(3, 9, 9));
    assert_eq!((life.out(), life.pull()), (vec![], 0));
    life.wait(Duration::from_secs(1));
    assert_eq!(life.pull(), 2);
    life.arrive(4, 10, 2);
    life.life.exhausted(life.now, life.now);
    life.learn(facts(3, 9, 10));
    assert_eq!(life.out(), [4, 6, 9]);
}

#[test]
fn a_late_acknowledgement_by_others_makes_it_no_less_sure() {
    // Three were with somebody else; two came, one of which is acknowledged by the other after
    // all. The number alone would say that nothing is missing.
    let mut life = Life::begin(facts(3, 7, 7), false);
    life.wait(LEASE + Duration::from_secs(2));
    life.learn(facts(3, 7, 7));
    life.arrive(5, 8, 2);
    life.arrive(6, 9, 2);
    life.wait(Duration::from_secs(2));
    life.learn(facts(2, 7, 9));
    assert_eq!(life.out(), [0_u64; 0]);
}

#[test]
fn what_the_server_says_to_be_first_goes_out_at_once() {
    let mut life = Life::begin(facts(2, 7, 7), true);
    life.arrive(4, 8, 2);
    life.wait(Duration::from_secs(2));
    life.learn(Facts { floor: 3, ..facts(2, 7, 8) });
    assert_eq!(life.out(), [4]);
    life.arrive(6, 9, 2);
    assert_eq!(life.out(), [0_u64; 0]);
}

#[test]
fn a_skipped_delivery_holds_back_what_is_newer() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    assert_eq!(life.out(), [1]);
    life.arrive(3, 3, 1);
    assert_eq!((life.out(), life.pull()), (vec![], 0));
    life.learn(facts(3, 3, 3));
    assert_eq!(life.out(), [0_u64; 0], "2 is missing");
    life.wait(LEASE + Duration::from_secs(2));
    life.learn(facts(3, 3, 3));
    life.arrive(2, 4, 2);
    life.life.exhausted(life.now, life.now);
    life.learn(facts(3, 3, 4));
    assert_eq!(life.out(), [2, 3]);
}

#[test]
fn a_skipped_delivery_of_what_is_settled_is_no_matter() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    life.arrive(2, 2, 1);
    assert_eq!(life.out(), [1, 2]);
    life.life.settled(1);
    // The third was 1 once more, and was lost.
    life.arrive(5, 4, 1);
    life.learn(facts(2, 5, 4));
    assert_eq!(life.out(), [5]);
}

#[test]
fn after_a_cut_one_question_is_enough_if_nothing_was_lost() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    assert_eq!(life.out(), [1]);
    life.life.interrupted(life.now);
    assert_eq!(life.pull(), 0);
    life.learn(facts(1, 1, 1));
    assert_eq!(life.pull(), usize::MAX);
}

#[test]
fn an_answer_from_before_a_doubt_does_not_end_it() {
    let mut life = Life::fresh();
    let question = life.life.asked(life.now);
    life.life.interrupted(life.now);
    life.life.learn(question, &facts(0, 0, 0), life.now);
    assert!(life.life.is_doubtful());
}

#[test]
fn what_comes_twice_is_not_handed_out_twice() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    life.arrive(2, 2, 1);
    assert_eq!(life.out(), [1, 2]);
    life.life.settled(1);
    assert_eq!(life.arrive(1, 3, 2), Step::AckAgain(1));
    assert_eq!(life.arrive(2, 4, 2), Step::InHand(2));
    assert_eq!(life.out(), [0_u64; 0]);
}

#[test]
fn what_was_given_back_comes_first() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    life.arrive(2, 2, 1);
    assert_eq!(life.out(), [1, 2]);
    life.life.released(1, life.now);
    life.arrive(3, 3, 1);
    assert_eq!((life.out(), life.pull()), (vec![], 1));
    life.arrive(1, 4, 2);
    assert_eq!(life.out(), [1, 3]);
}

#[test]
fn nobody_waits_for_a_message_without_a_key() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    assert_eq!(life.out(), [1]);
    life.life.deferred(1, life.now);
    life.arrive(2, 2, 1);
    assert_eq!((life.out(), life.pull()), (vec![2], usize::MAX));
    assert_eq!(life.arrive(1, 3, 2), Step::Kept);
    assert_eq!(life.out(), [1]);
}

#[test]
fn what_does_not_exist_any_more_is_not_waited_for_for_ever() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    assert_eq!(life.out(), [1]);
    life.life.released(1, life.now);
    life.arrive(2, 2, 1);
    // A purge removed it at the server.
    life.wait(2 * LEASE);
    life.learn(facts(1, 2, 2));
    life.life.exhausted(life.now, life.now);
    life.learn(facts(1, 2, 2));
    assert_eq!(life.out(), [2]);
}

#[test]
fn makes_room_for_what_is_missing() {
    let mut life = Life::begin(facts(2, 7, 7), true);
    life.arrive(9, 8, 1);
    life.arrive(10, 9, 1);
    assert_eq!(life.life.make_room(1, life.now), [10]);
    assert_eq!(life.life.held().copied().collect::<Vec<_>>(), [9]);
    assert_eq!(life.life.give_up(), [9]);
}

#[test]
fn tells_when_core_loses_a_message() {
    let mut life = Life::fresh();
    assert_eq!(life.life.lapses_at(), None);
    life.arrive(1, 1, 1);
    life.arrive(2, 2, 1);
    assert_eq!(life.out(), [1, 2]);
    let ends = life.now + LEASE - Duration::from_secs(1);
    assert_eq!(life.life.lapses_at(), Some(ends));
    life.life.extended(1, life.now + Duration::from_secs(3));
    assert_eq!(life.life.lapses_at(), Some(ends));
    life.life.settled(2);
    assert_eq!(life.life.lapses_at(), Some(ends + Duration::from_secs(3)));
}

#[test]
fn is_clean_when_nothing_is_here_or_out_of_sight() {
    let mut life = Life::fresh();
    assert!(life.life.is_clean());
    life.arrive(1, 1, 1);
    assert!(!life.life.is_clean());
    assert_eq!(life.out(), [1]);
    assert!(!life.life.is_clean());
    life.life.settled(1);
    assert!(life.life.is_clean());
    life.life.interrupted(life.now);
    assert!(!life.life.is_clean());
}

#[test]
fn what_was_thought_settled_is_handed_out_if_it_comes_after_all() {
    let mut life = Life::begin(facts(0, 7, 7), false);
    life.arrive(9, 8, 1);
    assert_eq!(life.out(), [9]);
    // The server was wrong, or somebody else: nothing is lost for it.
    assert_eq!(life.arrive(5, 9, 2), Step::Kept);
    assert_eq!(life.out(), [5]);
}

#[test]
fn an_empty_request_from_before_it_was_due_proves_nothing() {
    let mut life = Life::begin(facts(1, 7, 7), false);
    let early = life.now;
    life.wait(LEASE + Duration::from_secs(2));
    life.life.exhausted(early, life.now);
    life.learn(facts(1, 7, 7));
    life.life.exhausted(early, life.now);
    assert_eq!(life.pull(), 2);
    life.arrive(5, 8, 2);
    life.life.exhausted(life.now, life.now);
    assert_eq!(life.pull(), 0);
}

#[test]
fn deliveries_to_others_in_the_meantime_are_waited_for_longer() {
    let mut life = Life::begin(facts(1, 7, 7), false);
    life.wait(LEASE);
    // A request of the one before was served only now.
    life.learn(facts(2, 8, 8));
    life.wait(Duration::from_secs(2));
    life.learn(facts(2, 8, 8));
    assert_eq!(life.pull(), 0);
    life.wait(LEASE);
    life.learn(facts(2, 8, 8));
    assert_eq!(life.pull(), 3);
}

#[test]
fn what_is_under_way_comes_first() {
    let mut life = Life::fresh();
    life.arrive(1, 1, 1);
    assert_eq!(life.out(), [1]);
    life.arrive(3, 3, 1);
    // Both are known, but one more delivery is on its way.
    life.learn(facts(2, 3, 4));
    assert_eq!(life.out(), [0_u64; 0]);
    life.arrive(2, 4, 2);
    life.wait(Duration::from_secs(2));
    life.learn(facts(3, 3, 4));
    assert_eq!(life.out(), [0_u64; 0], "2 was with somebody else");
}

#[test]
fn deliveries_are_counted_anew_after_a_crash_of_the_server() {
    let mut life = Life::fresh();
    for sequence in 1..=3 {
        life.arrive(sequence, sequence, 1);
    }
    assert_eq!(life.out(), [1, 2, 3]);
    life.life.settled(1);
    life.life.interrupted(life.now);
    life.learn(facts(3, 3, 1));
    assert!(!life.life.needs(life.now).ask);
    // The numbers go on from there: this is not the next one.
    assert_eq!(life.arrive(3, 4, 2), Step::InHand(3));
    assert!(life.life.needs(life.now).ask);
}
