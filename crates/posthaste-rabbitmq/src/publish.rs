//! Publishing: a batch goes out on a confirm channel of its own, and all of its answers are
//! awaited.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{Destination, Outcomes, SendOptions, Stored};
use posthaste_core::{Envelope, Error, ErrorKind, Result, Timestamp};

use crate::error::BROKER;
use crate::hub::{Hub, Known};
use crate::outgoing::{Outgoing, short};
use crate::{convert, delay, error, groups, names, topology};

pub(crate) async fn publish(
    hub: &Arc<Hub>,
    to: &Destination,
    batch: &[Envelope],
    options: &SendOptions,
) -> Result<Outcomes> {
    hub.open()?;
    if options.deduplicate {
        return Err(Error::unsupported("deduplication: the broker remembers no ids")
            .with_topic(&to.topic)
            .with_broker(BROKER));
    }
    let delay = options.deliver_at.map(|at| at.since(Timestamp::now())).filter(|d| !d.is_zero());
    let target = match target(hub, to, delay).await {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
        Err(error) => return Ok(Outcomes::failed(batch.len(), &error)),
    };
    let mut outcomes: Vec<Option<Result<Stored>>> = Vec::with_capacity(batch.len());
    let mut messages = Vec::with_capacity(batch.len());
    for envelope in batch {
        match message(hub, to, &target, envelope) {
            Ok(message) => {
                messages.push(message);
                outcomes.push(None);
            }
            Err(error) => outcomes.push(Some(Err(error))),
        }
    }
    let mut sent =
        if messages.is_empty() { Default::default() } else { hub.pool.send(messages).await }
            .into_iter();
    let mut changed = false;
    let answered = outcomes.into_iter().zip(batch).map(|(outcome, envelope)| {
        outcome.unwrap_or_else(|| match sent.next() {
            Some(Ok(())) => Ok(stored(to, envelope)),
            Some(Err(error)) => {
                changed |= matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unroutable);
                Err(explain(to, &target, error))
            }
            // There is an outcome for each message that was sent.
            None => Err(error::closed()),
        })
    });
    let outcomes = answered.collect();
    if changed {
        // What is there now is looked at before the next batch.
        hub.forget_seen(&to.topic);
    }
    Ok(outcomes)
}

fn stored(to: &Destination, envelope: &Envelope) -> Stored {
    let mut stored = Stored::default();
    stored.partition = to.layout.partition(envelope).map(u32::from);
    stored
}

/// Where a batch goes.
enum Target {
    Now { exchange: String, key: Option<String> },
    Later(Duration, Option<String>),
}

async fn target(hub: &Arc<Hub>, to: &Destination, delay: Option<Duration>) -> Result<Target> {
    let topic = &to.topic;
    check(hub, to).await?;
    let is_bound = hub.binding(topic);
    if let Some(delay) = delay {
        if is_bound.is_some() {
            return Err(Error::unsupported("a bound topic takes no messages for later")
                .with_topic(topic)
                .with_broker(BROKER));
        }
        delay::ensure(hub).await?;
        let end = match (to.queue, to.layout.partitions()) {
            (true, _) => {
                let group = posthaste_core::GroupName::new(names::QUEUE_GROUP)?;
                Some(groups::private_route(hub, topic, &group, topic.as_str()).await?)
            }
            (false, None) => Some(names::to_topic(topic, None)),
            (false, Some(_)) => None,
        };
        // Refused before the first message, not for each.
        delay::route(delay, "")?;
        return Ok(Target::Later(delay, end));
    }
    Ok(match (is_bound, to.queue, to.layout.partitions()) {
        (Some(binding), ..) => Target::Now {
            exchange: binding.exchange.clone(),
            key: Some(binding.routing_key.clone()),
        },
        (None, true, _) => Target::Now { exchange: String::new(), key: Some(topic.to_string()) },
        (None, false, None) => Target::Now {
            exchange: names::exchange(topic),
            key: Some(names::routing_key(topic, None)),
        },
        (None, false, Some(n)) => {
            Target::Now { exchange: names::lanes_exchange(topic, n), key: None }
        }
    })
}

/// Looks at the topic once for each connection: a message for what is not there would end its
/// channel, and one for another layout would go astray.
///
/// Looking takes some round trips. It goes on when its caller gives up: publishers that are in a
/// hurry would begin anew each time, and never come to an end.
async fn check(hub: &Arc<Hub>, to: &Destination) -> Result<()> {
    if is_known(hub, to) {
        return Ok(());
    }
    // One looks, and the others wait for what it sees.
    let mut seen = hub.checks.join(to, |said| {
        let (looking, of, closing) = (Arc::clone(hub), to.clone(), hub.closing());
        hub.tasks.spawn(async move {
            tokio::select! {
                looked = look(&looking, &of) => said.say(looked),
                () = closing.cancelled() => said.say(Err(error::closed())),
            }
        });
    });
    match seen.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Ok(()))) => Ok(()),
        Ok(Some(Err(error))) => Err(error.duplicate()),
        // Who looks says what it saw.
        _ => Err(error::closed()),
    }
}

async fn look(hub: &Hub, to: &Destination) -> Result<()> {
    hub.publish.open_for_messages(hub.until()).await?;
    let found = topology::describe(hub, &to.topic).await?;
    if found.layout != to.layout || found.queue != to.queue {
        return Err(Error::new(ErrorKind::Conflict, "the topic is laid out in another way")
            .with_context("wanted", format_args!("{:?}", to.layout))
            .with_context("found", format_args!("{:?}", found.layout))
            .with_broker(BROKER));
    }
    Ok(())
}

fn is_known(hub: &Hub, to: &Destination) -> bool {
    let generation = hub.publish.generation();
    let fits = |known: Known| {
        known.seen == generation && known.layout == to.layout && known.queue == to.queue
    };
    generation != 0 && hub.known(&to.topic).is_some_and(fits)
}

fn message(hub: &Hub, to: &Destination, target: &Target, envelope: &Envelope) -> Result<Outgoing> {
    let body = envelope.payload().clone();
    convert::check_size(&body, hub.settings.max_message_bytes)?;
    let properties = convert::properties(envelope)?;
    let partition = to.layout.partition(envelope);
    let (exchange, routing_key) = match target {
        Target::Now { exchange, key } => {
            let key = match key {
                Some(key) => key.clone(),
                None => names::routing_key(&to.topic, partition),
            };
            (short("exchange", exchange.clone())?, short("routing key", key)?)
        }
        Target::Later(delay, Some(end)) => delay::route(*delay, end)?,
        Target::Later(delay, None) => delay::route(*delay, &names::to_topic(&to.topic, partition))?,
    };
    Ok(Outgoing { exchange, routing_key, properties, body })
}

/// What it means that a message came back depends on where it went.
#[cold]
fn explain(to: &Destination, target: &Target, error: Error) -> Error {
    match (error.kind(), target) {
        // The default exchange leads to a queue or to nothing.
        (ErrorKind::Unroutable, Target::Now { .. }) if to.queue => error::no_topic(),
        _ => error,
    }
}
