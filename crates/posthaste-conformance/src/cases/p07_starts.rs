//! P7: a new group starts where it was told, and an existing one stays where it is.

use std::collections::BTreeSet;

use posthaste_core::{Bus, ErrorKind, Start, Subscription, Timestamp};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::{distinct, handle, handle_all, nothing, numbers, rest, take};
use crate::scene::Scene;
use crate::send::{from_offset, publish, topic_with, up_to};

cases![P7;
    Claim created_gets_everything_since_the_group_exists;
    Claim latest_gets_only_what_comes;
    Claim earliest_gets_everything when |can| can.start_earliest.is_kept();
    Claim a_time_gets_what_was_stored_since when |can| can.start_at_time.is_kept();
    Claim an_offset_gets_what_lies_from_there when |can| can.start_at_offset.is_kept();
    Edge an_existing_group_keeps_its_place;
    Edge without_a_group_only_what_comes_and_nothing_is_left;
    Denial(StartEarliest) earliest_is_refused;
    Denial(StartAtTime) a_time_is_refused;
    Denial(StartAtOffset) an_offset_is_refused;
];

/// A topic with ten messages; another group keeps them from being done with.
async fn ten(scene: &Scene, bus: &Bus) -> Outcome<String> {
    let topic = scene.topic();
    topic_with(bus, &topic, &[&scene.group("keeper")]).await?;
    publish(&bus.publisher(&topic)?, 0..10).await?;
    Ok(topic)
}

async fn member(scene: &Scene, bus: &Bus, start: Start) -> Outcome<Subscription> {
    Ok(bus.subscribe(scene.topic()).group(scene.group("new")).from(start).start().await?)
}

/// By `start` and by `ensure`, with nobody there to fetch in the second case.
async fn created_gets_everything_since_the_group_exists(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, other) = (scene.topic(), scene.topic_called("ensured"));
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    publish(&bus.publisher(&topic)?, 0..10).await?;
    ensure_eq!(
        handle(&mut inbox, 10, scene.patience()).await?.into_iter().collect::<BTreeSet<_>>(),
        up_to(10),
        "since the subscription has started"
    );
    topic_with(&bus, &other, &[&scene.group("a")]).await?;
    publish(&bus.publisher(&other)?, 0..10).await?;
    let mut inbox = bus.subscribe(&other).group(scene.group("a")).start().await?;
    handle_all(&mut inbox, &up_to(10), scene.patience()).await?;
    Ok(())
}

async fn latest_gets_only_what_comes(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = ten(scene, &bus).await?;
    let mut inbox = member(scene, &bus, Start::Latest).await?;
    publish(&bus.publisher(&topic)?, 10..15).await?;
    let handled: BTreeSet<_> = handle(&mut inbox, 5, scene.patience()).await?.into_iter().collect();
    ensure_eq!(handled, (10..15).collect(), "what came after the group");
    nothing(&mut inbox, scene.quiet()).await
}

async fn earliest_gets_everything(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = ten(scene, &bus).await?;
    let mut inbox = member(scene, &bus, Start::Earliest).await?;
    publish(&bus.publisher(&topic)?, 10..15).await?;
    let handled: BTreeSet<_> =
        handle(&mut inbox, 15, scene.patience()).await?.into_iter().collect();
    ensure_eq!(handled, up_to(15), "everything");
    nothing(&mut inbox, scene.quiet()).await
}

/// The time of the fifth message, by the broker's clock where it tells.
async fn a_time_gets_what_was_stored_since(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut keeper = bus.subscribe(&topic).group(scene.group("keeper")).start().await?;
    let publisher = bus.publisher(&topic)?;
    publish(&publisher, 0..5).await?;
    let early = take(&mut keeper, 5, scene.patience()).await?;
    // The clock moves on between the halves, however coarse it is.
    nothing(&mut keeper, scene.quiet()).await?;
    let between = Timestamp::now();
    nothing(&mut keeper, scene.quiet()).await?;
    publish(&publisher, 5..10).await?;
    let late = take(&mut keeper, 5, scene.patience()).await?;
    let first_late = late.iter().filter_map(posthaste_core::Delivery::stored_at).min();
    let last_early = early.iter().filter_map(posthaste_core::Delivery::stored_at).max();
    if let (Some(early), Some(late)) = (last_early, first_late) {
        ensure!(early < late, "stored at {early} and, half a second later, at {late}");
    }
    let mut inbox = member(scene, &bus, Start::At(first_late.unwrap_or(between))).await?;
    let got: BTreeSet<_> = handle(&mut inbox, 5, scene.patience()).await?.into_iter().collect();
    ensure_eq!(got, (5..10).collect(), "what was stored since");
    nothing(&mut inbox, scene.quiet()).await
}

