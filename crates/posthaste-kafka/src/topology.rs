//! Topics: what they are made with, what they are compared by, how they are found.
//!
//! The name at the broker says how a topic orders and whether it is a queue. So one topic can be
//! found under several names, and whoever asks for another one than there is has to be told.

use std::time::Duration;

use posthaste_core::broker::{Destination, Outcomes};
use posthaste_core::{
    Difference, Error, ErrorKind, GroupName, Layout, Result, TopicInfo, TopicName, TopicSpec,
};
use rdkafka::admin::{AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::hub::{Hub, Known};
use crate::names;

/// The pause between two looks at what comes to be by itself.
const PAUSE: Duration = Duration::from_millis(20);
/// Leaves the number to the broker.
const BROKERS_CHOICE: i32 = -1;

/// A topic as it is at the broker.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    /// What it is called there.
    pub(crate) native: String,
    pub(crate) partitions: i32,
    replicas: usize,
}

impl Found {
    /// The topic with a group's dead letters, which is nobody else's. They are in one partition.
    pub(crate) fn letters(native: &str) -> Self {
        let native = native.to_owned();
        Self { layout: Layout::Plain, queue: false, native, partitions: 1, replicas: 0 }
    }

    pub(crate) fn info(&self, topic: &TopicName) -> TopicInfo {
        TopicInfo::new(topic.clone(), self.layout, self.queue, self.native.clone())
    }
}

/// The topic, under whichever name it is there.
///
/// # Errors
/// `NotFound`; `Conflict` if it is there in several layouts, since nobody can tell which is meant.
pub(crate) async fn find(hub: &Hub, topic: &TopicName, until: Instant) -> Result<Found> {
    let mut all = list(hub, topic, until).await?;
    match (all.pop(), all.is_empty()) {
        (None, _) => Err(Error::new(ErrorKind::NotFound, "the topic does not exist")
            .with_topic(topic)
            .with_broker(BROKER)),
        (Some(found), true) => Ok(found),
        (Some(last), false) => {
            let names: Vec<_> = all.iter().chain([&last]).map(|found| &*found.native).collect();
            Err(Error::new(ErrorKind::Conflict, "the topic exists in several layouts")
                .with_context("names", names.join(", "))
                .with_topic(topic)
                .with_broker(BROKER))
        }
    }
}

/// What the topic is.
///
/// # Errors
/// As [`find`].
pub(crate) async fn describe(hub: &Hub, topic: &TopicName) -> Result<TopicInfo> {
    Ok(find(hub, topic, hub.deadline()).await?.info(topic))
}

/// Creates the topic if it is missing. Groups are not looked at.
///
/// # Errors
/// `Conflict` naming what differs; `Unsupported` for what Kafka has no setting for.
pub(crate) async fn ensure(hub: &Hub, spec: &TopicSpec) -> Result<Found> {
    check(spec)?;
    let until = hub.deadline();
    let found = match find(hub, &spec.name, until).await {
        Err(error) if error.kind() == ErrorKind::NotFound => create(hub, spec, until).await?,
        found => found?,
    };
    let differences = compare_found(hub, spec, &found, until).await?;
    Difference::refuse(&differences).map_err(|error| error.with_broker(BROKER))?;
    // Publishers need not ask again.
    hub.find(&found.native, until).await?;
    Ok(found)
}

/// Takes the spec for the truth.
pub(crate) fn assume(hub: &Hub, spec: &TopicSpec) -> TopicInfo {
    let native = Hub::to_kafka_name(&spec.name, spec.layout, spec.queue);
    if let Some(n) = spec.layout.partitions() {
        hub.learn(&native, Known { partitions: n.into(), max_batch_bytes: None });
    }
    TopicInfo::new(spec.name.clone(), spec.layout, spec.queue, native)
}

