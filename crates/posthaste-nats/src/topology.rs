//! Streams: what they are made with, what they are compared by, how they are found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use posthaste_core::{
    Difference, Durability, Error, ErrorKind, Layout, Result, TopicInfo, TopicName, TopicSpec,
};
use tokio::time::Instant;

use crate::config::Storage;
use crate::error::{self, BROKER};
use crate::hub::{Hub, Interest, Known};
use crate::names;
use crate::route::Route;
use crate::version::Version;

/// Marks streams of this library, on servers that keep such marks.
const MARK: &str = "posthaste";

/// The stream's description.
///
/// # Errors
/// `NotFound`, and whatever stands between us and the server.
pub(crate) async fn info(hub: &Hub, stream: &str) -> Result<Info> {
    hub.api.ask(&format!("STREAM.INFO.{stream}"), &serde_json::json!({})).await
}

/// What the topic is.
///
/// # Errors
/// `NotFound`; `Conflict` if the stream of that name is not one of ours.
pub(crate) async fn describe(hub: &Hub, topic: &TopicName) -> Result<(TopicInfo, Info)> {
    let route = hub.route(topic);
    let found = match info(hub, &route.stream()).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            hub.forget(topic);
            return Err(error.with_topic(topic));
        }
        found => found?,
    };
    let layout = layout(&route, &found)?;
    let queue = found.config.retention == RetentionPolicy::WorkQueue;
    hub.learn(topic, known(layout, queue, &found));
    Ok((TopicInfo::new(topic.clone(), layout, queue, found.config.name.clone()), found))
}

fn known(layout: Layout, queue: bool, found: &Info) -> Known {
    let config = &found.config;
    let consumers = found.state.consumer_count;
    Known {
        layout,
        queue,
        schedules: config.allow_message_schedules,
        message_ttl: config.allow_message_ttl,
        max_age: Some(config.max_age).filter(|age| !age.is_zero()),
        durability: durability(config.storage, config.num_replicas),
        interest: (config.retention == RetentionPolicy::Interest)
            .then(|| Interest { consumers, seen: Instant::now() }),
        spec: None,
    }
}

/// How long a single server may wait before it brings a file to the disk, unless it was
/// configured otherwise.
const SYNC_INTERVAL: Duration = Duration::from_secs(120);

fn durability(storage: StorageType, replicas: usize) -> Durability {
    match storage {
        StorageType::Memory => Durability::Process,
        // A majority has it before the publish is confirmed.
        StorageType::File if replicas >= 3 => Durability::Server { loss_window: None },
        StorageType::File => Durability::Server { loss_window: Some(SYNC_INTERVAL) },
    }
}

/// What a confirmed publish survives on a topic that nothing is known of.
pub(crate) fn default_durability(hub: &Hub, replicas: Option<u8>) -> Durability {
    let config = base(hub, replicas);
    durability(config.storage, config.num_replicas)
}

/// What the subjects of a stream say of its topic.
fn layout(route: &Route, found: &Info) -> Result<Layout> {
    if route.is_bound() {
        return Ok(Layout::Plain);
    }
    let subjects = &found.config.subjects;
    let mut layouts = subjects.iter().filter_map(|subject| names::layout_of(&route.topic, subject));
    layouts.next().ok_or_else(|| {
        Error::new(ErrorKind::Conflict, "the stream of that name holds something else; bind it")
            .with_context("stream", &found.config.name)
            .with_context("subjects", subjects.join(" "))
            .with_topic(&route.topic)
            .with_broker(BROKER)
    })
}

/// Creates the topic's stream if it is missing. Groups are not looked at.
///
/// # Errors
/// `Conflict` naming what differs; `NotFound` for a bound stream, which is never created.
pub(crate) async fn ensure(hub: &Hub, spec: &TopicSpec) -> Result<TopicInfo> {
    let route = hub.route(&spec.name);
    let existing = compare(hub, spec).await;
    let differences = match existing {
        Err(error) if error.kind() == ErrorKind::NotFound && !route.is_bound() => {
            let config = config(hub, spec);
            match create(hub, &config).await {
                // Somebody else was faster: what is there now decides.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    match compare(hub, spec).await {
                        Err(again) if again.kind() == ErrorKind::NotFound => return Err(error),
                        compared => compared?,
                    }
                }
                created => {
                    let created = created?;
                    check_echo(&config, &created)?;
                    hub.learn(&spec.name, known(spec.layout, spec.queue, &created));
                    Vec::new()
                }
            }
        }
        compared => compared?,
    };
    Difference::refuse(&differences).map_err(|error| error.with_topic(&spec.name))?;
    remember(hub, spec);
    let known = hub.known(&spec.name);
    let layout = known.as_ref().map_or(spec.layout, |known| known.layout);
    let queue = known.map_or(spec.queue, |known| known.queue);
    Ok(TopicInfo::new(spec.name.clone(), layout, queue, route.stream()))
}

