//! What a piece of work takes: time, processor time of this process, allocations.

use std::time::{Duration, Instant};

use posthaste::Result;
use rustix::time::{ClockId, clock_gettime};

use crate::allocations;

/// What one run did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) messages: u32,
    pub(crate) took: Duration,
    /// Of all threads of this process; the broker's is not in it.
    pub(crate) cpu: Duration,
    /// Zero unless the run was counted.
    pub(crate) allocations: u64,
}

impl Sample {
    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.messages) / self.took.as_secs_f64()
    }

    /// Nanoseconds of processor time a message.
    pub(crate) fn cpu_nanos(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / f64::from(self.messages)
    }

    /// Microseconds of processor time a message.
    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu_nanos() / 1e3
    }

    /// Allocations a message.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn allocations(&self) -> f64 {
        self.allocations as f64 / f64::from(self.messages)
    }
}

/// Does the work, which is about that many messages, and measures it.
pub(crate) async fn timed<F>(messages: u32, work: F) -> Result<Sample>
where
    F: Future<Output = Result<()>>,
{
    let before = (processor_time(), allocations::so_far(), Instant::now());
    work.await?;
    let took = before.2.elapsed();
    let allocations = allocations::so_far() - before.1;
    let cpu = processor_time().saturating_sub(before.0);
    Ok(Sample { messages, took, cpu, allocations })
}

/// What this process has used so far, in user and kernel mode.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Neither is ever negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}
