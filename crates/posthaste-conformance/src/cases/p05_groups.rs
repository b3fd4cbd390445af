//! P5: every group gets every message, and within a group one member at a time handles it.

use std::time::Duration;

use posthaste_core::{Delivery, ErrorKind, Sharing, Subscription, SubscriptionEvent};
use tokio::time::timeout;

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::{distinct, handle, nothing, numbers, take};
use crate::scene::Scene;
use crate::send::{publish, topic_with, up_to};

cases![P5;
    Claim every_group_gets_every_message when |can| can.fan_out.is_kept();
    Claim members_of_a_group_share_without_overlap;
    Edge settling_in_one_group_leaves_the_others_alone when |can| can.fan_out.is_kept();
    Edge several_topics_in_one_subscription;
    Denial(FanOut) a_second_group_is_refused;
];

async fn every_group_gets_every_message(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inboxes = Vec::new();
    for tag in ["a", "b", "c"] {
        // Each on a connection of its own, as different services are.
        let service = scene.bus().await?;
        inboxes.push(service.subscribe(&topic).group(scene.group(tag)).start().await?);
    }
    publish(&bus.publisher(&topic)?, 0..50).await?;
    for inbox in &mut inboxes {
        let handled = handle(inbox, 50, scene.patience()).await?;
        ensure_eq!(distinct(&handled)?, up_to(50), "what one group got");
    }
    for inbox in &mut inboxes {
        nothing(inbox, scene.quiet() / 3).await?;
    }
    Ok(())
}

/// Two members, each on a connection of its own, take what comes and hold it: no message is with
/// both, and together they have all.
async fn members_of_a_group_share_without_overlap(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let mut first = one.subscribe(&topic).group(&group).prefetch(10).start().await?;
    let mut second = two.subscribe(&topic).group(&group).prefetch(10).start().await?;
    if bus.capabilities(Some(&topic))?.sharing == Sharing::Lanes {
        // What is held of a lane that moves may come again: here nothing is to be held by then.
        has_lanes(&mut second, scene.patience()).await?;
    }
    publish(&bus.publisher(&topic)?, 0..100).await?;

    let mut seen = Vec::new();
    let mut held: Vec<Delivery> = Vec::new();
    let collect = async {
        while seen.len() < 100 {
            let delivery = tokio::select! {
                Some(delivery) = first.next() => delivery?,
                Some(delivery) = second.next() => delivery?,
                else => break,
            };
            seen.push(crate::send::number(delivery.envelope())?);
            held.push(delivery);
            // Held by turns, so that both members have some while the others are handed out.
            if held.len() > 8 {
                held.remove(0).ack().await?;
            }
        }
        Ok::<_, crate::failure::Failed>(())
    };
    let ended = timeout(scene.patience(), collect).await;
    ensure!(ended.is_ok(), "{} of 100 messages within {:?}", seen.len(), scene.patience());
    ended.unwrap_or(Ok(()))?;
    ensure_eq!(distinct(&seen)?, up_to(100), "what both members got");
    nothing(&mut first, scene.quiet()).await?;
    nothing(&mut second, scene.quiet()).await
}

/// Waits until a member has a lane of its topic.
async fn has_lanes(member: &mut Subscription, patience: Duration) -> Outcome {
    let mut events = member.events();
    let assigned = async {
        loop {
            tokio::select! {
                // Nothing is published yet, but the subscription does its work while it is polled.
                Some(_) = member.next() => return false,
                event = events.next() => match event {
                    Some(SubscriptionEvent::LaneAssigned { partition: Some(_), .. }) => return true,
                    Some(_) => {}
                    None => return false,
                },
            }
        }
    };
    let assigned = timeout(patience, assigned).await;
    ensure_eq!(assigned.ok(), Some(true), "whether the second member got a lane");
    Ok(())
}

/// One group is done with everything before the other has begun.
async fn settling_in_one_group_leaves_the_others_alone(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, quick, slow) = (scene.topic(), scene.group("quick"), scene.group("slow"));
    topic_with(&bus, &topic, &[&quick, &slow]).await?;
    publish(&bus.publisher(&topic)?, 0..30).await?;
    let mut inbox = bus.subscribe(&topic).group(&quick).start().await?;
    handle(&mut inbox, 30, scene.patience()).await?;
    inbox.stop(scene.patience()).await?;

    let mut inbox = bus.subscribe(&topic).group(&slow).start().await?;
    let deliveries = take(&mut inbox, 30, scene.patience()).await?;
    ensure_eq!(distinct(&numbers(&deliveries)?)?, up_to(30), "what the other group got");
    ensure!(!deliveries.iter().any(Delivery::is_redelivered), "it was not delivered before");
    Ok(())
}

async fn several_topics_in_one_subscription(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topics =
        [scene.topic_called("one"), scene.topic_called("two"), scene.topic_called("three")];
    let mut inbox = bus.subscribe(topics.as_slice()).group(scene.group("a")).start().await?;
    for (index, topic) in topics.iter().enumerate() {
        publish(&bus.publisher(topic)?, index * 10..index * 10 + 10).await?;
    }
    let deliveries = take(&mut inbox, 30, scene.patience()).await?;
    ensure_eq!(distinct(&numbers(&deliveries)?)?, up_to(30), "what the three topics brought");
    for delivery in deliveries {
        let number = crate::send::number(delivery.envelope())?;
        let from = topics.get(number / 10).map(String::as_str);
        ensure_eq!(Some(delivery.topic().as_str()), from, "the topic of message {number}");
        delivery.ack().await?;
    }
    Ok(())
}

async fn a_second_group_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let first = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let second = bus.subscribe(&topic).group(scene.group("b")).start().await;
    refused(second, &[ErrorKind::Unsupported], "a second group")?;
    drop(first);
    Ok(())
}
