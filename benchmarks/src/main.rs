//! Posthaste against the raw client, on the same NATS server, in the same run.
//!
//! ```text
//! cargo run --release -p benchmarks -- --url nats://127.0.0.1:4222 [--pairs 9] [--quick]
//! ```
//!
//! Each case runs ours and the raw client's alternately, each time on a fresh topic, and prints
//! the medians and the median of the ratios with its range. Messages are 1 KiB. Both sides carry
//! the same headers and wait for the same confirmations; every count is read back.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that prints and owns its tasks"
)]

mod ours;
mod raw;

use std::time::{Duration, Instant};

use posthaste::Result;

/// What is measured, as messages in how much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// One task, each message awaited before the next.
    PublishAwaited,
    /// 64 tasks that await each message, against one task that keeps 256 in flight.
    PublishTasks,
    /// The same tasks, against one task that keeps as many in flight as they can: 64.
    PublishTasksAt64,
    /// A loop that acknowledges each message, against a loop over the raw client's batches.
    ConsumeAck,
}

const CASES: [Case; 4] =
    [Case::PublishAwaited, Case::PublishTasks, Case::PublishTasksAt64, Case::ConsumeAck];

struct Settings {
    url: String,
    pairs: usize,
    scale: u32,
}

fn main() -> Result<()> {
    let settings = arguments()?;
    println!("server: {}", settings.url);
    println!("pairs: {}, payload: 1 KiB, ratio: ours / raw, more is better", settings.pairs);
    for (name, threads) in [("current-thread", 1), ("multi-thread (2)", 2)] {
        println!("\nruntime: {name}");
        for case in CASES {
            measure(&settings, case, threads)?;
        }
    }
    Ok(())
}

fn measure(settings: &Settings, case: Case, threads: usize) -> Result<()> {
    let messages = settings.scale * if case == Case::PublishAwaited { 2_000 } else { 20_000 };
    let (mut ours, mut raw, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..settings.pairs {
        // Alternate who goes first, so that drift of the machine favours nobody.
        let (own, other) = if pair % 2 == 0 {
            let own = run(threads, ours::run(&settings.url, case, messages))?;
            (own, run(threads, raw::run(&settings.url, case, messages))?)
        } else {
            let other = run(threads, raw::run(&settings.url, case, messages))?;
            (run(threads, ours::run(&settings.url, case, messages))?, other)
        };
        let rate = |took: Duration| f64::from(messages) / took.as_secs_f64();
        ours.push(rate(own));
        raw.push(rate(other));
        ratios.push(rate(own) / rate(other));
    }
    let (low, high) = (smallest(&ratios), largest(&ratios));
    println!(
        "{:<17} ours {:>9.0}/s  raw {:>9.0}/s  ratio {:.3}  ({low:.3} to {high:.3})",
        format!("{case:?}"),
        median(&mut ours),
        median(&mut raw),
        median(&mut ratios),
    );
    Ok(())
}

fn run<F>(threads: usize, work: F) -> Result<Duration>
where
    F: Future<Output = Result<Duration>>,
{
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    let runtime = builder.enable_all().build().map_err(failed)?;
    runtime.block_on(work)
}

/// Runs the work and says how long it took.
async fn timed<F>(work: F) -> Result<Duration>
where
    F: Future<Output = Result<()>>,
{
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> posthaste::Error {
    posthaste::Error::new(posthaste::ErrorKind::Fatal, "the benchmark failed").with_source(error)
}

fn arguments() -> Result<Settings> {
    let mut settings = Settings { url: String::new(), pairs: 9, scale: 1 };
    if let Ok(url) = std::env::var("POSTHASTE_NATS_URL") {
        settings.url = url;
    }
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let missing = || posthaste::Error::invalid(format!("{argument} needs a value"));
            arguments.next().ok_or_else(missing)
        };
        match argument.as_str() {
            "--url" => settings.url = value()?,
            "--pairs" => {
                settings.pairs = value()?.parse().map_err(failed)?;
            }
            "--quick" => settings.pairs = 3,
            "--long" => settings.scale = 5,
            other => {
                return Err(posthaste::Error::invalid(format!("unknown argument {other}")));
            }
        }
    }
    if settings.url.is_empty() || settings.pairs == 0 {
        return Err(posthaste::Error::invalid(
            "say which server: --url nats://… or POSTHASTE_NATS_URL, and at least one pair",
        ));
    }
    Ok(settings)
}
