//! Topics: an exchange of the topic's name, with a mark that says how the topic is laid out; or, for
//! a queue, a queue of that name.

use std::sync::Arc;

use lapin::ExchangeKind;
use lapin::types::FieldTable;
use posthaste_core::{
    Difference, Error, ErrorKind, Layout, Result, TopicInfo, TopicName, TopicSpec,
};

use crate::arguments::{self, Wish};
use crate::declare::{Desk, refuse};
use crate::error::{self, BROKER};
use crate::groups;
use crate::hub::{Hub, Known};
use crate::names::{self, QUEUE_GROUP};
use crate::{delay, registry};

/// What the topic is.
///
/// # Errors
/// `NotFound` if it does not exist.
pub(crate) async fn describe(hub: &Hub, topic: &TopicName) -> Result<TopicInfo> {
    // Asked before it is looked at, so that what changes meanwhile is looked at again.
    let seen = hub.publish.generation();
    let mut desk = Desk::new(hub);
    let found = look(hub, &mut desk, topic).await;
    desk.close().await;
    let info = found.inspect_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            hub.forget(topic);
        }
    })?;
    hub.learn(topic, Known { layout: info.layout, queue: info.queue, seen, spec: None });
    Ok(info)
}

async fn look(hub: &Hub, desk: &mut Desk<'_>, topic: &TopicName) -> Result<TopicInfo> {
    let plain = |native: String| TopicInfo::new(topic.clone(), Layout::Plain, false, native);
    if let Some(binding) = hub.binding(topic) {
        return match desk.has_exchange(&binding.exchange).await? {
            true => Ok(plain(binding.exchange.clone())),
            false => Err(error::no_topic().with_context("exchange", &binding.exchange)),
        };
    }
    let exchange = names::exchange(topic);
    if desk.has_exchange(&exchange).await? {
        let word = match desk.word(&names::layout_mark(topic)).await {
            Ok(word) => word,
            // Who may only send and receive takes it for what it was said to be.
            Err(error) if error.kind() == ErrorKind::Auth => {
                hub.known(topic).map(|known| names::layout_word(known.layout))
            }
            Err(error) => return Err(error),
        };
        // One that somebody else made is plain, too.
        let layout = word.and_then(|word| names::layout_of(&word)).unwrap_or_default();
        return Ok(TopicInfo::new(topic.clone(), layout, false, exchange));
    }
    match desk.queue_state(topic.as_str()).await? {
        Some(_) => Ok(TopicInfo::new(topic.clone(), Layout::Plain, true, topic.to_string())),
        None => Err(error::no_topic()),
    }
}

/// How the topic differs from the spec.
///
/// # Errors
/// `NotFound`; `Unsupported` for a setting that there is not.
pub(crate) async fn compare(hub: &Hub, spec: &TopicSpec) -> Result<Vec<Difference>> {
    check(spec)?;
    let found = describe(hub, &spec.name).await?;
    Ok(differences(spec, &found))
}

fn differences(spec: &TopicSpec, found: &TopicInfo) -> Vec<Difference> {
    let mut differences = Vec::new();
    let word = |queue: bool| if queue { "queue" } else { "topic" };
    if spec.queue != found.queue {
        differences.push(Difference::new("kind", word(spec.queue), word(found.queue)));
    }
    if spec.layout != found.layout {
        let count = |layout: Layout| {
            layout.partitions().map_or_else(|| "none".to_owned(), |count| count.to_string())
        };
        let (wanted, found) = (count(spec.layout), count(found.layout));
        differences.push(Difference::new("partitions", wanted, found));
    }
    differences
}

/// Takes the spec for the truth.
pub(crate) fn assume(hub: &Hub, spec: &TopicSpec) -> TopicInfo {
    hub.learn(
        &spec.name,
        Known {
            layout: spec.layout,
            queue: spec.queue,
            seen: 0,
            spec: Some(Arc::new(spec.clone())),
        },
    );
    let native = match hub.binding(&spec.name) {
        Some(binding) => binding.exchange.clone(),
        None => spec.name.to_string(),
    };
    TopicInfo::new(spec.name.clone(), spec.layout, spec.queue, native)
}