async fn an_offset_gets_what_lies_from_there(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    topic_with(&bus, &topic, &[&scene.group("keeper")]).await?;
    let confirmed = publish(&bus.publisher(&topic)?, 0..10).await?;
    let (start, expected) = from_offset(&confirmed, 6)?;
    let mut inbox = member(scene, &bus, start).await?;
    let got = handle(&mut inbox, expected.len(), scene.patience()).await?;
    ensure_eq!(got.into_iter().collect::<BTreeSet<_>>(), expected, "from {start:?} on");
    nothing(&mut inbox, scene.quiet()).await
}

/// A member that comes back with another start does not move the group.
async fn an_existing_group_keeps_its_place(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let publisher = bus.publisher(&topic)?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    publish(&publisher, 0..5).await?;
    handle(&mut inbox, 5, scene.patience()).await?;
    inbox.stop(scene.patience()).await?;
    publish(&publisher, 5..10).await?;

    let earliest = bus.capabilities(Some(&topic))?.start_earliest.is_kept();
    let starts = if earliest { vec![Start::Latest, Start::Earliest] } else { vec![Start::Latest] };
    let mut handled = Vec::new();
    for start in starts {
        let mut inbox = bus.subscribe(&topic).group(&group).from(start).start().await?;
        handled.extend(handle(&mut inbox, 2, scene.patience()).await?);
        inbox.stop(scene.patience()).await?;
    }
    let moved = distinct(&handled)?.iter().any(|number| !(5..10).contains(number));
    ensure!(!moved, "a later start moved the group: it got {handled:?} of what was left");
    Ok(())
}

async fn without_a_group_only_what_comes_and_nothing_is_left(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = ten(scene, &bus).await?;
    let publisher = bus.publisher(&topic)?;
    let mut one = bus.subscribe(&topic).start().await?;
    let mut two = bus.subscribe(&topic).start().await?;
    publish(&publisher, 10..15).await?;
    for inbox in [&mut one, &mut two] {
        let deliveries = take(inbox, 5, scene.patience()).await?;
        ensure!(deliveries.iter().all(|delivery| delivery.group().is_none()), "it has no group");
        let got: BTreeSet<_> = numbers(&deliveries)?.into_iter().collect();
        ensure_eq!(got, (10..15).collect(), "what came while it lived");
        for delivery in deliveries {
            delivery.ack().await?;
        }
    }
    one.stop(scene.patience()).await?;
    two.stop(scene.patience()).await?;
    if bus.capabilities(Some(&topic))?.group_lifecycle.is_kept() {
        let groups = bus.admin().groups(&topic).await?;
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        ensure_eq!(names, [scene.group("keeper")], "the groups afterwards");
    }
    // One that comes later has missed what was sent in between.
    publish(&publisher, 15..17).await?;
    let mut late = bus.subscribe(&topic).start().await?;
    publish(&publisher, 17..18).await?;
    let got = take(&mut late, 1, scene.patience()).await?;
    ensure_eq!(numbers(&got)?, [17], "the first message of a late subscription");
    ensure!(rest(&mut late, scene.quiet()).await?.is_empty(), "there was only one");
    Ok(())
}

async fn refuses(scene: &Scene, start: Start) -> Outcome {
    let bus = scene.bus().await?;
    let inbox = bus.subscribe(scene.topic()).group(scene.group("a")).from(start).start().await;
    refused(inbox, &[ErrorKind::Unsupported], "that start")?;
    Ok(())
}

async fn earliest_is_refused(scene: &Scene) -> Outcome {
    refuses(scene, Start::Earliest).await
}

async fn a_time_is_refused(scene: &Scene) -> Outcome {
    refuses(scene, Start::At(Timestamp::now())).await
}

async fn an_offset_is_refused(scene: &Scene) -> Outcome {
    refuses(scene, Start::AtOffset { partition: None, offset: 0 }).await
}
