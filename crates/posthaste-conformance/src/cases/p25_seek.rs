//! P25: a group without members can be moved, and a range can be read again.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_core::{Bus, Confirmed, ErrorKind, Promise, Start, Timestamp};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{distinct, handle, nothing, take};
use crate::scene::Scene;
use crate::send::{from_offset, number, publish, topic_with, up_to};

cases![P25;
    Claim seeking_to_the_earliest_brings_everything_again when |can| can.seek.is_kept();
    Claim seeking_to_the_latest_skips_what_is_there when |can| can.seek.is_kept();
    Claim a_range_is_read_without_a_group when |can| can.range.is_kept();
    Edge seeking_to_a_time_and_an_offset when |can| {
        can.seek.is_kept() && can.start_at_time.is_kept() && can.start_at_offset.is_kept()
    };
    Edge a_group_with_members_is_not_moved when |can| can.seek.is_kept();
    Edge a_group_without_members_is_moved_alone
        when |can| can.seek.is_kept() && can.fan_out.is_kept();
    Edge seeking_nowhere_is_refused when |can| can.seek.is_kept();
    Denial(Seek) seeking_is_refused;
    Denial(Range) ranges_are_refused;
];

/// Ten messages that the group has handled, another group that keeps them, and no member.
async fn handled(scene: &Scene, bus: &Bus) -> Outcome<Vec<Confirmed>> {
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(bus, &topic, &[&group, &scene.group("keeper")]).await?;
    let confirmed = publish(&bus.publisher(&topic)?, 0..10).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    handle(&mut inbox, 10, scene.patience()).await?;
    inbox.stop(scene.patience()).await?;
    Ok(confirmed)
}

/// What the group gets when a member comes.
async fn comes(scene: &Scene, bus: &Bus, wanted: BTreeSet<usize>) -> Outcome {
    let mut inbox = bus.subscribe(scene.topic()).group(scene.group("a")).start().await?;
    let got = handle(&mut inbox, wanted.len(), scene.patience()).await?;
    ensure_eq!(got.into_iter().collect::<BTreeSet<_>>(), wanted, "what the group gets");
    nothing(&mut inbox, scene.quiet()).await?;
    inbox.stop(scene.patience()).await?;
    Ok(())
}

async fn seeking_to_the_earliest_brings_everything_again(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    handled(scene, &bus).await?;
    bus.admin().seek(&scene.topic(), &scene.group("a"), Start::Earliest).await?;
    comes(scene, &bus, (0..10).collect()).await
}

async fn seeking_to_the_latest_skips_what_is_there(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    handled(scene, &bus).await?;
    let publisher = bus.publisher(scene.topic())?;
    publish(&publisher, 10..15).await?;
    bus.admin().seek(&scene.topic(), &scene.group("a"), Start::Latest).await?;
    publish(&publisher, 15..18).await?;
    comes(scene, &bus, (15..18).collect()).await
}

async fn seeking_to_a_time_and_an_offset(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let (start, follows) = from_offset(&handled(scene, &bus).await?, 7)?;
    bus.admin().seek(&topic, &group, start).await?;
    comes(scene, &bus, follows).await?;

    let mut keeper = bus.subscribe(&topic).group(scene.group("keeper")).start().await?;
    handle(&mut keeper, 10, scene.patience()).await?;
    nothing(&mut keeper, scene.quiet()).await?;
    let between = Timestamp::now();
    nothing(&mut keeper, scene.quiet()).await?;
    publish(&bus.publisher(&topic)?, 10..13).await?;
    let late = take(&mut keeper, 3, scene.patience()).await?;
    let stored = late.iter().filter_map(posthaste_core::Delivery::stored_at).min();
    bus.admin().seek(&topic, &group, Start::At(stored.unwrap_or(between))).await?;
    comes(scene, &bus, (10..13).collect()).await
}

