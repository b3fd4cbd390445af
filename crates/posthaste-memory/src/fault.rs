//! Faults for tests of applications: a broker that is down, silent or restarted on demand, and
//! calls that go wrong by chance, the same chance for the same seed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;

use crate::MemoryBroker;
use crate::engine::LinkState;

/// What goes wrong, how often. All chances are from 0 to 1, and 0 unless they are set; what is
/// outside is taken for the nearer end.
///
/// Every decision is drawn from one generator in the order of the calls. So the same seed gives
/// the same faults where the order of calls is the same: under a current-thread runtime with
/// `tokio::time::pause`.
///
/// ```
/// use posthaste_memory::{Faults, MemoryBroker};
/// let broker = MemoryBroker::new();
/// broker.inject(Faults::seeded(7).lose_reply(0.1).fail_publish(0.1).duplicate(0.05));
/// // ... the application under test ...
/// broker.heal();
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "faults do nothing until they are injected"]
pub struct Faults {
    seed: u64,
    fail_publish: f64,
    lose_reply: f64,
    duplicate: f64,
    delay: f64,
    max_delay: Duration,
    disconnect: f64,
    away: Duration,
    limit: u64,
}

impl Faults {
    /// No faults yet.
    pub const fn seeded(seed: u64) -> Self {
        Self {
            seed,
            fail_publish: 0.0,
            lose_reply: 0.0,
            duplicate: 0.0,
            delay: 0.0,
            max_delay: Duration::ZERO,
            disconnect: 0.0,
            away: Duration::ZERO,
            limit: u64::MAX,
        }
    }

    /// The chance of a published entry to be rejected: it is certainly not stored. The error is
    /// transient, of kind `Connection`.
    pub const fn fail_publish(mut self, chance: f64) -> Self {
        self.fail_publish = chance;
        self
    }

    /// The chance of a published entry to be stored without the publisher hearing of it: the
    /// error is transient, of kind `Connection`, and `may_be_stored`.
    pub const fn lose_reply(mut self, chance: f64) -> Self {
        self.lose_reply = chance;
        self
    }

    /// The chance of a delivery to be made twice, back to back and to the same member. Not under
    /// `at_most_once`.
    pub const fn duplicate(mut self, chance: f64) -> Self {
        self.duplicate = chance;
        self
    }

    /// The chance of a publish call to be delayed by up to `max` before it is stored.
    pub const fn delay(mut self, chance: f64, max: Duration) -> Self {
        self.delay = chance;
        self.max_delay = max;
        self
    }

    /// The chance, after each batch that a subscription receives, that its connection breaks and
    /// is back after `away`. The leases of the subscription end with its connection: what it has
    /// not settled comes again at once, to other members or to itself.
    pub const fn disconnect(mut self, chance: f64, away: Duration) -> Self {
        self.disconnect = chance;
        self.away = away;
        self
    }

    /// No more than this many faults in all; unlimited by default.
    pub const fn limit(mut self, faults: u64) -> Self {
        self.limit = faults;
        self
    }
}

/// Faults on demand. They concern every clone, since all reach the same broker.
impl MemoryBroker {
    /// Lets things go wrong by chance from now on, instead of what was injected before.
    pub fn inject(&self, faults: Faults) {
        self.engine().faults.set(Some(faults));
    }

    /// Ends every fault: nothing goes wrong by chance, and the broker can be reached.
    pub fn heal(&self) {
        self.engine().faults.set(None);
        self.up();
    }

    /// Cuts the network: every call fails at once with a transient `Connection` error, nothing is
    /// stored, subscriptions hear `Disconnected`. Leases run on.
    pub fn down(&self) {
        self.relink(LinkState::Down);
    }

    /// Takes every packet and answers none: calls wait until [`up`](Self::up) and then go on.
    /// Leases run on.
    pub fn black_hole(&self) {
        self.relink(LinkState::Silent);
    }

    /// Ends [`down`](Self::down) and [`black_hole`](Self::black_hole).
    pub fn up(&self) {
        self.relink(LinkState::Up);
    }

    /// Kills and starts the broker: connections are dropped, the leases of all members end,
    /// publishes that were under way have no known outcome. Everything confirmed is kept, with
    /// offsets, groups, attempts and dead letters. Subscriptions connect again by themselves.
    pub fn restart(&self) {
        self.engine().restart();
    }

    fn relink(&self, state: LinkState) {
        self.engine().link.set(state);
        self.engine().wake_all();
    }
}

/// What happens to one entry of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    #[default]
    Stored,
    Rejected,
    ReplyLost,
}

/// Draws the faults.
#[derive(Debug)]
pub(crate) struct Injector {
    // So that a broker without faults pays one load.
    active: AtomicBool,
    plan: Mutex<Option<Plan>>,
}

#[derive(Debug)]
struct Plan {
    faults: Faults,
    rng: Rng,
    left: u64,
}

impl Plan {
    fn new(faults: Faults) -> Self {
        Self { rng: Rng::with_seed(faults.seed), left: faults.limit, faults }
    }

    fn strikes(&mut self, chance: f64) -> bool {
        // Nothing is drawn for what cannot happen, so that adding one fault moves no other.
        let strikes = chance > 0.0 && self.left > 0 && self.rng.f64() < chance;
        self.left -= u64::from(strikes);
        strikes
    }
}

impl Injector {
    pub(crate) fn new(faults: Option<Faults>) -> Self {
        let plan = faults.map(Plan::new);
        Self { active: AtomicBool::new(plan.is_some()), plan: Mutex::new(plan) }
    }

    fn set(&self, faults: Option<Faults>) {
        self.active.store(faults.is_some(), Ordering::Release);
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = faults.map(Plan::new);
    }

    /// What happens to each entry of a publish; empty if nothing does.
    pub(crate) fn fates(&self, entries: usize) -> Vec<Fate> {
        self.draw(|plan| {
            let draw = |_| {
                if plan.strikes(plan.faults.fail_publish) {
                    Fate::Rejected
                } else if plan.strikes(plan.faults.lose_reply) {
                    Fate::ReplyLost
                } else {
                    Fate::Stored
                }
            };
            (0..entries).map(draw).collect()
        })
    }

    /// How long a publish call is held up.
    pub(crate) fn delay(&self) -> Option<Duration> {
        self.draw(|plan| {
            let strikes = plan.strikes(plan.faults.delay);
            strikes.then(|| plan.faults.max_delay.mul_f64(plan.rng.f64()))
        })
    }

    pub(crate) fn duplicates(&self) -> bool {
        self.draw(|plan| plan.strikes(plan.faults.duplicate))
    }

    /// For how long a subscription's connection is away.
    pub(crate) fn disconnects(&self) -> Option<Duration> {
        self.draw(|plan| plan.strikes(plan.faults.disconnect).then_some(plan.faults.away))
    }

    fn draw<T: Default>(&self, draw: impl FnOnce(&mut Plan) -> T) -> T {
        if !self.active.load(Ordering::Acquire) {
            return T::default();
        }
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.as_mut().map(draw).unwrap_or_default()
    }
}
