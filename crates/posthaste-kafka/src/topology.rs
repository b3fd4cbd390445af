//! Topics: how they are found, made and deleted.
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

use crate::binding::Binding;
use crate::error::{self, BROKER};
use crate::hub::{Hub, Known, check_there};
use crate::{names, settings};

/// The pause between two looks at what comes to be by itself.
const PAUSE: Duration = Duration::from_millis(20);
/// Leaves the number to the broker.
const BROKERS_CHOICE: i32 = -1;
/// How many partitions plain topics get where the broker is not set to more than one: with one, no
/// two members of a group could work.
const USUAL_PARTITIONS: i32 = 6;

/// A topic as it is at the broker.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    /// What it is called there.
    pub(crate) native: String,
    pub(crate) partitions: i32,
    pub(crate) replicas: usize,
}

impl Found {
    /// The topic with a group's dead letters, which is nobody else's. They are in one partition.
    pub(crate) fn letters(native: &str) -> Self {
        let native = native.to_owned();
        Self { layout: Layout::Plain, queue: false, native, partitions: 1, replicas: 0 }
    }

    fn new(found: &MetadataTopic, layout: Layout, queue: bool) -> Self {
        let partitions = found.partitions();
        Self {
            layout,
            queue,
            native: found.name().to_owned(),
            partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
        }
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
        (None, _) => Err(no_topic(hub, topic)),
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

#[cold]
fn no_topic(hub: &Hub, topic: &TopicName) -> Error {
    let error = match hub.binding(topic) {
        None => Error::new(ErrorKind::NotFound, "the topic does not exist"),
        Some(binding) => {
            let why = "the topic is bound to one that does not exist, and that is never created";
            Error::new(ErrorKind::NotFound, why).with_context("name", &binding.name)
        }
    };
    error.with_topic(topic).with_broker(BROKER)
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
/// `Conflict` naming what differs; `Unsupported` for what Kafka has no setting for; `NotFound` for
/// a bound topic, which is never created.
pub(crate) async fn ensure(hub: &Hub, spec: &TopicSpec) -> Result<Found> {
    settings::check(spec)?;
    let until = hub.deadline();
    let found = match find(hub, &spec.name, until).await {
        Err(error) if error.kind() == ErrorKind::NotFound && hub.binding(&spec.name).is_none() => {
            create(hub, spec, until).await?
        }
        found => found?,
    };
    let differences = settings::compare(hub, spec, &found, until).await?;
    Difference::refuse(&differences).map_err(|error| error.with_broker(BROKER))?;
    // Publishers need not ask again.
    hub.find(&found.native, until).await?;
    Ok(found)
}

/// Takes the spec for the truth.
pub(crate) fn assume(hub: &Hub, spec: &TopicSpec) -> TopicInfo {
    let native = hub.native_name(&spec.name, spec.layout, spec.queue);
    // The name of a bound topic says nothing of its partitions: whoever publishes asks.
    if let Some(n) = spec.layout.partitions()
        && hub.binding(&spec.name).is_none()
    {
        hub.learn(&native, Known { partitions: n.into(), max_batch_bytes: None });
    }
    TopicInfo::new(spec.name.clone(), spec.layout, spec.queue, native)
}

/// What differs between the spec and what exists, and what exists.
///
/// # Errors
/// As [`find`]; `Unsupported` for what Kafka has no setting for.
pub(crate) async fn compare(hub: &Hub, spec: &TopicSpec) -> Result<(Vec<Difference>, Found)> {
    settings::check(spec)?;
    let until = hub.deadline();
    let found = find(hub, &spec.name, until).await?;
    Ok((settings::compare(hub, spec, &found, until).await?, found))
}

/// Why a publish met no topic: there may be one in another layout.
pub(crate) async fn explain_missing(hub: &Hub, to: &Destination, outcomes: Outcomes) -> Outcomes {
    let missing = |outcome: &Result<_>| is_missing(outcome.as_ref().err());
    if !outcomes.iter().any(missing) {
        return outcomes;
    }
    let Ok(found) = find(hub, &to.topic, hub.deadline()).await else { return outcomes };
    let differences = settings::shape((to.layout, to.queue), (found.layout, found.queue));
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
/// `Auth`, `Connection`, `Timeout`; `Unsupported` for a topic that is bound.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, until: Instant) -> Result<()> {
    hub.check_ours(topic)?;
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
    for name in all {
        while look_up(hub, name, until).await?.is_some() {
            pause(until).await?;
        }
    }
    Ok(())
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

/// The topic in each layout that it has at the broker: one, if all is well. A bound topic has one
/// name, and is asked for by it. Of others the name holds the number of partitions, which is not
/// known here, and the broker finds no names by how they begin: so it is asked for all.
async fn list(hub: &Hub, topic: &TopicName, until: Instant) -> Result<Vec<Found>> {
    if let Some(binding) = hub.binding(topic) {
        return Ok(bound(hub, binding, until).await?.into_iter().collect());
    }
    let topic = topic.clone();
    let look = move |found: &MetadataTopic| {
        let (layout, queue) = names::layout_of(&topic, found.name())?;
        Some(Found::new(found, layout, queue))
    };
    select(hub, None, until, look).await
}

/// What a topic is bound to, if it is there.
async fn bound(hub: &Hub, binding: &Binding, until: Instant) -> Result<Option<Found>> {
    let Some(mut found) = look_up(hub, &binding.name, until).await? else { return Ok(None) };
    found.layout = binding.layout(found.partitions)?;
    Ok(Some(found))
}

/// The topic of that name at the broker, as if it were plain.
async fn look_up(hub: &Hub, native: &str, until: Instant) -> Result<Option<Found>> {
    let name = native.to_owned();
    let look = move |found: &MetadataTopic| {
        let there = || check_there(found).map(|()| Found::new(found, Layout::Plain, false));
        (found.name() == name).then(there)
    };
    match select(hub, Some(native.to_owned()), until, look).await?.pop() {
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.transpose(),
    }
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

/// Makes the topic, or finds that somebody else was faster.
async fn create(hub: &Hub, spec: &TopicSpec, until: Instant) -> Result<Found> {
    let native = hub.native_name(&spec.name, spec.layout, spec.queue);
    let partitions = match spec.layout.partitions().or(hub.config.partitions) {
        Some(partitions) => i32::from(partitions),
        None => usual_partitions(hub, until).await?,
    };
    let settings = settings::of(spec, partitions);
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

/// How many partitions a plain topic gets: what the broker is set to, if it is set to more than one
/// and tells.
async fn usual_partitions(hub: &Hub, until: Instant) -> Result<i32> {
    let any = hub.worker.run(until, |client, left| {
        let metadata = client.fetch_metadata(Some("__consumer_offsets"), left);
        let metadata = metadata.map_err(|native| error::of(&native))?;
        Ok(metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id))
    });
    let Some(broker) = any.await.map_err(|error| hub.explain(error))? else {
        return Ok(USUAL_PARTITIONS);
    };
    let broker = ResourceSpecifier::Broker(broker);
    let found = match settings::values(hub, broker, &["num.partitions"], until).await {
        Ok([found]) => found.and_then(|partitions| partitions.parse().ok()),
        Err(error) if error.kind() == ErrorKind::Auth => None,
        Err(error) => return Err(error),
    };
    Ok(found.filter(|partitions| *partitions > 1).unwrap_or(USUAL_PARTITIONS))
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
    use super::*;

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
}