/// What differs between the spec and what exists, and what exists.
///
/// # Errors
/// As [`find`]; `Unsupported` for what Kafka has no setting for.
pub(crate) async fn compare(hub: &Hub, spec: &TopicSpec) -> Result<(Vec<Difference>, Found)> {
    check(spec)?;
    let until = hub.deadline();
    let found = find(hub, &spec.name, until).await?;
    Ok((compare_found(hub, spec, &found, until).await?, found))
}

/// Why a publish met no topic: there may be one in another layout.
pub(crate) async fn explain_missing(hub: &Hub, to: &Destination, outcomes: Outcomes) -> Outcomes {
    let missing = |outcome: &Result<_>| is_missing(outcome.as_ref().err());
    if !outcomes.iter().any(missing) {
        return outcomes;
    }
    let Ok(found) = find(hub, &to.topic, hub.deadline()).await else { return outcomes };
    let differences = shape(to.layout, to.queue, &found);
    let Err(conflict) = Difference::refuse(&differences) else { return outcomes };
    let conflict = conflict.with_topic(&to.topic).with_broker(BROKER);
    let explain = |outcome: Result<_>| match outcome {
        Err(error) if is_missing(Some(&error)) => Err(conflict.duplicate()),
        outcome => outcome,
    };
    outcomes.into_iter().map(explain).collect()
}

fn is_missing(error: Option<&Error>) -> bool {
    error.is_some_and(|error| error.kind() == ErrorKind::NotFound && !error.may_be_stored())
}

/// Deletes the topic in every layout, and the private topics of its groups. What is not there is
/// no error.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, until: Instant) -> Result<()> {
    let of_topic = topic.clone();
    let all = names_of(hub, until, move |name| is_of(&of_topic, name)).await?;
    delete_named(hub, &all, until).await
}

/// Whether it is the topic itself or something private of one of its groups.
fn is_of(topic: &TopicName, native: &str) -> bool {
    let private = || {
        let group = native.strip_prefix(topic.as_str())?.strip_prefix("__")?;
        let group = group.strip_suffix("__retry").or_else(|| group.strip_suffix("__dlq"))?;
        GroupName::new(group).ok()
    };
    names::layout_of(topic, native).is_some() || private().is_some()
}

/// Deletes topics by their names at the broker, and waits until they are gone.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
pub(crate) async fn delete_named(hub: &Hub, all: &[String], until: Instant) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = all.iter().map(String::as_str).collect();
    let deleting = hub.admin()?.delete_topics(&list, &options(until));
    for outcome in answered(hub, until, deleting).await? {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((name, code)) => return Err(refused(code).with_context("name", name)),
        }
    }
    for name in all {
        hub.forget(name);
    }
    loop {
        let gone = list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        if names_of(hub, until, move |name| gone.iter().any(|one| one == name)).await?.is_empty() {
            return Ok(());
        }
        pause(until).await?;
    }
}

/// The answer to a request of the admin interface, by the deadline.
///
/// # Errors
/// What the client says; `Timeout`.
pub(crate) async fn answered<T>(
    hub: &Hub,
    until: Instant,
    request: impl Future<Output = Result<T, KafkaError>>,
) -> Result<T> {
    match tokio::time::timeout_at(until, request).await {
        Ok(answer) => answer.map_err(|native| hub.explain(error::of(&native))),
        Err(_) => Err(hub.explain(late())),
    }
}

/// How long a request of the admin interface may take.
pub(crate) fn options(until: Instant) -> AdminOptions {
    let left = until.saturating_duration_since(Instant::now()).max(PAUSE);
    AdminOptions::new().request_timeout(Some(left)).operation_timeout(Some(left))
}

/// What the broker said of one thing of a request.
#[cold]
pub(crate) fn refused(code: RDKafkaErrorCode) -> Error {
    error::of(&KafkaError::AdminOp(code))
}

/// The topic in each layout that it has at the broker: one, if all is well.
async fn list(hub: &Hub, topic: &TopicName, until: Instant) -> Result<Vec<Found>> {
    let topic = topic.clone();
    let look = move |found: &MetadataTopic| {
        let (layout, queue) = names::layout_of(&topic, found.name())?;
        let partitions = found.partitions();
        Some(Found {
            layout,
            queue,
            native: found.name().to_owned(),
            partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
        })
    };
    select(hub, None, until, look).await
}

