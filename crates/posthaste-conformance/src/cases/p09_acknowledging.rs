//! P9: acknowledging out of order neither skips nor loses what is not acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use posthaste_core::{Delivery, Layout, Subscription};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq};
use crate::receive::{done_or_lost, nothing, numbers, rest, settle_all, take};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{number, numbered, publish, send};

cases![P9;
    Claim what_was_not_acknowledged_comes_again_and_nothing_else;
    Edge acknowledging_backwards_completes_everything;
    Fault a_restart_brings_back_what_was_not_acknowledged, needs [Restart];
    Fault a_cut_loses_no_message_and_no_acknowledgement, needs [Cut];
];

/// Some of these numbers, in some order.
fn some(chance: &mut Rng, of: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..of).collect();
    chance.shuffle(&mut numbers);
    numbers.truncate(of / 2);
    numbers
}

/// A random half is acknowledged in a random order, then the member dies.
async fn what_was_not_acknowledged_comes_again_and_nothing_else(scene: &Scene) -> Outcome {
    const COUNT: usize = 30;
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    let lease = scene.lease();
    let mut dying = Member::join(&*broker, request(&topic, &group, "dying", lease)).await?;
    send(&*broker, &to, (0..COUNT).map(numbered).collect()).await?;
    let held = dying.take(COUNT, scene.patience()).await?;
    let half = some(&mut scene.chance(), COUNT);
    for received in half.iter().filter_map(|index| held.get(*index)) {
        dying.ack(received).await?;
    }
    let kept = held.iter().enumerate().filter(|(index, _)| !half.contains(index));
    let kept: BTreeSet<String> = kept.map(|(_, it)| it.envelope.id().to_owned()).collect();
    drop(dying);

    let mut heir = Member::join(&*broker, request(&topic, &group, "heir", lease)).await?;
    let again = heir.handle(kept.len(), scene.patience()).await?;
    let ids: BTreeSet<String> = again.iter().map(|it| it.envelope.id().to_owned()).collect();
    ensure_eq!(ids, kept, "what came again");
    let more = heir.listen(1, lease + scene.quiet()).await?;
    ensure!(more.is_empty(), "something else came again");
    Ok(())
}

async fn acknowledging_backwards_completes_everything(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    let mut inbox = bus.subscribe(&topic).group(&group).lease(lease).start().await?;
    publish(&bus.publisher(&topic)?, 0..60).await?;
    let deliveries = take(&mut inbox, 60, scene.patience()).await?;
    for delivery in deliveries.into_iter().rev() {
        delivery.ack().await?;
    }
    nothing(&mut inbox, lease + scene.quiet()).await?;
    inbox.stop(scene.patience()).await?;
    let mut next = bus.subscribe(&topic).group(&group).start().await?;
    nothing(&mut next, scene.quiet()).await?;
    if bus.capabilities(Some(&topic))?.lag.is_kept() {
        let lag = bus.admin().lag(&topic, &group).await?;
        ensure_eq!(lag.total(), 0, "what is left: {lag:?}");
    }
    Ok(())
}

/// What was acknowledged before, and longer ago than the declared window, stays so.
async fn a_restart_brings_back_what_was_not_acknowledged(scene: &Scene) -> Outcome {
    const COUNT: usize = 30;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    let bus = scene.bus().await?;
    let window = bus.capabilities(Some(&topic))?.replay_window;
    let mut inbox = bus.subscribe(&topic).group(&group).lease(lease).start().await?;
    publish(&bus.publisher(&topic)?, 0..COUNT).await?;
    let deliveries = take(&mut inbox, COUNT, scene.patience()).await?;
    let half: BTreeSet<usize> = some(&mut scene.chance(), COUNT).into_iter().collect();
    let (acked, kept) = split(deliveries, &half)?;
    settle_all(acked).await?;
    settled(scene, &mut inbox, window).await?;
    scene.instance().stop().await?;
    scene.instance().start().await?;
    // Given back: whether this reaches the broker or the leases end there, they come again.
    drop(kept);

    let mut again = BTreeSet::new();
    while again.len() < COUNT - half.len() {
        let delivery = crate::receive::one(&mut inbox, scene.patience()).await?;
        let number = number(delivery.envelope())?;
        if half.contains(&number) {
            ensure!(window == Duration::MAX, "{number} was acknowledged and came again");
        } else {
            again.insert(number);
        }
        done_or_lost(delivery.ack().await)?;
    }
    Ok(())
}

/// Waits until what was settled may not come again. Without a bound for that, only briefly.
async fn settled(scene: &Scene, inbox: &mut Subscription, window: Duration) -> Outcome {
    let wait = if window == Duration::MAX { scene.quiet() } else { window };
    nothing(inbox, wait).await
}

fn split(
    deliveries: Vec<Delivery>,
    half: &BTreeSet<usize>,
) -> Outcome<(Vec<Delivery>, Vec<Delivery>)> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        let inner = half.contains(&number(delivery.envelope())?);
        if inner { inside.push(delivery) } else { outside.push(delivery) }
    }
    Ok((inside, outside))
}

/// Half is acknowledged before a cut, half after it, when the leases may or may not have survived.
async fn a_cut_loses_no_message_and_no_acknowledgement(scene: &Scene) -> Outcome {
    const COUNT: usize = 30;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let (bus, link) = scene.bus_through().await?;
    let window = bus.capabilities(Some(&topic))?.replay_window;
    let mut inbox = bus.subscribe(&topic).group(&group).lease(scene.lease()).start().await?;
    publish(&bus.publisher(&topic)?, 0..COUNT).await?;
    let deliveries = take(&mut inbox, COUNT, scene.patience()).await?;
    let half: BTreeSet<usize> = some(&mut scene.chance(), COUNT).into_iter().collect();
    let (before, after) = split(deliveries, &half)?;
    settle_all(before).await?;
    settled(scene, &mut inbox, window).await?;
    link.cut().await;
    // A late acknowledgement completes the message, or the message comes again: never neither.
    for delivery in after {
        done_or_lost(delivery.ack().await)?;
    }
    let quiet = scene.lease() * 2 + scene.quiet();
    for delivery in rest(&mut inbox, quiet).await? {
        let number = number(delivery.envelope())?;
        let bounded = window < Duration::MAX;
        ensure!(!(bounded && half.contains(&number)), "{number} was acknowledged and came again");
        delivery.ack_confirmed().await?;
    }
    nothing(&mut inbox, quiet).await?;
    // The same connection goes on.
    publish(&bus.publisher(&topic)?, COUNT..COUNT + 5).await?;
    let fresh = take(&mut inbox, 5, scene.patience()).await?;
    ensure!(numbers(&fresh)?.iter().all(|number| *number >= COUNT), "an old message came again");
    settle_all(fresh).await
}
