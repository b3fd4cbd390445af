//! What can be measured, and what it shall reach.

use std::fmt;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// One task that enqueues, with a window that is always full.
    PublishPipelined,
    /// 64 tasks, each of which awaits its message before the next.
    Publish64Tasks,
    /// One task, each message awaited before the next.
    PublishAwaited,
    /// Slices of messages, each published by one call.
    PublishAll,
    /// A loop that acknowledges each message.
    ConsumeAck,
    /// Handlers that do nothing, 64 at once, against the loop that acknowledges.
    ConsumeHandlers,
    /// From publish to confirmation, at half of what can be had at most.
    LatencyHalfLoad,
    /// A group after the other reads the whole topic; looks for stalls.
    Drain,
    /// The envelope alone, without sending it.
    Envelope,
    /// Published, read and acknowledged in batches, all at the same time.
    Batches,
    /// Five layers around `Publish` that do nothing.
    Decorators,
}

impl Case {
    /// What there is for a broker behind a network. A drain takes minutes: only by name.
    pub(crate) const NETWORK: &'static [Self] = &[
        Self::PublishPipelined,
        Self::Publish64Tasks,
        Self::PublishAwaited,
        Self::ConsumeAck,
        Self::ConsumeHandlers,
        Self::LatencyHalfLoad,
    ];
    /// What there is for the null broker.
    pub(crate) const NULL: &'static [Self] = &[
        Self::Envelope,
        Self::PublishPipelined,
        Self::PublishAll,
        Self::Publish64Tasks,
        Self::PublishAwaited,
        Self::ConsumeAck,
        Self::Decorators,
    ];
    /// What there is for the in-process broker.
    pub(crate) const MEMORY: &'static [Self] = &[Self::Batches, Self::ConsumeHandlers];

    /// As it is called on the command line and in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PublishPipelined => "publish_pipelined",
            Self::Publish64Tasks => "publish_64_tasks",
            Self::PublishAwaited => "publish_awaited",
            Self::PublishAll => "publish_all",
            Self::ConsumeAck => "consume_ack",
            Self::ConsumeHandlers => "consume_handlers",
            Self::LatencyHalfLoad => "latency_half_load",
            Self::Drain => "drain",
            Self::Envelope => "envelope",
            Self::Batches => "batches",
            Self::Decorators => "decorators",
        }
    }

    /// What our rate, divided by the tuned raw client's, shall be at least, with payloads of 1 KiB.
    pub(crate) const fn wanted_ratio(self) -> Option<f64> {
        match self {
            Self::PublishPipelined | Self::ConsumeAck => Some(0.90),
            Self::Publish64Tasks => Some(0.80),
            Self::PublishAwaited => Some(0.95),
            _ => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
