//! P16: never more than `prefetch` unsettled deliveries, by count and by bytes.

use posthaste_core::Layout;

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq};
use crate::receive::{nothing, one, rest, take};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{numbered, publish, publish_each, send, sized};

cases![P16;
    Claim no_more_than_the_prefetch_is_unsettled;
    Claim the_bound_is_one_for_all_topics;
    Edge bytes_are_bounded_too;
    Edge a_driver_keeps_within_its_credit;
];

async fn no_more_than_the_prefetch_is_unsettled(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).prefetch(5).start().await?;
    publish(&bus.publisher(&topic)?, 0..40).await?;
    let mut held = take(&mut inbox, 5, scene.patience()).await?;
    nothing(&mut inbox, scene.quiet()).await?;
    in_flight_at_most(scene, 5).await?;
    // What is settled makes room for as much.
    for _ in 0..10 {
        if let Some(first) = held.pop() {
            first.ack().await?;
        }
        held.push(one(&mut inbox, scene.patience()).await?);
        nothing(&mut inbox, scene.quiet() / 5).await?;
    }
    in_flight_at_most(scene, 5).await
}

/// What the broker says, where it does.
async fn in_flight_at_most(scene: &Scene, limit: u64) -> Outcome {
    in_flight_on(scene, &[scene.topic()], limit).await
}

/// Also what a driver has fetched and keeps to itself is unsettled.
async fn in_flight_on(scene: &Scene, topics: &[String], limit: u64) -> Outcome {
    let bus = scene.bus().await?;
    let mut in_flight = 0;
    for topic in topics {
        if bus.capabilities(Some(topic))?.lag.is_kept() {
            let lag = bus.admin().lag(topic, &scene.group("a")).await?;
            in_flight += lag.in_flight.unwrap_or(0);
        }
    }
    ensure!(in_flight <= limit, "{in_flight} are with a member that may have {limit}");
    Ok(())
}

async fn the_bound_is_one_for_all_topics(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topics =
        [scene.topic_called("one"), scene.topic_called("two"), scene.topic_called("three")];
    let inbox = bus.subscribe(topics.as_slice()).group(scene.group("a")).prefetch(4);
    let mut inbox = inbox.start().await?;
    for topic in &topics {
        publish(&bus.publisher(topic)?, 0..10).await?;
    }
    let held = take(&mut inbox, 4, scene.patience()).await?;
    nothing(&mut inbox, scene.quiet()).await?;
    in_flight_on(scene, &topics, 4).await?;
    for delivery in held {
        delivery.ack().await?;
    }
    for delivery in take(&mut inbox, 4, scene.patience()).await? {
        delivery.ack().await?;
    }
    Ok(())
}

/// By running mean: what is held may exceed the bound by one fetch, so never twice the bound.
async fn bytes_are_bounded_too(scene: &Scene) -> Outcome {
    const SIZE: usize = 8 * 1024;
    const BOUND: usize = 64 * 1024;
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let publisher = bus.publisher(&topic)?;
    let inbox = bus.subscribe(&topic).group(&group).prefetch(1_000).prefetch_bytes(BOUND);
    let mut inbox = inbox.start().await?;
    publish_each(&publisher, (0..100).map(|number| sized(number, SIZE)).collect()).await?;
    let mut left = 100;
    while left > 0 {
        let mut held = take(&mut inbox, 1, scene.patience()).await?;
        held.extend(rest(&mut inbox, scene.quiet()).await?);
        let bytes: usize = held.iter().map(|delivery| delivery.envelope().size()).sum();
        ensure!(bytes <= 2 * BOUND, "{bytes} bytes are held, {BOUND} may be");
        left -= held.len();
        for delivery in held {
            delivery.ack().await?;
        }
        // The first rounds are enough to see the bound hold.
        if left < 60 {
            break;
        }
    }
    Ok(())
}

/// At the adapter's own contract: appended and outstanding together stay within what was given.
async fn a_driver_keeps_within_its_credit(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    let mut member = Member::join(&*broker, request(&topic, &group, "m", scene.lease())).await?;
    send(&*broker, &to, (0..50).map(numbered).collect()).await?;
    let first = member.take_exactly(3, scene.patience()).await?;
    ensure_eq!(first.len(), 3, "messages for a credit of three");
    in_flight_at_most(scene, 3).await?;
    let appended = member.poll_once(1).await?;
    ensure!(appended <= 1, "{appended} messages were appended for a credit of one");
    Ok(())
}
