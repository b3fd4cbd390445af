//! P21: an expired message is not handled; it becomes a dead letter or is dropped, and counted.

use std::time::Duration;

use posthaste_core::{Bus, Expired, Nack, PublishOptions, Reason, SubscriptionEvent, Timestamp};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq};
use crate::receive::{event, nothing, one};
use crate::scene::Scene;
use crate::send::{numbered, topic_with, until};

cases![P21;
    Claim an_expired_message_becomes_a_dead_letter when |can| can.dead_letters.is_kept();
    Claim an_expired_message_is_dropped_by_choice;
    Edge a_message_that_expires_between_two_attempts_is_not_handled;
    Edge a_message_that_has_not_expired_is_handled;
];

/// A topic whose group has message 0, which is expired when somebody comes, and message 1.
async fn expired(scene: &Scene) -> Outcome<Bus> {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    let past = PublishOptions::new().expires_at(Timestamp::now() - Duration::from_millis(1));
    publisher.publish_envelope_with(numbered(0), past).await?;
    publisher.publish_envelope(numbered(1)).await?;
    Ok(bus)
}

async fn an_expired_message_becomes_a_dead_letter(scene: &Scene) -> Outcome {
    let bus = expired(scene).await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let mut events = inbox.events();
    let delivery = one(&mut inbox, scene.patience()).await?;
    ensure_eq!(delivery.id(), "m-1", "the message that is handled");
    delivery.ack().await?;
    nothing(&mut inbox, scene.quiet()).await?;
    let id = event(&mut events, scene.patience(), "an expiry", |event| match event {
        SubscriptionEvent::Expired { id } => Some(id),
        _ => None,
    });
    ensure_eq!(id.await?, "m-0", "the message of the event");
    ensure_eq!(inbox.stats().expired, 1, "it is counted");
    let letters = until("the letter is stored", scene.patience(), || async {
        let page = bus.admin().dead_letters(&topic, &group, 10).await;
        let letters = page.map_err(|error| format!("{error:?}"))?.letters;
        if letters.is_empty() { Err("none".to_owned()) } else { Ok(letters) }
    })
    .await?;
    ensure_eq!(letters.len(), 1, "letters");
    ensure_eq!(letters[0].letter.reason, Reason::Expired, "the reason");
    ensure_eq!(letters[0].letter.envelope.id(), "m-0", "the message of the letter");
    Ok(())
}

async fn an_expired_message_is_dropped_by_choice(scene: &Scene) -> Outcome {
    let bus = expired(scene).await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let member = bus.subscribe(&topic).group(&group).expired(Expired::Drop);
    let mut inbox = member.start().await?;
    let delivery = one(&mut inbox, scene.patience()).await?;
    ensure_eq!(delivery.id(), "m-1", "the message that is handled");
    delivery.ack().await?;
    nothing(&mut inbox, scene.quiet()).await?;
    ensure_eq!(inbox.stats().expired, 1, "it is counted");
    inbox.stop(scene.patience()).await?;
    // Settled: nobody gets it later, and no letter is kept.
    let mut next = bus.subscribe(&topic).group(&group).start().await?;
    nothing(&mut next, scene.quiet()).await?;
    if bus.capabilities(Some(&topic))?.dead_letters.is_kept() {
        let page = bus.admin().dead_letters(&topic, &group, 10).await?;
        ensure!(page.letters.is_empty(), "what was to be dropped is a letter");
    }
    Ok(())
}

async fn a_message_that_expires_between_two_attempts_is_not_handled(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let member = bus.subscribe(&topic).group(&group).expired(Expired::Drop);
    let mut inbox = member.start().await?;
    let soon = PublishOptions::new().expires_in(scene.quiet() * 4);
    bus.publisher(&topic)?.publish_envelope_with(numbered(0), soon).await?;
    let first = one(&mut inbox, scene.patience()).await?;
    first.nack(Nack::after(scene.quiet() * 5)).await?;
    // Past its time and the delay, and what a delayed message may be late.
    nothing(&mut inbox, scene.quiet() * 5 + Duration::from_secs(1)).await?;
    until("the expiry is counted", scene.patience(), || async {
        match inbox.stats().expired {
            1 => Ok(()),
            count => Err(format!("{count}")),
        }
    })
    .await
}

async fn a_message_that_has_not_expired_is_handled(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let mut inbox = bus.subscribe(scene.topic()).group(scene.group("a")).start().await?;
    let later = PublishOptions::new().expires_in(Duration::from_secs(3_600));
    let publisher = bus.publisher(scene.topic())?;
    publisher.publish_envelope_with(numbered(0), later).await?;
    let delivery = one(&mut inbox, scene.patience()).await?;
    ensure!(delivery.envelope().expires_at().is_some(), "it says when it expires");
    delivery.ack().await?;
    ensure_eq!(inbox.stats().expired, 0, "expired messages");
    Ok(())
}
