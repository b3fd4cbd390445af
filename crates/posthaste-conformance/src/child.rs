//! The other side of cases that kill a process: what a child does until it is killed.
//!
//! The `main` of a test binary asks [`role`](crate::fault::role) first. For [`CONSUMER`] it makes a
//! connection from what [`Instance::child_env`] left in the environment, and calls [`play`].

use std::env;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Broker, Error, Result};

use crate::fault::{Child, say};
use crate::harness::Instance;
use crate::scene::Scene;

/// The role of a consumer that takes deliveries and never settles them.
pub const CONSUMER: &str = "conformance-consumer";

/// What the consumer says when its group exists.
pub(crate) const READY: &str = "ready";

const TOPIC: &str = "POSTHASTE_CHILD_TOPIC";
const GROUP: &str = "POSTHASTE_CHILD_GROUP";
const COUNT: &str = "POSTHASTE_CHILD_COUNT";
const LEASE: &str = "POSTHASTE_CHILD_LEASE_MS";

/// Plays the consumer: takes as many deliveries as it was told to, says so, and holds them until
/// the process is killed.
///
/// # Errors
/// When the environment is not that of a child, or the broker fails.
///
/// # Cancel safety
/// When dropped, what it holds is given back.
pub async fn play(broker: Arc<dyn Broker>) -> Result<()> {
    let text = |name: &'static str| {
        env::var(name)
            .map_err(|_| Error::invalid("not started as a child").with_context("no", name))
    };
    let number = |name: &'static str| {
        text(name)?.parse::<u32>().map_err(|error| Error::invalid(name).with_source(error))
    };
    let count = usize::try_from(number(COUNT)?).unwrap_or(usize::MAX);
    let lease = Duration::from_millis(number(LEASE)?.into());
    let bus = Scene::bus_over(broker).build()?;
    let inbox = bus.subscribe(text(TOPIC)?).group(text(GROUP)?).prefetch(count).lease(lease);
    let mut inbox = inbox.start().await?;
    say(READY);
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        match inbox.next().await {
            Some(delivery) => held.push(delivery?),
            None => return Err(Error::closed("the subscription ended")),
        }
    }
    say(holding(count));
    pending().await
}

/// Starts a consumer in a process of its own.
pub(crate) fn consumer(
    instance: &dyn Instance,
    topic: &str,
    group: &str,
    count: usize,
    lease: Duration,
) -> Result<Child> {
    let mut env = instance.child_env();
    env.push((TOPIC, topic.to_owned()));
    env.push((GROUP, group.to_owned()));
    env.push((COUNT, count.to_string()));
    env.push((LEASE, lease.as_millis().to_string()));
    Child::spawn(CONSUMER, &env)
}

/// What the consumer says when it has all it was to take.
pub(crate) fn holding(count: usize) -> String {
    format!("holding {count}")
}
