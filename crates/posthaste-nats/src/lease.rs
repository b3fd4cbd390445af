//! Leases by this process's clock.
//!
//! The server takes a late verdict as if it came from whoever holds the message now. So a
//! verdict is sent only while the lease is known to last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use posthaste_core::broker::Token;
use tokio::time::Instant;

/// How many prolonged leases are looked through for ended ones at a time.
const LOOK_THROUGH: usize = 4_096;

/// Knows when leases end.
///
/// A token carries when its delivery came, in milliseconds since the clock began; only leases
/// that were prolonged need a place of their own.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    began: Instant,
    lease: Duration,
    prolonged: Mutex<HashMap<(u32, u64), Instant>>,
}

impl LeaseClock {
    /// The lease counts as ended a little before it is at the server: what is sent at its end
    /// arrives later.
    pub(crate) fn new(lease: Duration) -> Self {
        let margin = (lease / 10).min(Duration::from_secs(1));
        Self { began: Instant::now(), lease: lease - margin, prolonged: Mutex::default() }
    }

    /// How long a lease lasts.
    pub(crate) const fn lease(&self) -> Duration {
        self.lease
    }

    /// What a token says of a delivery that came at that time.
    pub(crate) fn stamp(&self, at: Instant) -> u32 {
        let millis = at.saturating_duration_since(self.began).as_millis();
        // Wraps after 49 days; ages are told by wrapping differences.
        u32::try_from(millis & u128::from(u32::MAX)).unwrap_or_default()
    }

    /// Whether the delivery's lease has ended.
    pub(crate) fn is_over(&self, token: &Token) -> bool {
        let now = Instant::now();
        let age = self.stamp(now).wrapping_sub(token.generation);
        // Half of the range is for what lies ahead.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        if Duration::from_millis(age.into()) < self.lease {
            return false;
        }
        self.prolonged().get(&key(token)).is_none_or(|until| *until <= now)
    }

    /// The lease was prolonged now.
    pub(crate) fn prolong(&self, token: &Token) {
        let now = Instant::now();
        let mut prolonged = self.prolonged();
        if prolonged.len() >= LOOK_THROUGH && prolonged.len().is_power_of_two() {
            prolonged.retain(|_, until| *until > now);
        }
        prolonged.insert(key(token), now + self.lease);
    }

    /// The delivery is settled.
    pub(crate) fn forget(&self, token: &Token) {
        let mut prolonged = self.prolonged();
        if !prolonged.is_empty() {
            prolonged.remove(&key(token));
        }
    }

    fn prolonged(&self) -> std::sync::MutexGuard<'_, HashMap<(u32, u64), Instant>> {
        // Nothing panics while it is held but an allocation that failed.
        self.prolonged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn key(token: &Token) -> (u32, u64) {
    (token.lane, token.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn token(clock: &LeaseClock, sequence: u64) -> Token {
        Token::sequence(0, clock.stamp(Instant::now()), sequence)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_a_little_early_and_lasts_when_prolonged() {
        let clock = LeaseClock::new(LEASE);
        let (one, two) = (token(&clock, 1), token(&clock, 2));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(!clock.is_over(&one));
        clock.prolong(&one);
        tokio::time::advance(Duration::from_millis(9_500)).await;
        assert!(!clock.is_over(&one));
        assert!(clock.is_over(&two));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(clock.is_over(&one));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_may_live_long() {
        let clock = LeaseClock::new(LEASE);
        tokio::time::advance(Duration::from_secs(50 * 86_400)).await;
        let token = token(&clock, 1);
        assert!(!clock.is_over(&token));
        tokio::time::advance(LEASE).await;
        assert!(clock.is_over(&token));
    }

    #[tokio::test(start_paused = true)]
    async fn ended_leases_do_not_pile_up() {
        let clock = LeaseClock::new(LEASE);
        for sequence in 0..3 * LOOK_THROUGH as u64 {
            clock.prolong(&token(&clock, sequence));
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert!(clock.prolonged().len() < 3 * LOOK_THROUGH);
    }
}