/// Remembers what was asked for, so that it can be created again in the same way.
fn remember(hub: &Hub, spec: &TopicSpec) {
    if let Some(mut known) = hub.known(&spec.name) {
        known.spec = Some(Arc::new(spec.clone()));
        hub.learn(&spec.name, known);
    }
}

/// Takes the spec for the truth.
pub(crate) fn assume(hub: &Hub, spec: &TopicSpec) -> TopicInfo {
    let route = hub.route(&spec.name);
    let version = hub.version();
    hub.learn(
        &spec.name,
        Known {
            layout: spec.layout,
            queue: spec.queue,
            schedules: !route.is_bound() && version >= Version::SCHEDULES,
            message_ttl: !route.is_bound() && version >= Version::MESSAGE_TTL,
            max_age: spec.retention.max_age.or(Some(hub.defaults.max_age)),
            durability: default_durability(hub, spec.replicas),
            interest: None,
            spec: Some(Arc::new(spec.clone())),
        },
    );
    TopicInfo::new(spec.name.clone(), spec.layout, spec.queue, route.stream())
}

/// What differs between the spec and what exists.
///
/// # Errors
/// `NotFound`; `Conflict` if the stream is not one of ours.
pub(crate) async fn compare(hub: &Hub, spec: &TopicSpec) -> Result<Vec<Difference>> {
    let (found, native) = describe(hub, &spec.name).await?;
    let mut differences = Vec::new();
    let mut differ = |setting, wanted: String, found: String| {
        if wanted != found {
            differences.push(Difference::new(setting, wanted, found));
        }
    };
    let partitions = |layout: Layout| match layout.partitions() {
        Some(n) => format!("ordered over {n} partitions"),
        None => "plain".to_owned(),
    };
    differ("layout", partitions(spec.layout), partitions(found.layout));
    let kind = |queue: bool| if queue { "queue" } else { "topic" }.to_owned();
    differ("kind", kind(spec.queue), kind(found.queue));
    let config = &native.config;
    let limit = |limit: i64| if limit <= 0 { "unlimited".to_owned() } else { limit.to_string() };
    let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
    if let Some(wanted) = spec.retention.max_age {
        differ("max_age", seconds(wanted), seconds(config.max_age));
    }
    if let Some(wanted) = spec.retention.max_bytes {
        differ("max_bytes", wanted.to_string(), limit(config.max_bytes));
    }
    if let Some(wanted) = spec.retention.max_messages {
        differ("max_messages", wanted.to_string(), limit(config.max_messages));
    }
    if let Some(wanted) = spec.deduplication_window {
        differ("deduplication_window", seconds(wanted), seconds(config.duplicate_window));
    }
    if let Some(wanted) = spec.replicas {
        differ("replicas", wanted.to_string(), config.num_replicas.to_string());
    }
    Ok(differences)
}

/// What the stream of a topic is made with.
fn config(hub: &Hub, spec: &TopicSpec) -> Config {
    let version = hub.version();
    let topic = &spec.name;
    let mut subjects = names::data_subjects(topic, spec.layout);
    subjects.push(names::private_filter(topic));
    let limited = spec.retention.max_bytes.is_some() || spec.retention.max_messages.is_some();
    let full_refuses = spec.queue && limited;
    // The server does not do both.
    let schedules = version >= Version::SCHEDULES && !full_refuses;
    if schedules {
        subjects.push(names::schedule_filter(topic));
    }
    // What a queue holds was not handled by anybody yet: only a limit that was asked for ends it.
    let max_age = match (spec.retention.max_age, spec.queue) {
        (Some(age), _) => age,
        (None, true) => Duration::ZERO,
        (None, false) => hub.defaults.max_age,
    };
    let number = |limit: Option<u64>| limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let window = spec.deduplication_window.unwrap_or(hub.defaults.duplicate_window);
    Config {
        name: names::stream(topic),
        subjects,
        retention: if spec.queue { RetentionPolicy::WorkQueue } else { RetentionPolicy::Limits },
        // A full topic drops its oldest; a full queue refuses, so that nothing unhandled is lost.
        discard: if full_refuses { DiscardPolicy::New } else { DiscardPolicy::Old },
        max_age,
        max_bytes: number(spec.retention.max_bytes),
        max_messages: number(spec.retention.max_messages),
        duplicate_window: if max_age.is_zero() { window } else { window.min(max_age) },
        allow_message_schedules: schedules,
        allow_message_ttl: version >= Version::MESSAGE_TTL,
        ..base(hub, spec.replicas)
    }
}

