//! Topics: a record that says how the topic is laid out, and its streams.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{
    Difference, Error, ErrorKind, Layout, Result, TopicInfo, TopicName, TopicSpec,
};
use redis::Value;

use crate::error::{self, BROKER};
use crate::hub::{Hub, Known};
use crate::names::{QUEUE_GROUP, TopicKeys};
use crate::script::Script;
use crate::value;

/// What the topic is.
///
/// # Errors
/// `NotFound` if it does not exist.
pub(crate) async fn describe(hub: &Hub, topic: &TopicName) -> Result<TopicInfo> {
    let known = look(hub, topic).await?;
    Ok(info(topic, &known))
}

/// Looks at the topic.
///
/// # Errors
/// `NotFound` if it does not exist.
pub(crate) async fn look(hub: &Hub, topic: &TopicName) -> Result<Arc<Known>> {
    let keys = hub.keys(topic);
    let mut command = redis::cmd("HGETALL");
    command.arg(&keys.record);
    let record = value::array(hub.commands.ask(command, hub.until()).await?)?;
    if record.is_empty() {
        let is_there = match hub.binding(topic) {
            Some(_) => is_stream(hub, &keys.stream).await?,
            None => false,
        };
        if !is_there {
            hub.forget(topic);
            return Err(error::no_topic().with_context("record", &keys.record));
        }
        // What is known of the groups of a bound stream has to have a place.
        let record = make(hub, &TopicSpec::plain(topic.clone()), &keys).await?;
        return Ok(hub.learn(topic, read(keys, &record)));
    }
    Ok(hub.learn(topic, read(keys, &record)))
}

async fn is_stream(hub: &Hub, key: &str) -> Result<bool> {
    let mut command = redis::cmd("TYPE");
    command.arg(key);
    let kind = hub.commands.ask(command, hub.until()).await?;
    match value::text(&kind) {
        Some("stream") => Ok(true),
        Some("none") => Ok(false),
        _ => Err(Error::new(ErrorKind::Conflict, "a key of the topic is of another type")
            .with_context("key", key.escape_debug())
            .with_broker(BROKER)),
    }
}

/// What a topic is called at the server, and how it is laid out.
fn info(topic: &TopicName, known: &Known) -> TopicInfo {
    TopicInfo::new(topic.clone(), known.layout, known.queue, known.keys.stream.clone())
}

fn read(keys: TopicKeys, record: &[Value]) -> Known {
    let field = |wanted: &str| {
        let mut pairs = record.chunks_exact(2);
        let found = pairs.find(|pair| value::bytes(&pair[0]) == Some(wanted.as_bytes()));
        found.and_then(|pair| value::text(&pair[1]))
    };
    let millis = |name| field(name).and_then(|text| text.parse().ok()).map(Duration::from_millis);
    let layout = field("layout").and_then(layout_of).unwrap_or_default();
    Known {
        layout,
        queue: field("queue") == Some("1"),
        max_age: millis("max_age"),
        max_messages: field("max_messages").and_then(|text| text.parse().ok()),
        deduplication_window: millis("deduplication_window"),
        streams: streams(&keys, layout),
        keys,
    }
}

fn streams(keys: &TopicKeys, layout: Layout) -> Vec<String> {
    let n = layout.partitions().unwrap_or(0);
    let lanes = (0..n).map(|partition| keys.partition(partition, n));
    lanes.chain([keys.stream.clone()]).collect()
}

fn layout_word(layout: Layout) -> String {
    layout.partitions().map_or_else(|| "plain".to_owned(), |n| format!("of{n}"))
}

fn layout_of(word: &str) -> Option<Layout> {
    match word.strip_prefix("of") {
        Some(n) => n.parse().ok().map(Layout::Ordered),
        None => (word == "plain").then_some(Layout::Plain),
    }
}

/// The record of a topic that is made.
fn fields(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let millis = |time: Duration| time.as_millis().to_string();
    let mut fields =
        vec![("layout", layout_word(spec.layout)), ("queue", u8::from(spec.queue).to_string())];
    fields.extend(spec.retention.max_age.map(|age| ("max_age", millis(age))));
    fields.extend(spec.retention.max_messages.map(|most| ("max_messages", most.to_string())));
    let window = spec.deduplication_window;
    fields.extend(window.map(|window| ("deduplication_window", millis(window))));
    fields
}

/// How the topic differs from the spec.
///
/// # Errors
/// `NotFound`; `Unsupported` for a setting that there is not.
pub(crate) async fn compare(hub: &Hub, spec: &TopicSpec) -> Result<Vec<Difference>> {
    check(hub, spec)?;
    let found = look(hub, &spec.name).await?;
    Ok(differences(spec, &found))
}

