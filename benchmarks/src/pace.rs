//! A load that goes on whatever the answers do: an open loop.
//!
//! Each message has a time at which it is due, fixed before the run. Its latency counts from
//! there, so that a pause of sender or broker shows in every message that it held up, and not in
//! one of them only.

use std::time::Duration;

use posthaste::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::statistics::as_float;

/// Messages are due in small groups, one for each tick.
const TICK: Duration = Duration::from_micros(250);
/// How many ticks the sender may be behind before the clock waits for it. Nothing is hidden by
/// that: what is sent late was due at its tick.
const BEHIND: usize = 4_096;
/// How many confirmations may be outstanding before the sender waits.
const OUTSTANDING: usize = 16_384;

/// How much is due when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    /// Messages a second.
    pub(crate) rate: f64,
    ticks: u32,
}

impl Pace {
    /// That many messages a second, for that long.
    pub(crate) fn new(rate: f64, time: Duration) -> Self {
        let ticks = time.as_micros() / TICK.as_micros();
        Self { rate, ticks: u32::try_from(ticks).unwrap_or(u32::MAX) }
    }

    /// How many are due in all.
    pub(crate) fn messages(&self) -> u32 {
        self.due_by(self.ticks)
    }

    /// How many are due before that tick.
    fn due_by(&self, tick: u32) -> u32 {
        let due = self.rate * TICK.as_secs_f64() * f64::from(tick);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let due = due as u32;
        due
    }
}

/// Sends at that pace, and awaits what `send` returns in the order of sending. Returns for each
/// message the microseconds from when it was due to when its confirmation was there.
pub(crate) async fn open_loop<F, A>(pace: Pace, mut send: F) -> Result<Vec<f64>>
where
    F: AsyncFnMut() -> Result<A>,
    A: Future<Output = Result<()>>,
{
    let (ticking, mut ticks) = mpsc::channel(BEHIND);
    let (sent, mut confirming) = mpsc::channel(OUTSTANDING);
    let start = Instant::now() + 40 * TICK;
    // The runtime's own timers are too coarse: a thread keeps the time.
    let clock = tokio::task::spawn_blocking(move || tick(start, pace.ticks, &ticking));
    let sender = async {
        while let Some(tick) = ticks.recv().await {
            for _ in pace.due_by(tick)..pace.due_by(tick + 1) {
                let answer = send().await?;
                if sent.send((start + tick * TICK, answer)).await.is_err() {
                    return Ok(());
                }
            }
        }
        drop(sent);
        Ok(())
    };
    let collector = async {
        let mut micros = Vec::with_capacity(pace.messages() as usize);
        while let Some((due, answer)) = confirming.recv().await {
            answer.await?;
            micros.push(due.elapsed().as_secs_f64() * 1e6);
        }
        Ok(micros)
    };
    let ((), micros) = tokio::try_join!(sender, collector)?;
    clock.await.map_err(|error| {
        Error::new(ErrorKind::Fatal, "the clock of the benchmark ended").with_source(error)
    })?;
    if micros.len() != pace.messages() as usize {
        return Err(Error::new(ErrorKind::Fatal, "the load was not all sent")
            .with_context("sent", as_float(micros.len()))
            .with_context("wanted", pace.messages()));
    }
    Ok(micros)
}

/// Says each tick when it is due, until nobody listens.
fn tick(start: Instant, ticks: u32, ticking: &mpsc::Sender<u32>) {
    for tick in 0..ticks {
        let due = start + tick * TICK;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Nobody unparks this thread: it is a wait for the clock.
            std::thread::park_timeout(left);
        }
        if ticking.blocking_send(tick).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_due_once() {
        let pace = Pace::new(12_345.0, Duration::from_secs(2));
        assert_eq!(pace.ticks, 8_000);
        let each: u32 = (0..pace.ticks).map(|t| pace.due_by(t + 1) - pace.due_by(t)).sum();
        assert_eq!((each, pace.messages()), (24_690, 24_690));
    }

    #[tokio::test]
    async fn a_pause_shows_in_all_that_it_held_up() {
        let pace = Pace::new(8_000.0, Duration::from_millis(100));
        let mut count = 0;
        let micros = open_loop(pace, async || {
            count += 1;
            if count == 400 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(async { Ok(()) })
        })
        .await
        .unwrap();
        assert_eq!(micros.len(), 800);
        // It stood still for 50 ms, and 400 messages were due in that time. Only one of them would be
        // late if the load had waited.
        let late = micros.iter().filter(|micros| **micros > 10_000.0).count();
        assert!(late >= 200, "{late}");
    }

    #[tokio::test]
    async fn what_fails_is_told() {
        let pace = Pace::new(8_000.0, Duration::from_millis(20));
        let failed = open_loop(pace, async || {
            Ok(async { Err(Error::new(ErrorKind::Timeout, "no answer")) })
        })
        .await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Timeout);
    }
}
