//! P22: a message that is published for later is not delivered before, or refused.

use std::time::Duration;

use posthaste_core::{ErrorKind, PublishOptions, Timestamp};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::{handle, nothing, one};
use crate::scene::Scene;
use crate::send::{numbered, topic_with};

cases![P22;
    Claim a_message_for_later_does_not_come_before when |can| can.deliver_at.is_kept();
    Edge a_time_that_has_passed_is_now when |can| can.deliver_at.is_kept();
    Edge others_are_not_held_up when |can| can.deliver_at.is_kept();
    Edge a_delay_beyond_the_limit_is_refused
        when |can| can.deliver_at.is_kept() && can.max_publish_delay.is_some();
    Fault a_message_for_later_survives_a_kill when |can| can.deliver_at.is_kept(), needs [Kill];
    Denial(DeliverAt) messages_for_later_are_refused;
];

/// How late a delayed message may come on a machine that is busy.
const LATE: Duration = Duration::from_secs(4);

async fn a_message_for_later_does_not_come_before(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, delay) = (scene.topic(), Duration::from_secs(2));
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let begun = Instant::now();
    let options = PublishOptions::new().deliver_after(delay);
    bus.publisher(&topic)?.publish_envelope_with(numbered(0), options).await?;
    let delivery = one(&mut inbox, delay + scene.patience()).await?;
    let waited = begun.elapsed();
    ensure!(waited >= delay, "for {delay:?} later, it came after {waited:?}");
    ensure!(waited <= delay + LATE, "for {delay:?} later, it came after {waited:?}");
    ensure_eq!(delivery.attempt(), 1, "waiting is no attempt");
    ensure_eq!(delivery.id(), "m-0", "the message");
    ensure!(delivery.payload() == numbered(0).payload(), "its payload");
    delivery.ack_confirmed().await?;
    nothing(&mut inbox, scene.quiet()).await
}

async fn a_time_that_has_passed_is_now(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let past = Timestamp::now() - Duration::from_secs(60);
    let options = PublishOptions::new().deliver_at(past);
    bus.publisher(&topic)?.publish_envelope_with(numbered(0), options).await?;
    ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [0], "the message");
    Ok(())
}

/// Neither by one for later, nor among themselves by the order of publishing.
async fn others_are_not_held_up(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let publisher = bus.publisher(&topic)?;
    let later = |seconds| PublishOptions::new().deliver_after(Duration::from_secs(seconds));
    publisher.publish_envelope_with(numbered(2), later(4)).await?;
    publisher.publish_envelope_with(numbered(1), later(2)).await?;
    publisher.publish_envelope(numbered(0)).await?;
    let handled = handle(&mut inbox, 3, Duration::from_secs(4) + scene.patience()).await?;
    ensure_eq!(handled, [0, 1, 2], "the order of arrival");
    Ok(())
}

async fn a_delay_beyond_the_limit_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    topic_with(&bus, &topic, &[&scene.group("a")]).await?;
    let most = bus.capabilities(Some(&topic))?.max_publish_delay.unwrap_or_default();
    let options = PublishOptions::new().deliver_after(most + Duration::from_secs(60));
    let outcome = bus.publisher(&topic)?.publish_envelope_with(numbered(0), options).await;
    refused(outcome, &[ErrorKind::Unsupported], "a longer delay than declared")?;
    Ok(())
}

async fn a_message_for_later_survives_a_kill(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, delay) = (scene.topic(), Duration::from_secs(3));
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let begun = Instant::now();
    let options = PublishOptions::new().deliver_after(delay);
    bus.publisher(&topic)?.publish_envelope_with(numbered(0), options).await?;
    scene.instance().kill().await?;
    scene.instance().start().await?;
    let delivery = one(&mut inbox, delay + scene.patience()).await?;
    let waited = begun.elapsed();
    ensure!(waited >= delay, "for {delay:?} later, it came after {waited:?}");
    delivery.ack().await?;
    Ok(())
}

/// Before anything is sent: the message does not arrive at once instead.
async fn messages_for_later_are_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let options = PublishOptions::new().deliver_after(Duration::from_secs(1));
    let outcome = bus.publisher(&topic)?.publish_envelope_with(numbered(0), options).await;
    let error = refused(outcome, &[ErrorKind::Unsupported], "a publish for later")?;
    ensure!(!error.may_be_stored(), "it is certainly not stored");
    nothing(&mut inbox, scene.quiet()).await
}