fn differences(spec: &TopicSpec, found: &Known) -> Vec<Difference> {
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
    // What is not asked for is taken as it is.
    let told = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let time = |value: Option<Duration>| value.map(|value| format!("{} ms", value.as_millis()));
    let pairs = [
        ("max_messages", number(spec.retention.max_messages), number(found.max_messages)),
        ("max_age", time(spec.retention.max_age), time(found.max_age)),
        ("deduplication_window", time(spec.deduplication_window), time(found.deduplication_window)),
    ];
    for (setting, wanted, found) in pairs {
        if wanted.is_some() && wanted != found {
            differences.push(Difference::new(setting, told(wanted), told(found)));
        }
    }
    differences
}

/// Takes the spec for the truth.
pub(crate) fn assume(hub: &Hub, spec: &TopicSpec) -> TopicInfo {
    let keys = hub.keys(&spec.name);
    let known = Known {
        layout: spec.layout,
        queue: spec.queue,
        max_age: spec.retention.max_age,
        max_messages: spec.retention.max_messages,
        deduplication_window: spec.deduplication_window,
        streams: streams(&keys, spec.layout),
        keys,
    };
    hub.ask_for(spec);
    info(&spec.name, &hub.learn(&spec.name, known))
}

/// Creates what is missing of the topic, without its groups.
///
/// # Errors
/// `Conflict` where what exists differs; `Unsupported` for a setting that there is not.
pub(crate) async fn ensure(hub: &Hub, spec: &TopicSpec) -> Result<TopicInfo> {
    check(hub, spec)?;
    let keys = hub.keys(&spec.name);
    if hub.binding(&spec.name).is_some() {
        is_stream(hub, &keys.stream).await?;
    }
    let record = make(hub, spec, &keys).await?;
    let known = read(keys, &record);
    let differences = differences(spec, &known);
    Difference::refuse(&differences).map_err(|error| error.with_broker(BROKER))?;
    hub.ask_for(spec);
    Ok(info(&spec.name, &hub.learn(&spec.name, known)))
}

/// Makes what is not there, and says what is.
async fn make(hub: &Hub, spec: &TopicSpec, keys: &TopicKeys) -> Result<Vec<Value>> {
    let mut all = vec![keys.record.clone()];
    all.extend(streams(keys, spec.layout));
    let made = hub.call(Script::Ensure, &all, |call| {
        call.arg(layout_word(spec.layout));
        for (name, value) in fields(spec) {
            call.arg(name).arg(value);
        }
    });
    value::array(made.await?)
}

/// Refuses what this broker cannot keep.
fn check(hub: &Hub, spec: &TopicSpec) -> Result<()> {
    let refuse = |why: &'static str| Err(Error::unsupported(why).with_broker(BROKER));
    if spec.retention.max_bytes.is_some() {
        return refuse("max_bytes: a stream is bounded by messages or age");
    }
    if spec.replicas.is_some() {
        return refuse("replicas: they are the server's setting");
    }
    if spec.layout.partitions().is_some() && hub.binding(&spec.name).is_some() {
        return refuse("order per key: a bound topic is plain");
    }
    if spec.queue && spec.layout.partitions().is_some() {
        return refuse("order per key: a queue has none");
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
    let known = match look(hub, topic).await {
        Ok(known) => known,
        Err(error) if error::is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let keys = &known.keys;
    let mut all = vec![keys.record.clone(), keys.later(), keys.later_entries()];
    all.extend(known.streams.iter().cloned());
    let base = groups_base(keys);
    hub.call(Script::DeleteTopic, &all, |call| {
        call.arg(base);
    })
    .await?;
    hub.forget(topic);
    Ok(())
}

/// What the keys of all groups begin with.
pub(crate) fn groups_base(keys: &TopicKeys) -> String {
    format!("{}:g:", keys.record)
}

/// Removes all messages, and says how many.
pub(crate) async fn purge(hub: &Hub, topic: &TopicName) -> Result<u64> {
    let known = look(hub, topic).await?;
    let keys = &known.keys;
    let mut all = vec![keys.record.clone(), keys.later(), keys.later_entries()];
    all.extend(known.streams.iter().cloned());
    let base = groups_base(keys);
    let purged = hub.call(Script::Purge, &all, |call| {
        call.arg(base);
    });
    value::count(&purged.await?).ok_or_else(error::no_topic)
}