/// The names that pass, of all that the login may see.
async fn names_of(
    hub: &Hub,
    until: Instant,
    is_wanted: impl Fn(&str) -> bool + Send + 'static,
) -> Result<Vec<String>> {
    let look =
        move |topic: &MetadataTopic| is_wanted(topic.name()).then(|| topic.name().to_owned());
    select(hub, None, until, look).await
}

/// What a look finds at one topic, or at all that the login may see.
async fn select<T: Send + 'static>(
    hub: &Hub,
    only: Option<String>,
    until: Instant,
    look: impl Fn(&MetadataTopic) -> Option<T> + Send + 'static,
) -> Result<Vec<T>> {
    let asked = hub.worker.run(until, move |client, left| {
        let metadata = client.fetch_metadata(only.as_deref(), left);
        let metadata = metadata.map_err(|native| error::of(&native))?;
        Ok(metadata.topics().iter().filter_map(look).collect())
    });
    asked.await.map_err(|error| hub.explain(error))
}

/// # Errors
/// `Unsupported` names the setting.
fn check(spec: &TopicSpec) -> Result<()> {
    let setting = if spec.retention.max_messages.is_some() {
        "max_messages"
    } else if spec.deduplication_window.is_some() {
        "deduplication_window"
    } else {
        return Ok(());
    };
    Err(Error::unsupported("Kafka has no such setting for topics")
        .with_context("setting", setting)
        .with_broker(BROKER))
}

/// Makes the topic, or finds that somebody else was faster.
async fn create(hub: &Hub, spec: &TopicSpec, until: Instant) -> Result<Found> {
    let native = Hub::to_kafka_name(&spec.name, spec.layout, spec.queue);
    let mut partitions = spec.layout.partitions().map_or(BROKERS_CHOICE, i32::from);
    // A limit in bytes is for each partition there, so that their number has to be known.
    if spec.retention.max_bytes.is_some() && partitions == BROKERS_CHOICE {
        partitions = usual_partitions(hub, until).await?;
    }
    let settings = settings(spec, partitions);
    let replicas = spec.replicas.or(hub.config.replicas).map_or(BROKERS_CHOICE, i32::from);
    let topic = NewTopic::new(&native, partitions, TopicReplication::Fixed(replicas));
    let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let making = hub.admin()?.create_topics([&topic], &options(until));
    for outcome in answered(hub, until, making).await? {
        match outcome {
            // Then what is there decides.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::InvalidTopic)) => {
                return Err(invalid_name(hub, &native, until).await);
            }
            Err((_, code)) => return Err(refused(code)),
        }
    }
    wait_for_leaders(hub, &native, until).await?;
    // Another layout may have been made at the same time: then both are told.
    find(hub, &spec.name, until).await
}

fn settings(spec: &TopicSpec, partitions: i32) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(age) = spec.retention.max_age {
        settings.push(("retention.ms", millis(age).to_string()));
    }
    if let Some(bytes) = spec.retention.max_bytes {
        settings.push(("retention.bytes", share(bytes, partitions).to_string()));
    }
    settings
}

fn millis(age: Duration) -> i64 {
    i64::try_from(age.as_millis().max(1)).unwrap_or(i64::MAX)
}

/// What each partition may keep.
fn share(bytes: u64, partitions: i32) -> i64 {
    let partitions = u64::try_from(partitions).unwrap_or(1).max(1);
    i64::try_from(bytes.div_ceil(partitions)).unwrap_or(i64::MAX)
}

