//! P14: `attempt` counts deliveries to the group, and only a failure of this delivery's handler
//! costs a message its life.

use posthaste_core::{Bus, Layout, Nack, Order, Subscription, TopicConfig};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq};
use crate::receive::{nothing, one};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{keyed, numbered, publish, publish_each, send, topic_with};

cases![P14;
    Claim attempts_count_every_delivery;
    Claim deliveries_of_a_key_are_counted_too when |can| can.order.is_kept();
    Claim releases_cost_a_message_nothing;
    Claim deploys_cost_a_message_nothing;
    Edge leases_that_end_are_counted;
];

/// 1, 2, 3, 4 over requeue, delay and release.
async fn attempts_count_every_delivery(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).max_attempts(10).start().await?;
    publish(&bus.publisher(&topic)?, 0..1).await?;
    counted(scene, &bus, &mut inbox).await
}

/// The same where what comes again does so by the order of its key.
async fn deliveries_of_a_key_are_counted_too(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    bus.ensure(TopicConfig::new(&topic).ordered(2).group(&group)).await?;
    let member = bus.subscribe(&topic).group(&group).order(Order::PerKey).max_attempts(10);
    let mut inbox = member.start().await?;
    publish_each(&bus.publisher(&topic)?, vec![keyed("k", 0)]).await?;
    counted(scene, &bus, &mut inbox).await
}

async fn counted(scene: &Scene, bus: &Bus, inbox: &mut Subscription) -> Outcome {
    let exact = bus.capabilities(Some(&scene.topic()))?.exact_attempts;
    let mut last = 0;
    for round in 1..=5_u32 {
        let delivery = one(inbox, scene.patience()).await?;
        ensure_eq!(delivery.is_redelivered(), round > 1, "the flag of delivery {round}");
        ensure_eq!(delivery.attempt_is_exact(), exact, "whether delivery {round} is exact");
        if exact {
            ensure_eq!(delivery.attempt(), round, "the attempt of delivery {round}");
        } else {
            ensure!(delivery.attempt() >= last.max(1), "attempts go backwards");
        }
        last = delivery.attempt();
        match round {
            1 => delivery.nack(Nack::requeue()).await?,
            2 => delivery.nack(Nack::after(scene.quiet())).await?,
            3 => delivery.release().await?,
            4 => drop(delivery),
            _ => delivery.ack_confirmed().await?,
        }
    }
    nothing(inbox, scene.quiet()).await
}

/// Given back without fault, far more often than it may fail.
async fn releases_cost_a_message_nothing(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).max_attempts(2).start().await?;
    publish(&bus.publisher(&topic)?, 0..1).await?;
    for _ in 0..8 {
        one(&mut inbox, scene.patience()).await?.release().await?;
    }
    one(&mut inbox, scene.patience()).await?.ack_confirmed().await?;
    no_letters(scene).await
}

/// Each member is stopped with the message in its buffer or in its hands, as a deploy does it.
async fn deploys_cost_a_message_nothing(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    publish(&bus.publisher(&topic)?, 0..1).await?;
    let exact = bus.capabilities(Some(&topic))?.exact_attempts;
    for round in 1..=6_u32 {
        let member = bus.subscribe(&topic).group(&group).max_attempts(2);
        let mut inbox = member.start().await?;
        let held = one(&mut inbox, scene.patience()).await?;
        if exact {
            // What is taken back goes to others, not to the member that ends.
            ensure_eq!(held.attempt(), round, "the attempt of the member {round}");
        }
        // Still held at the deadline: taken back, and given to others.
        let stopped = inbox.stop(scene.quiet() / 20).await;
        ensure!(stopped.is_err(), "a stop that took a delivery back says so");
        drop(held);
    }
    let mut inbox = bus.subscribe(&topic).group(&group).max_attempts(2).start().await?;
    one(&mut inbox, scene.patience()).await?.ack_confirmed().await?;
    no_letters(scene).await
}

async fn no_letters(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    if bus.capabilities(Some(&topic))?.dead_letters.is_kept() {
        let page = bus.admin().dead_letters(&topic, &scene.group("a"), 10).await?;
        ensure!(page.letters.is_empty(), "a message that never failed is a dead letter");
    }
    Ok(())
}

/// Members die one after the other with the message in hand.
async fn leases_that_end_are_counted(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    let exact = broker.capabilities(Some(&topic)).exact_attempts;
    for round in 1..=3_u32 {
        let name = format!("member-{round}");
        let request = request(&topic, &group, &name, scene.lease());
        let mut member = Member::join(&*broker, request).await?;
        if round == 1 {
            send(&*broker, &to, vec![numbered(0)]).await?;
        }
        let received = member.next(1, scene.patience()).await?;
        ensure_eq!(received.attempt.exact, exact, "whether delivery {round} is exact");
        if exact {
            ensure_eq!(received.attempt.count, round, "the attempt of delivery {round}");
        } else {
            ensure!(received.attempt.count > 1 || round == 1, "delivery {round} is not flagged");
        }
        if round == 3 {
            member.ack(&received).await?;
        }
    }
    Ok(())
}
