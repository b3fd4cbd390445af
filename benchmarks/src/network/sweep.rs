//! What is the raw client's best? Every setting is tried, and what was tried is printed.

use std::time::Duration;

use posthaste::Result;

use crate::clock::Sample;
use crate::raw::{How, Load};
use crate::row::Tried;
use crate::runtime::Flavour;
use crate::statistics::{as_float, median};

/// The first run of a sweep, which only tells how long the others shall be.
const PROBE: u32 = 500;
/// A run has at most that many messages and bytes: the server keeps them until the run ends.
const MOST_MESSAGES: f64 = 300_000.0;
const MOST_BYTES: f64 = 256e6;

/// How long runs are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// One run of a sweep.
    sweep: Duration,
    /// How often each setting is tried.
    times: usize,
    /// One run of a pair.
    run: Duration,
    /// One run at a fixed rate.
    pub(super) latency: Duration,
}

/// The best setting.
#[derive(Debug)]
pub(super) struct Tuned {
    pub(super) flavour: Flavour,
    pub(super) window: usize,
    pub(super) rate: f64,
    pub(super) tried: Vec<Tried>,
}

impl Budget {
    pub(super) const fn new(quick: bool) -> Self {
        let millis = Duration::from_millis;
        if quick {
            Self { sweep: millis(100), times: 1, run: millis(150), latency: millis(300) }
        } else {
            Self { sweep: millis(300), times: 3, run: millis(1_000), latency: millis(2_000) }
        }
    }

    /// A load for one run of a pair, at that rate.
    pub(super) fn load(&self, load: &Load, rate: f64) -> Load {
        sized(load, rate, self.run)
    }

    /// Tries each window on each runtime.
    pub(super) fn sweep(
        &self,
        load: &Load,
        windows: &[usize],
        run: impl Fn(Flavour, usize, &Load) -> Result<Sample>,
    ) -> Result<Tuned> {
        self.sweep_of(load, &Flavour::ALL, windows, run)
    }

    /// Tries each window on each of these runtimes.
    pub(super) fn sweep_of(
        &self,
        load: &Load,
        flavours: &[Flavour],
        windows: &[usize],
        run: impl Fn(Flavour, usize, &Load) -> Result<Sample>,
    ) -> Result<Tuned> {
        let settings: Vec<_> = flavours
            .iter()
            .flat_map(|flavour| windows.iter().map(move |window| (*flavour, *window)))
            .collect();
        let (flavour, window) = settings[settings.len() - 1];
        let probe = run(flavour, window, &Load { messages: PROBE, ..load.clone() })?;
        let load = sized(load, probe.rate(), self.sweep);
        let mut rates = vec![Vec::with_capacity(self.times); settings.len()];
        for _ in 0..self.times {
            for ((flavour, window), rates) in settings.iter().zip(&mut rates) {
                rates.push(run(*flavour, *window, &load)?.rate());
            }
        }
        let tried: Vec<_> = settings
            .iter()
            .zip(&rates)
            .map(|((runtime, window), rates)| Tried {
                runtime: *runtime,
                window: *window,
                messages_per_s: median(rates).round(),
            })
            .collect();
        Ok(Tuned::best_of(tried))
    }
}

impl Tuned {
    /// The fastest of what was tried, which is at least one.
    fn best_of(tried: Vec<Tried>) -> Self {
        let best = tried[1..].iter().fold(tried[0], |best, next| {
            if next.messages_per_s > best.messages_per_s { *next } else { best }
        });
        let Tried { runtime: flavour, window, messages_per_s: rate } = best;
        Self { flavour, window, rate, tried }
    }

    /// How the raw client runs at its best.
    pub(super) const fn how(&self, envelope: bool) -> How {
        How { window: self.window, envelope }
    }

    /// What was tried, for people.
    pub(super) fn describe(&self, what: &str) -> String {
        let tried = self.tried.iter().map(|tried| {
            format!("{} {} {:.0}/s", tried.runtime, tried.window, tried.messages_per_s)
        });
        let tried: Vec<_> = tried.collect();
        format!("{what}: {}; best {} {}", tried.join(", "), self.flavour, self.window)
    }

    /// The same where only the runtime was to choose.
    pub(super) fn describe_runtimes(&self, what: &str) -> String {
        let tried = self.tried.iter();
        let tried = tried.map(|tried| format!("{} {:.0}/s", tried.runtime, tried.messages_per_s));
        format!("{what}: {}", tried.collect::<Vec<_>>().join(", "))
    }
}

/// As many messages as fit into that time at that rate, within limits.
fn sized(load: &Load, rate: f64, time: Duration) -> Load {
    let most = (MOST_BYTES / as_float(load.payload.len().max(1))).min(MOST_MESSAGES);
    let messages = (rate * time.as_secs_f64()).clamp(f64::from(PROBE), most);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let messages = messages as u32;
    Load { messages, ..load.clone() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::message::payload;

    fn load(bytes: usize) -> Load {
        Load { url: String::new(), messages: 2, payload: payload(bytes) }
    }

    fn sample(messages: u32, rate: f64) -> Sample {
        let took = Duration::from_secs_f64(f64::from(messages) / rate);
        Sample { messages, took, cpu: Duration::ZERO, allocations: 0 }
    }

    #[test]
    fn the_best_of_all_settings_wins_and_all_are_told() {
        let seen = RefCell::new(Vec::new());
        let tuned = Budget::new(true)
            .sweep(&load(100), &[64, 256], |flavour, window, load| {
                seen.borrow_mut().push((flavour, window));
                let best = (flavour, window) == (Flavour::CurrentThread, 256);
                Ok(sample(load.messages, if best { 90_000.0 } else { 60_000.0 }))
            })
            .unwrap();
        assert_eq!((tuned.flavour, tuned.window), (Flavour::CurrentThread, 256));
        assert_eq!(tuned.rate.round().to_bits(), 90_000.0_f64.to_bits());
        // The probe, and each setting once.
        assert_eq!(seen.into_inner().len(), 5);
        let text = tuned.describe("raw");
        assert!(text.contains("current-thread 256 90000/s"), "{text}");
        assert!(text.contains("multi-thread 64 60000/s"), "{text}");
    }

    #[test]
    fn runs_are_as_long_as_they_shall_be_and_not_too_large() {
        let second = Duration::from_secs(1);
        assert_eq!(sized(&load(100), 80_000.0, second).messages, 80_000);
        assert_eq!(sized(&load(100), 10.0, second).messages, PROBE);
        assert_eq!(sized(&load(100), 1e9, second).messages, 300_000);
        assert_eq!(sized(&load(16_384), 1e9, second).messages, 15_625);
    }
}