async fn a_group_with_members_is_not_moved(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).member("member-7").start().await?;
    publish(&bus.publisher(&topic)?, 0..5).await?;
    handle(&mut inbox, 5, scene.patience()).await?;
    let other = scene.bus().await?;
    // Fetching, as a member does whose application waits.
    let seeking = async {
        let sought = other.admin().seek(&topic, &group, Start::Earliest).await;
        refused(sought, &[ErrorKind::Conflict], "seeking under a live member")
    };
    let error = tokio::select! {
        refused = seeking => refused?,
        _ = inbox.next() => return Err(Failed::new("the group was moved under its member")),
    };
    let names_it = error.context().any(|(_, value)| value.contains("member-7"));
    ensure!(names_it, "the error does not name the member: {error}");
    nothing(&mut inbox, scene.quiet()).await?;
    inbox.stop(scene.patience()).await?;
    other.admin().seek(&topic, &group, Start::Earliest).await?;
    comes(scene, &bus, (0..5).collect()).await
}

async fn a_group_without_members_is_moved_alone(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    handled(scene, &bus).await?;
    let keeper = || bus.subscribe(scene.topic()).group(scene.group("keeper")).start();
    let mut inbox = keeper().await?;
    handle(&mut inbox, 10, scene.patience()).await?;
    inbox.stop(scene.patience()).await?;
    bus.admin().seek(&scene.topic(), &scene.group("a"), Start::Earliest).await?;
    let mut inbox = keeper().await?;
    nothing(&mut inbox, scene.quiet()).await?;
    comes(scene, &bus, (0..10).collect()).await
}

async fn seeking_nowhere_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let missing = &[ErrorKind::NotFound];
    refused(bus.admin().seek(&topic, &group, Start::Earliest).await, missing, "on no topic")?;
    topic_with(&bus, &topic, &[&group]).await?;
    let other = scene.group("other");
    refused(bus.admin().seek(&topic, &other, Start::Earliest).await, missing, "of no group")?;
    let created = bus.admin().seek(&topic, &group, Start::Created).await;
    refused(created, &[ErrorKind::Invalid], "seeking to the creation")?;
    Ok(())
}

/// In order, which is that of each partition, so many, from the earliest and from an offset;
/// nobody's place moves.
async fn a_range_is_read_without_a_group(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    topic_with(&bus, &topic, &[&scene.group("keeper")]).await?;
    let confirmed = publish(&bus.publisher(&topic)?, 0..10).await?;
    let all = bus.admin().range(&topic, Start::Earliest, 100).await?;
    let numbers = |range: &[posthaste_core::broker::Retained]| -> Outcome<Vec<usize>> {
        range.iter().map(|retained| number(&retained.envelope)).collect()
    };
    ensure_eq!(distinct(&numbers(&all)?)?, up_to(10), "the whole range");
    let pairs = all.iter().zip(numbers(&all)?);
    let mut last = BTreeMap::new();
    for (retained, number) in pairs {
        let before = last.insert(retained.position.partition, number);
        ensure!(before.is_none_or(|before| before < number), "{number} comes after {before:?}");
    }
    let four = bus.admin().range(&topic, Start::Earliest, 4).await?;
    ensure_eq!(numbers(&four)?, numbers(&all)?[..4], "a range of four");
    if confirmed.iter().all(|one| one.offset().is_some()) {
        let (from, follows) = from_offset(&confirmed, 6)?;
        let rest = bus.admin().range(&topic, from, 100).await?;
        ensure_eq!(distinct(&numbers(&rest)?)?, follows, "from an offset on");
    }
    for wrong in [Start::Latest, Start::Created] {
        let range = bus.admin().range(&topic, wrong, 1).await;
        refused(range, &[ErrorKind::Invalid], "a range from where nothing is")?;
    }
    let mut keeper = bus.subscribe(&topic).group(scene.group("keeper")).start().await?;
    handle(&mut keeper, 10, scene.patience()).await?;
    Ok(())
}

async fn seeking_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let unsupported = &[ErrorKind::Unsupported];
    refused(bus.admin().seek(&topic, &group, Start::Earliest).await, unsupported, "seek")?;
    let inbox = bus.subscribe(&topic).group(&group).require(Promise::P25).start().await;
    refused(inbox, unsupported, "a subscription that requires P25")?;
    Ok(())
}

async fn ranges_are_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    topic_with(&bus, &scene.topic(), &[]).await?;
    let range = bus.admin().range(&scene.topic(), Start::Earliest, 1).await;
    refused(range, &[ErrorKind::Unsupported], "a range")?;
    Ok(())
}