/// What all streams of this library have in common.
pub(crate) fn base(hub: &Hub, replicas: Option<u8>) -> Config {
    let clustered = hub.client.server_info().cluster.is_some();
    let replicas = replicas.or(hub.defaults.replicas).unwrap_or(if clustered { 3 } else { 1 });
    let mut metadata = HashMap::new();
    if hub.version() >= Version::METADATA {
        metadata.insert(MARK.to_owned(), "1".to_owned());
    }
    Config {
        storage: match hub.defaults.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: usize::from(replicas),
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        allow_direct: true,
        metadata,
        ..Config::default()
    }
}

pub(crate) async fn create(hub: &Hub, config: &Config) -> Result<Info> {
    let subject = format!("STREAM.CREATE.{}", config.name);
    match hub.api.ask(&subject, config).await {
        // A server that deletes its last stream removes the folder of all streams, also from under
        // one that is being made just then (nats-server 2.9 to 2.15, `stream.go`, `stop`).
        Err(error) if error::is_not_created(&error) => hub.api.ask(&subject, config).await,
        answer => answer,
    }
}

/// Old servers ignore what they do not know. What a topic cannot do without is compared; what it
/// can (messages for later) is remembered as it came out.
fn check_echo(asked: &Config, created: &Info) -> Result<()> {
    let made = &created.config;
    let mut subjects = made.subjects.clone();
    subjects.sort();
    let mut wanted = asked.subjects.clone();
    wanted.sort();
    if subjects == wanted && made.retention == asked.retention {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Fatal, "the server made another stream than it was asked for")
        .with_context("stream", &asked.name)
        .with_broker(BROKER))
}

/// Deletes a stream, if it is there.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
pub(crate) async fn delete(hub: &Hub, stream: &str) -> Result<()> {
    let deleted: Result<serde_json::Value> =
        hub.api.ask(&format!("STREAM.DELETE.{stream}"), &serde_json::json!({})).await;
    match deleted {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// Removes the messages of a subject, and says how many.
///
/// # Errors
/// `NotFound`, `Auth`, `Connection`, `Timeout`.
pub(crate) async fn purge(hub: &Hub, stream: &str, filter: &str) -> Result<u64> {
    let body = serde_json::json!({ "filter": filter });
    let purged: serde_json::Value = hub.api.ask(&format!("STREAM.PURGE.{stream}"), &body).await?;
    Ok(purged["purged"].as_u64().unwrap_or(0))
}

/// Refuses a server that is too old for this adapter.
///
/// # Errors
/// `Unsupported` names the version.
pub(crate) fn check_version(hub: &Hub) -> Result<()> {
    let text = hub.client.server_info().version;
    if Version::read(&text) >= Version::OLDEST {
        return Ok(());
    }
    Err(error::too_old("this library", "2.9", &text))
}

/// How long it is believed that a stream still has a consumer.
const INTEREST: Duration = Duration::from_secs(30);

/// Refuses to publish to a stream that keeps messages only for consumers and has none: what is
/// confirmed there would be gone.
///
/// # Errors
/// `Unroutable`, as of a check at most 30 s old.
pub(crate) async fn check_interest(hub: &Hub, topic: &TopicName) -> Result<()> {
    let fresh = |known: &Known| {
        known.interest.is_none_or(|known| known.consumers > 0 && known.seen.elapsed() < INTEREST)
    };
    if hub.known(topic).as_ref().is_some_and(fresh) {
        return Ok(());
    }
    describe(hub, topic).await?;
    if hub.known(topic).as_ref().is_none_or(fresh) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unroutable, "the stream keeps messages for consumers and has none")
        .with_topic(topic)
        .with_broker(BROKER))
}
