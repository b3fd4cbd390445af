//! What a consumer is set to, and what of it cannot be.

use std::time::Duration;

use posthaste_core::{
    Bus, Error, Expired, KeyFailure, Order, Result, Start, SubscribeBuilder, Topology,
};

use crate::route::Routes;
use crate::{RetryPolicy, Unknown};

/// Above this, tasks cost more than they bring.
const MOST_WORKERS: usize = 65_536;
/// Unsettled deliveries, if concurrency does not need more.
const PREFETCH: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) group: Option<String>,
    pub(crate) queue: bool,
    pub(crate) order: Order,
    pub(crate) concurrency: usize,
    pub(crate) prefetch: Option<usize>,
    pub(crate) prefetch_bytes: Option<usize>,
    pub(crate) lease: Option<Duration>,
    pub(crate) max_handling: Duration,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) key_failure: KeyFailure,
    pub(crate) key_wait: Option<Duration>,
    pub(crate) expired: Expired,
    pub(crate) from: Option<Start>,
    pub(crate) topology: Option<Topology>,
    pub(crate) member: Option<String>,
    pub(crate) at_most_once: bool,
    pub(crate) strict: bool,
    pub(crate) unknown: Unknown,
    pub(crate) drain: Duration,
    pub(crate) retry: RetryPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            group: None,
            queue: false,
            order: Order::None,
            concurrency: 16,
            prefetch: None,
            prefetch_bytes: None,
            lease: None,
            max_handling: Duration::from_secs(15 * 60),
            time_limit: None,
            key_failure: KeyFailure::DeadLetterKey,
            key_wait: None,
            expired: Expired::DeadLetter,
            from: None,
            topology: None,
            member: None,
            at_most_once: false,
            strict: false,
            unknown: Unknown::Skip,
            drain: Duration::from_secs(30),
            retry: RetryPolicy::exponential(),
        }
    }
}

impl Settings {
    /// The group, that of a queue included.
    pub(crate) fn group_name(&self) -> Option<String> {
        self.group.clone().or_else(|| self.queue.then(|| "queue".to_owned()))
    }

    /// How many deliveries may be unsettled.
    fn prefetch(&self) -> usize {
        self.prefetch.unwrap_or_else(|| PREFETCH.max(self.concurrency.saturating_mul(2)))
    }

    /// Refuses what can be refused without asking the broker.
    ///
    /// # Errors
    /// `Invalid` names the setting.
    pub(crate) fn check(&self, routes: &Routes) -> Result<()> {
        self.retry.check()?;
        let refuse = |setting: &'static str, why: &'static str| {
            Err(Error::invalid(format!("a setting of a consumer {why}"))
                .with_context("setting", setting))
        };
        if !(1..=MOST_WORKERS).contains(&self.concurrency) {
            return refuse("concurrency", "must be 1 to 65,536");
        }
        if self.prefetch() < self.concurrency {
            return refuse("prefetch", "must be at least the concurrency");
        }
        if self.time_limit == Some(Duration::ZERO) {
            return refuse("time_limit", "must be greater than zero");
        }
        if self.time_limit.is_some_and(|limit| limit > self.max_handling) {
            return refuse("time_limit", "must not be longer than max_handling");
        }
        for route in (0..routes.len()).map(|index| routes.get(index)) {
            if route.batch == 0 || route.batch > self.prefetch() {
                return Err(Error::invalid(
                    "a batch has at least one message, and no more than prefetch",
                )
                .with_context("handler", route.handler)
                .with_context("batch", route.batch));
            }
        }
        if self.queue && (routes.topics().count() != 1 || self.group.is_some()) {
            return refuse("queue", "asks for one topic, and its group is the queue's");
        }
        if self.strict && self.group.is_none() && !self.queue {
            return refuse("strict", "asks for a group: without one there are no dead letters");
        }
        if self.strict && self.at_most_once {
            return refuse("strict", "cannot be at most once: what fails would be lost");
        }
        Ok(())
    }

    /// Refuses what the broker cannot keep.
    ///
    /// # Errors
    /// `Unsupported` names what, and the topic.
    pub(crate) fn check_broker(&self, bus: &Bus, routes: &Routes) -> Result<()> {
        let grouped = self.group.is_some() || self.queue;
        for topic in routes.topics() {
            let can = bus.capabilities(Some(topic.as_str()))?;
            if grouped && !self.at_most_once {
                let asked = can.dead_letters.require("the dead letters of a consumer");
                asked.map_err(|error| error.with_topic(topic))?;
            }
            // Those of ordered keys pass in memory.
            let longest = self.retry.longest();
            if self.order == Order::None
                && !self.at_most_once
                && let Some(most) = can.max_nack_delay.filter(|most| longest > *most)
            {
                return Err(Error::unsupported("retry policy: the longest delay is too long here")
                    .with_context("max_delay in seconds", longest.as_secs())
                    .with_context("at most", most.as_secs())
                    .with_topic(topic));
            }
        }
        Ok(())
    }

    /// The subscription of this consumer.
    ///
    /// # Errors
    /// `Unsupported` where the broker has no queues.
    pub(crate) fn subscribe(&self, bus: &Bus, routes: &Routes) -> Result<SubscribeBuilder> {
        let names: Vec<_> = routes.topics().map(|topic| topic.as_str()).collect();
        let mut builder = match &names[..] {
            [only] if self.queue => bus.queue(only)?.subscribe(),
            several => bus.subscribe(several),
        };
        builder = builder
            .order(self.order)
            .prefetch(self.prefetch())
            .max_handling(self.max_handling)
            .max_attempts(self.retry.max_attempts)
            .key_failure(self.key_failure)
            .expired(self.expired);
        if let Some(group) = &self.group {
            builder = builder.group(group);
        }
        if let Some(bytes) = self.prefetch_bytes {
            builder = builder.prefetch_bytes(bytes);
        }
        if let Some(lease) = self.lease {
            builder = builder.lease(lease);
        }
        if let Some(wait) = self.key_wait {
            builder = builder.key_wait(wait);
        }
        if let Some(start) = self.from {
            builder = builder.from(start);
        }
        if let Some(topology) = self.topology {
            builder = builder.topology(topology);
        }
        if let Some(member) = &self.member {
            builder = builder.member(member);
        }
        Ok(if self.at_most_once { builder.at_most_once() } else { builder })
    }
}
