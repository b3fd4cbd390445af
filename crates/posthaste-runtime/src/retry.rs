//! When a message that failed is tried again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Error, Result};

use crate::{Class, HandlerError, Outcome};

type Classify = Arc<dyn Fn(&HandlerError) -> Class + Send + Sync>;

/// When a message that failed is tried again, and when it is given up.
///
/// A delivery that fails is tried again at once, in memory, as often as
/// [`immediate`](Self::immediate) says; then it is given back to the broker, which delivers it
/// again after the delay, also to another member or after a restart. After
/// [`max_attempts`](Self::max_attempts) deliveries it becomes a dead letter, so a handler runs at
/// most `max_attempts × (1 + immediate)` times for a message, crashes aside.
///
/// Under `Order::PerKey` the delay passes in memory, and the key waits.
///
/// ```
/// use std::time::Duration;
/// use posthaste_runtime::RetryPolicy;
/// let policy = RetryPolicy::exponential().initial(Duration::from_millis(200)).max_attempts(8);
/// ```
#[derive(Clone)]
#[must_use = "a policy does nothing until it is given to a consumer"]
pub struct RetryPolicy {
    pub(crate) immediate: u32,
    initial: Duration,
    factor: f64,
    max_delay: Duration,
    jitter: bool,
    pub(crate) max_attempts: u32,
    pub(crate) max_age: Option<Duration>,
    classify: Option<Classify>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::exponential()
    }
}

impl RetryPolicy {
    /// Up to five deliveries; between them at most 1 s, 2 s, 4 s and so on up to 5 min, with full
    /// jitter.
    pub const fn exponential() -> Self {
        Self {
            immediate: 0,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max_delay: Duration::from_secs(300),
            jitter: true,
            max_attempts: 5,
            max_age: None,
            classify: None,
        }
    }

    /// Up to five deliveries, with that time between them.
    pub fn fixed(delay: Duration) -> Self {
        Self { initial: delay, factor: 1.0, max_delay: delay, jitter: false, ..Self::exponential() }
    }

    /// Never: the first failure makes a dead letter.
    pub fn none() -> Self {
        Self { max_attempts: 1, ..Self::exponential() }
    }

    /// How often a delivery is tried again at once, in this process, before it is given back.
    /// Default: 0. Not for handlers of batches.
    pub const fn immediate(mut self, times: u32) -> Self {
        self.immediate = times;
        self
    }

    /// The delay before the second delivery. Default: 1 s.
    pub const fn initial(mut self, delay: Duration) -> Self {
        self.initial = delay;
        self
    }