/// How many partitions the broker gives to who asks for no number; one if it does not tell.
async fn usual_partitions(hub: &Hub, until: Instant) -> Result<i32> {
    let any = hub.worker.run(until, |client, left| {
        let metadata = client.fetch_metadata(Some("__consumer_offsets"), left);
        let metadata = metadata.map_err(|native| error::of(&native))?;
        Ok(metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id))
    });
    let Some(broker) = any.await.map_err(|error| hub.explain(error))? else { return Ok(1) };
    let found = setting(hub, ResourceSpecifier::Broker(broker), &["num.partitions"], until).await;
    match found {
        Ok([Some(partitions)]) => Ok(partitions.parse().unwrap_or(1)),
        Ok([None]) => Ok(1),
        Err(error) if error.kind() == ErrorKind::Auth => Ok(1),
        Err(error) => Err(error),
    }
}

/// The values of settings, as far as the broker tells them.
async fn setting<const N: usize>(
    hub: &Hub,
    of: ResourceSpecifier<'_>,
    names: &[&str; N],
    until: Instant,
) -> Result<[Option<String>; N]> {
    let of = [of];
    let asking = hub.admin()?.describe_configs(&of, &options(until));
    let answer = answered(hub, until, asking).await?;
    let mut found = [const { None }; N];
    for one in answer {
        let one = one.map_err(refused)?;
        for (name, found) in names.iter().zip(&mut found) {
            *found = one.get(name).and_then(|entry| entry.value.clone());
        }
    }
    Ok(found)
}

/// Creates a topic that is private to a group unless it is there, with that many partitions and
/// those settings, and waits until it can be used.
///
/// # Errors
/// What the broker has against it, or what keeps it from answering.
pub(crate) async fn create_private(
    hub: &Hub,
    native: &str,
    (partitions, settings): (i32, &[(&str, &str)]),
    until: Instant,
) -> Result<()> {
    match hub.find(native, until).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found.map(drop),
    }
    let replicas = hub.config.replicas.map_or(BROKERS_CHOICE, i32::from);
    let topic = NewTopic::new(native, partitions, TopicReplication::Fixed(replicas));
    let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let making = hub.admin()?.create_topics([&topic], &options(until));
    match answered(hub, until, making).await?.into_iter().find_map(std::result::Result::err) {
        None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
        Some((_, code)) => return Err(refused(code).with_context("name", native)),
    }
    wait_for_leaders(hub, native, until).await?;
    hub.find(native, until).await.map(drop)
}

/// Waits until the topic can be used: whoever made it only told the controller.
async fn wait_for_leaders(hub: &Hub, native: &str, until: Instant) -> Result<()> {
    loop {
        let name = native.to_owned();
        let is_led = select(hub, Some(name.clone()), until, move |topic| {
            let partitions = topic.partitions();
            let led = partitions.iter().all(|one| one.leader() >= 0);
            (topic.name() == name && led && !partitions.is_empty()).then_some(())
        });
        if !is_led.await?.is_empty() {
            return Ok(());
        }
        pause(until).await?;
    }
}

/// The broker takes no name that differs from another one only in `.` and `_`, and says nothing
/// else than that it is wrong.
async fn invalid_name(hub: &Hub, native: &str, until: Instant) -> Error {
    let wanted = native.replace('.', "_");
    let other = names_of(hub, until, move |name| name.replace('.', "_") == wanted);
    match other.await.ok().and_then(|mut names| names.pop()) {
        Some(other) => {
            let why = "Kafka does not tell apart names that differ only in `.` and `_`";
            Error::new(ErrorKind::Conflict, why)
                .with_context("name", native)
                .with_context("other topic", other)
                .with_broker(BROKER)
        }
        None => refused(RDKafkaErrorCode::InvalidTopic).with_context("name", native),
    }
}

/// How the two order, and what they are.
fn shape(layout: Layout, queue: bool, found: &Found) -> Vec<Difference> {
    let mut differences = Vec::new();
    let order = |layout: Layout| match layout.partitions() {
        Some(n) => format!("over {n} partitions"),
        None => "none".to_owned(),
    };
    if layout != found.layout {
        differences.push(Difference::new("order", order(layout), order(found.layout)));
    }
    let kind = |queue: bool| if queue { "queue" } else { "topic" };
    if queue != found.queue {
        differences.push(Difference::new("kind", kind(queue), kind(found.queue)));
    }
    differences
}

