//! Settings of topics: what they are made with, and what they are compared by.

use std::time::Duration;

use posthaste_core::{Difference, Error, Layout, Result, TopicSpec};
use rdkafka::admin::ResourceSpecifier;
use tokio::time::Instant;

use crate::error::BROKER;
use crate::hub::Hub;
use crate::topology::{self, Found};

/// Refuses what cannot be asked of Kafka.
///
/// # Errors
/// `Unsupported` names the setting.
pub(crate) fn check(spec: &TopicSpec) -> Result<()> {
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

/// What differs between the spec and what was found.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn compare(
    hub: &Hub,
    spec: &TopicSpec,
    found: &Found,
    until: Instant,
) -> Result<Vec<Difference>> {
    let mut differences = shape((spec.layout, spec.queue), (found.layout, found.queue));
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
    let wanted = of(spec, found.partitions);
    if wanted.is_empty() {
        return Ok(differences);
    }
    let topic = ResourceSpecifier::Topic(&found.native);
    let values = values(hub, topic, &["retention.ms", "retention.bytes"], until).await?;
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

/// How two topics differ in how they order, and in what they are.
pub(crate) fn shape(wanted: (Layout, bool), found: (Layout, bool)) -> Vec<Difference> {
    let mut differences = Vec::new();
    let order = |layout: Layout| match layout.partitions() {
        Some(n) => format!("over {n} partitions"),
        None => "none".to_owned(),
    };
    if wanted.0 != found.0 {
        differences.push(Difference::new("order", order(wanted.0), order(found.0)));
    }
    let kind = |queue: bool| if queue { "queue" } else { "topic" };
    if wanted.1 != found.1 {
        differences.push(Difference::new("kind", kind(wanted.1), kind(found.1)));
    }
    differences
}

/// What a topic is made with, over so many partitions.
pub(crate) fn of(spec: &TopicSpec, partitions: i32) -> Vec<(&'static str, String)> {
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

/// The values of settings, as far as the broker tells them.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn values<const N: usize>(
    hub: &Hub,
    of: ResourceSpecifier<'_>,
    names: &[&str; N],
    until: Instant,
) -> Result<[Option<String>; N]> {
    let of = [of];
    let asking = hub.admin()?.describe_configs(&of, &topology::options(until));
    let answer = topology::answered(hub, until, asking).await?;
    let mut found = [const { None }; N];
    for one in answer {
        let one = one.map_err(topology::refused)?;
        for (name, found) in names.iter().zip(&mut found) {
            *found = one.get(name).and_then(|entry| entry.value.clone());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use posthaste_core::{ErrorKind, TopicConfig};

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
        assert_eq!(of(&spec.unwrap(), 2), wanted);
    }

    #[test]
    fn another_layout_is_told_as_order_and_kind() {
        let told = |found| -> Vec<_> {
            shape((Layout::Ordered(8), false), found).iter().map(ToString::to_string).collect()
        };
        assert!(told((Layout::Ordered(8), false)).is_empty());
        assert_eq!(
            told((Layout::Plain, true)),
            ["order: wanted over 8 partitions, found none", "kind: wanted topic, found queue"]
        );
    }
}