    /// By how much a delay is longer than the one before. Default: 2.
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The longest delay. Default: 5 min.
    pub const fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Each delay exactly as long as computed, instead of a random part of it.
    pub const fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// After how many deliveries a message that fails is given up. Default: 5.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// From which age on a message that fails is given up, counted from when the broker stored it,
    /// or from its own time where the broker does not tell. Default: none.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// What becomes of a message by its handler's error, where the error does not say so itself.
    /// Default: again.
    pub fn classify(
        mut self,
        classify: impl Fn(&HandlerError) -> Class + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
        self
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// `Invalid` names the one that is wrong.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = [
            ("max_attempts", self.max_attempts == 0, "must be greater than zero"),
            ("max_age", self.max_age == Some(Duration::ZERO), "must be greater than zero"),
            ("factor", !(self.factor.is_finite() && self.factor >= 1.0), "must be 1 or more"),
            ("max_delay", self.max_delay < self.initial, "must be at least the initial delay"),
        ];
        match wrong.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
            Some((setting, _, why)) => {
                Err(Error::invalid(format!("a setting of the retry policy {why}"))
                    .with_context("setting", setting))
            }
            None => Ok(()),
        }
    }

    /// The longest delay that can come of it.
    pub(crate) fn longest(&self) -> Duration {
        if self.max_attempts == 1 { Duration::ZERO } else { self.max_delay }
    }

    /// The delay after that delivery has failed.
    pub(crate) fn delay(&self, attempt: u32) -> Duration {
        if self.initial.is_zero() {
            return Duration::ZERO;
        }
        let doublings = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(doublings);
        let longest = self.max_delay.as_secs_f64();
        let seconds = if seconds.is_nan() { longest } else { seconds.min(longest) };
        let part = if self.jitter { fastrand::f64() } else { 1.0 };
        Duration::try_from_secs_f64(seconds * part).unwrap_or(self.max_delay).min(self.max_delay)
    }

    /// What becomes of a message whose handler failed so.
    pub(crate) fn class(&self, error: &HandlerError) -> Class {
        let policy = || self.classify.as_ref().map(|classify| classify(error));
        error.class().or_else(policy).unwrap_or(Class::Retry)
    }

    /// Whether a delivery that was tried so often before is tried again at once.
    pub(crate) fn is_immediate(&self, outcome: &Outcome, again: u32) -> bool {
        again < self.immediate
            && match outcome {
                Outcome::Retry => true,
                Outcome::Failed(error) => self.class(error) == Class::Retry,
                Outcome::Ack
                | Outcome::RetryAfter(_)
                | Outcome::DeadLetter(_)
                | Outcome::Discard => false,
            }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("immediate", &self.immediate)
            .field("initial", &self.initial)
            .field("factor", &self.factor)
            .field("max_delay", &self.max_delay)
            .field("jitter", &self.jitter)
            .field("max_attempts", &self.max_attempts)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the numbers: no delay is longer than the longest, none shrinks without jitter,
        /// and with it each is a part of the one without.
        #[test]
        fn delays_stay_within_their_bounds(
            initial in 0_u64..100_000, more in 0_u64..10_000_000, factor in 1.0_f64..1e9,
            attempt in 1_u32..u32::MAX,
        ) {
            let longest = Duration::from_millis(initial + more);
            let policy = RetryPolicy::exponential()
                .initial(Duration::from_millis(initial)).max_delay(longest).factor(factor);
            policy.check().unwrap();
            let exact = policy.clone().without_jitter();
            prop_assert!(exact.delay(attempt) <= longest);
            prop_assert!(exact.delay(attempt) <= exact.delay(attempt.saturating_add(1)));
            prop_assert!(policy.delay(attempt) <= exact.delay(attempt));
            prop_assert_eq!(exact.delay(1), Duration::from_millis(initial));
        }
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let policy = RetryPolicy::exponential().max_delay(Duration::from_secs(5)).without_jitter();
        let delays: Vec<_> = (1..=5).map(|attempt| policy.delay(attempt).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        let fixed = RetryPolicy::fixed(Duration::from_secs(3));
        assert_eq!((fixed.delay(1), fixed.delay(9)), (fixed.delay(2), Duration::from_secs(3)));
    }

    #[test]
    fn jitter_uses_the_whole_of_a_delay() {
        let policy = RetryPolicy::exponential();
        let delays: Vec<_> = (0..1_000).map(|_| policy.delay(1).as_secs_f64()).collect();
        assert!(delays.iter().any(|delay| *delay < 0.1) && delays.iter().any(|delay| *delay > 0.9));
    }

    #[test]
    fn an_error_that_says_so_itself_is_not_classified() {
        let policy = RetryPolicy::exponential().classify(|_| Class::Discard);
        assert_eq!(policy.class(&HandlerError::new("any")), Class::Discard);
        assert_eq!(policy.class(&HandlerError::permanent("never")), Class::Permanent);
        let undecodable = Error::new(posthaste_core::ErrorKind::Decode, "no JSON");
        assert_eq!(policy.class(&undecodable.into()), Class::Permanent);
        let second = Duration::from_secs(1);
        let later = HandlerError::retry_after(second, "busy");
        assert_eq!(policy.class(&later), Class::RetryAfter(second));
    }
}