/// Creates what is missing of the topic, without its groups.
///
/// # Errors
/// `Conflict` where what exists differs; `Unsupported` for a setting that there is not.
pub(crate) async fn ensure(hub: &Hub, spec: &TopicSpec) -> Result<TopicInfo> {
    check(spec)?;
    let topic = &spec.name;
    let is_bound = hub.binding(topic).is_some();
    if let Some(binding) = hub.binding(topic)
        && let Some(kind) = binding.kind
    {
        let mut desk = Desk::new(hub);
        let name = &binding.exchange;
        let made = desk.exchange(name, kind.native(), FieldTable::default()).await;
        desk.close().await;
        refuse(made?)?;
    }
    match describe(hub, topic).await {
        Ok(found) => {
            let differences = differences(spec, &found);
            Difference::refuse(&differences).map_err(|error| error.with_broker(BROKER))?;
            remember(hub, spec);
            if is_bound || found.queue {
                return Ok(found);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !is_bound => {}
        Err(error) => return Err(error),
    }
    delay::ensure(hub).await?;
    let mut desk = Desk::new(hub);
    let made = create(hub, &mut desk, spec).await;
    desk.close().await;
    made?;
    // Somebody else may have made another one at the same time: the first one counts.
    let found = describe(hub, topic).await?;
    let differences = differences(spec, &found);
    Difference::refuse(&differences).map_err(|error| error.with_broker(BROKER))?;
    remember(hub, spec);
    Ok(found)
}

fn remember(hub: &Hub, spec: &TopicSpec) {
    if let Some(known) = hub.known(&spec.name) {
        hub.learn(&spec.name, Known { spec: Some(Arc::new(spec.clone())), ..known });
    }
}

async fn create(hub: &Hub, desk: &mut Desk<'_>, spec: &TopicSpec) -> Result<()> {
    let topic = &spec.name;
    let wish = Wish { replicas: spec.replicas };
    refuse(desk.queue(&names::registry(topic), arguments::kept(wish)).await?)?;
    if spec.queue {
        // Its one group is its queue.
        for group in &spec.groups {
            groups::declare(hub, desk, topic, group, Layout::Plain, true, wish).await?;
        }
        return Ok(());
    }
    // Who says first how it is laid out is heard; whoever looks at it next is told.
    let word = names::layout_word(spec.layout);
    if desk.mark(&names::layout_mark(topic), &word).await? != word {
        return create_as_found(desk, topic).await;
    }
    let unrouted = names::unrouted_exchange(topic);
    let queue = names::unrouted_queue(topic);
    let bytes = hub.settings.unrouted_bytes;
    refuse(desk.exchange(&unrouted, ExchangeKind::Fanout, FieldTable::default()).await?)?;
    // Another limit is another configuration's, and no reason to fail.
    desk.queue(&queue, arguments::unrouted(bytes)).await?;
    desk.bind(&queue, &unrouted, "").await?;
    let exchange = names::exchange(topic);
    let alternate = || arguments::alternate(&unrouted);
    refuse(desk.exchange(&exchange, ExchangeKind::Topic, alternate()).await?)?;
    match spec.layout.partitions() {
        Some(n) => {
            let lanes = names::lanes_exchange(topic, n);
            refuse(desk.exchange(&lanes, ExchangeKind::Topic, alternate()).await?)?;
            let key = delay::arrival(&format!("t.{topic}.*"));
            desk.bind_exchange(&lanes, names::DELIVER, &key).await?;
        }
        None => {
            let key = delay::arrival(&names::to_topic(topic, None));
            desk.bind_exchange(&exchange, names::DELIVER, &key).await?;
        }
    }
    Ok(())
}

/// Another layout was said before. Its exchange may be still to come: so that the difference is
/// told, it is made.
async fn create_as_found(desk: &mut Desk<'_>, topic: &TopicName) -> Result<()> {
    let alternate = arguments::alternate(&names::unrouted_exchange(topic));
    refuse(desk.exchange(&names::exchange(topic), ExchangeKind::Topic, alternate).await?)
}

/// Refuses what a queue of this broker cannot keep.
fn check(spec: &TopicSpec) -> Result<()> {
    let retention = &spec.retention;
    let unsupported = [
        ("max_messages", retention.max_messages.is_some()),
        ("max_bytes", retention.max_bytes.is_some()),
        ("max_age", retention.max_age.is_some()),
        ("deduplication_window", spec.deduplication_window.is_some()),
    ];
    if let Some((setting, _)) = unsupported.into_iter().find(|(_, is_set)| *is_set) {
        return Err(Error::unsupported(format!(
            "{setting}: a queue would drop messages that only waited; set a policy at the broker"
        ))
        .with_broker(BROKER));
    }
    if spec.queue && spec.layout.partitions().is_some() {
        return Err(Error::unsupported("order per key: a queue has none").with_broker(BROKER));
    }
    if spec.queue && spec.groups.iter().any(|group| group.as_str() != QUEUE_GROUP) {
        return Err(second_group());
    }
    Ok(())
}

#[cold]
pub(crate) fn second_group() -> Error {
    Error::unsupported("a queue has one group, named queue").with_broker(BROKER)
}

/// Deletes the topic with its groups and dead letters.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName) -> Result<()> {
    let groups = registry::list(hub, topic).await?.unwrap_or_default();
    let layout = match describe(hub, topic).await {
        Ok(info) => info.layout,
        Err(error) if error.kind() == ErrorKind::NotFound => Layout::Plain,
        Err(error) => return Err(error),
    };
    let queue = hub.known(topic).is_some_and(|known| known.queue);
    hub.forget(topic);
    let mut desk = Desk::new(hub);
    // The exchange first: from then on nothing is confirmed that would be lost.
    if let Some(n) = layout.partitions() {
        desk.delete_exchange(&names::lanes_exchange(topic, n)).await?;
    }
    desk.delete_exchange(&names::exchange(topic)).await?;
    for record in groups {
        groups::delete(hub, &mut desk, topic, &record.group, layout, queue).await?;
        desk.delete_queue(&names::dead_letters(topic, &record.group)).await?;
    }
    desk.delete_exchange(&names::unrouted_exchange(topic)).await?;
    desk.delete_queue(&names::unrouted_queue(topic)).await?;
    desk.delete_queue(&names::registry(topic)).await?;
    desk.delete_exchange(&names::layout_mark(topic)).await?;
    desk.close().await;
    Ok(())
}