async fn compare_found(
    hub: &Hub,
    spec: &TopicSpec,
    found: &Found,
    until: Instant,
) -> Result<Vec<Difference>> {
    let mut differences = shape(spec.layout, spec.queue, found);
    if let Some(n) = found.layout.partitions()
        && i32::from(n) != found.partitions
    {
        differences.push(Difference::new("partitions", n, found.partitions));
    }
    if let Some(wanted) = spec.replicas
        && usize::from(wanted) != found.replicas
    {
        differences.push(Difference::new("replicas", wanted, found.replicas));
    }
    let wanted = settings(spec, found.partitions);
    if wanted.is_empty() {
        return Ok(differences);
    }
    let of = ResourceSpecifier::Topic(&found.native);
    let values = setting(hub, of, &["retention.ms", "retention.bytes"], until).await?;
    for (name, value) in ["retention.ms", "retention.bytes"].into_iter().zip(values) {
        let Some((_, wanted)) = wanted.iter().find(|(setting, _)| *setting == name) else {
            continue;
        };
        let value = value.as_deref().unwrap_or("unknown");
        if value != wanted {
            let value = if value == "-1" { "unlimited" } else { value };
            differences.push(Difference::new(name, wanted, value));
        }
    }
    Ok(differences)
}

async fn pause(until: Instant) -> Result<()> {
    if Instant::now() + PAUSE >= until {
        return Err(late());
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not get it done in time").with_broker(BROKER)
}

#[cfg(test)]
mod tests {
    use posthaste_core::TopicConfig;

    use super::*;

    #[test]
    fn what_kafka_has_no_setting_for_is_refused_by_name() {
        let config = || TopicConfig::new("orders");
        assert!(check(&config().max_bytes(9).check().unwrap()).is_ok());
        for (config, names) in [
            (config().max_messages(9), "max_messages"),
            (config().deduplication_window(Duration::from_secs(9)), "deduplication_window"),
        ] {
            let error = check(&config.check().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(names), "{error}");
        }
    }

    #[test]
    fn what_is_private_to_groups_goes_with_the_topic() {
        let topic = TopicName::new("orders").unwrap();
        for (native, expected) in [
            ("orders", true),
            ("orders__of8", true),
            ("orders__of8__queue", true),
            ("orders__billing__retry", true),
            ("orders__billing__dlq", true),
            ("orders__billing", false),
            ("orders__retry", false),
            ("orders__a__b__dlq", false),
            ("orders.eu", false),
            ("orders-eu__billing__dlq", false),
            ("other__billing__dlq", false),
        ] {
            assert_eq!(is_of(&topic, native), expected, "{native}");
        }
    }

    #[test]
    fn a_limit_in_bytes_is_shared_by_the_partitions() {
        for (bytes, partitions, each) in [
            (9, 1, 9),
            (9, 2, 5),
            (1, 8, 1),
            (8_000, 8, 1_000),
            (9, -1, 9),
            (u64::MAX, 1, i64::MAX),
        ] {
            assert_eq!(share(bytes, partitions), each, "{bytes} over {partitions}");
        }
        let spec = TopicConfig::new("o").max_age(Duration::from_micros(1)).max_bytes(10).check();
        let wanted = [("retention.ms", "1".to_owned()), ("retention.bytes", "5".to_owned())];
        assert_eq!(settings(&spec.unwrap(), 2), wanted);
    }

    #[test]
    fn another_layout_is_told_as_order_and_kind() {
        let found = |layout, queue| Found {
            layout,
            queue,
            native: String::new(),
            partitions: 1,
            replicas: 1,
        };
        let told = |found: &Found| -> Vec<_> {
            shape(Layout::Ordered(8), false, found).iter().map(ToString::to_string).collect()
        };
        assert!(told(&found(Layout::Ordered(8), false)).is_empty());
        assert_eq!(
            told(&found(Layout::Plain, true)),
            ["order: wanted over 8 partitions, found none", "kind: wanted topic, found queue"]
        );
    }
}
