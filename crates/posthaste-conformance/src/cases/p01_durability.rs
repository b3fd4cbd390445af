//! P1: what is confirmed is stored, and stays stored over a restart of the broker.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::{Durability, ErrorKind, Promise};

use crate::case::cases;
use crate::failure::{Outcome, ensure, refused};
use crate::load::Load;
use crate::receive::{distinct, handle, handle_all};
use crate::scene::Scene;
use crate::send::{numbered, publish, publish_each, topic_with, up_to};

cases![P1;
    Claim what_is_confirmed_is_delivered;
    Edge messages_wait_for_their_consumer;
    Fault a_restart_keeps_what_was_confirmed when |can| can.durability != Durability::None,
        needs [Restart];
    Fault a_kill_while_publishing_keeps_what_was_confirmed
        when |can| can.durability != Durability::None,
        needs [Kill];
    Denial(Durability) a_transport_without_copies_says_so;
];

/// One by one, by receipts and as a batch: whatever was confirmed arrives, once.
async fn what_is_confirmed_is_delivered(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("all"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    for number in 0..20 {
        publisher.publish_envelope(numbered(number)).await?;
    }
    let mut receipts = Vec::new();
    for number in 20..60 {
        receipts.push(publisher.enqueue_envelope(numbered(number)).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    publish_each(&publisher, (60..120).map(numbered).collect()).await?;
    let handled = handle_all(&mut inbox, &up_to(120), scene.patience()).await?;
    distinct(&handled)?;
    Ok(())
}

/// Nobody consumes when it is published, and the publisher is gone when somebody does.
async fn messages_wait_for_their_consumer(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("later"));
    let sender = scene.bus().await?;
    topic_with(&sender, &topic, &[&group]).await?;
    publish(&sender.publisher(&topic)?, 0..100).await?;
    sender.close(scene.patience()).await?;

    let receiver = scene.bus().await?;
    let mut inbox = receiver.subscribe(&topic).group(&group).start().await?;
    distinct(&handle(&mut inbox, 100, scene.patience()).await?)?;
    Ok(())
}

async fn a_restart_keeps_what_was_confirmed(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("all"));
    let bus = scene.bus().await?;
    topic_with(&bus, &topic, &[&group]).await?;
    publish(&bus.publisher(&topic)?, 0..200).await?;
    scene.instance().stop().await?;
    scene.instance().start().await?;
    let after = scene.bus().await?;
    let mut inbox = after.subscribe(&topic).group(&group).start().await?;
    handle_all(&mut inbox, &up_to(200), scene.patience()).await?;
    Ok(())
}

/// Killed twice under load. Every publish has an outcome by its deadline, and every confirmed one
/// is there afterwards.
async fn a_kill_while_publishing_keeps_what_was_confirmed(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("all"));
    let bus = scene.bus().await?;
    topic_with(&bus, &topic, &[&group]).await?;
    let load = Load::start(&bus.publisher(&topic)?, 0, Duration::from_secs(20));
    for _ in 0..2 {
        load.goes_on(200, scene.patience()).await?;
        scene.instance().kill().await?;
        scene.instance().start().await?;
    }
    load.goes_on(200, scene.patience()).await?;
    let (confirmed, failed) = load.stop(Duration::from_secs(25)).await?;
    ensure!(failed.is_empty(), "publishes failed although the broker was back: {failed:?}");

    let after = scene.bus().await?;
    let mut inbox = after.subscribe(&topic).group(&group).start().await?;
    let handled = handle_all(&mut inbox, &confirmed, scene.patience()).await?;
    let strange: BTreeSet<_> =
        handled.iter().filter(|number| !confirmed.contains(number)).collect();
    ensure!(strange.is_empty(), "messages arrived that nobody confirmed or lost: {strange:?}");
    Ok(())
}

async fn a_transport_without_copies_says_so(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let inbox =
        bus.subscribe(scene.topic()).group(scene.group("a")).require(Promise::P1).start().await;
    refused(inbox, &[ErrorKind::Unsupported], "a subscription that requires P1")?;
    Ok(())
}
