//! P23: where it is asked for, publishing the same id again within the window stores it once.

use std::time::Duration;

use posthaste_core::{ErrorKind, PublishOptions, TopicConfig};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::{handle, nothing};
use crate::scene::Scene;
use crate::send::{numbered, until};

cases![P23;
    Claim the_same_id_is_stored_once when |can| can.deduplication.is_kept();
    Edge another_id_is_stored when |can| can.deduplication.is_kept();
    Edge an_id_is_forgotten_after_the_window when |can| can.deduplication.is_kept();
    Edge two_connections_share_what_they_know when |can| can.deduplication.is_kept();
    Denial(Deduplication) deduplication_is_refused;
];

fn once() -> PublishOptions {
    PublishOptions::new().deduplicate()
}

/// Confirmed both times; the second time as what it is.
async fn the_same_id_is_stored_once(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let publisher = bus.publisher(&topic)?;
    let first = publisher.publish_envelope_with(numbered(0), once()).await?;
    ensure!(!first.duplicate(), "the first is no duplicate");
    for _ in 0..2 {
        let again = publisher.publish_envelope_with(numbered(0), once()).await?;
        ensure!(again.duplicate(), "a repetition was not recognised");
        ensure_eq!(again.id(), first.id(), "the id of a repetition");
    }
    ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [0], "the message");
    nothing(&mut inbox, scene.quiet()).await
}

async fn another_id_is_stored(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let publisher = bus.publisher(&topic)?;
    for number in 0..10 {
        let confirmed = publisher.publish_envelope_with(numbered(number), once()).await?;
        ensure!(!confirmed.duplicate(), "message {number} was taken for another");
    }
    let other = scene.topic_called("other");
    let mut elsewhere = bus.subscribe(&other).group(scene.group("a")).start().await?;
    let same = bus.publisher(&other)?.publish_envelope_with(numbered(0), once()).await?;
    ensure!(!same.duplicate(), "an id of another topic was taken for this one's");
    handle(&mut inbox, 10, scene.patience()).await?;
    handle(&mut elsewhere, 1, scene.patience()).await?;
    Ok(())
}

async fn an_id_is_forgotten_after_the_window(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let window = Duration::from_secs(1);
    let config = TopicConfig::new(&topic).group(scene.group("a")).deduplication_window(window);
    bus.ensure(config).await?;
    let publisher = bus.publisher(&topic)?;
    publisher.publish_envelope_with(numbered(0), once()).await?;
    // The broker may forget in steps of its own: it is asked until it has.
    until("the id is forgotten", window + scene.patience(), || async {
        match publisher.publish_envelope_with(numbered(0), once()).await {
            Ok(confirmed) if confirmed.duplicate() => Err("remembered".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:?}")),
        }
    })
    .await?;
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    ensure_eq!(handle(&mut inbox, 2, scene.patience()).await?, [0, 0], "what was stored");
    nothing(&mut inbox, scene.quiet()).await
}

async fn two_connections_share_what_they_know(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let topic = scene.topic();
    let mut inbox = one.subscribe(&topic).group(scene.group("a")).start().await?;
    one.publisher(&topic)?.publish_envelope_with(numbered(0), once()).await?;
    let again = two.publisher(&topic)?.publish_envelope_with(numbered(0), once()).await?;
    ensure!(again.duplicate(), "a repetition by another process was not recognised");
    ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [0], "the message");
    nothing(&mut inbox, scene.quiet()).await
}

async fn deduplication_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    let outcome = bus.publisher(&topic)?.publish_envelope_with(numbered(0), once()).await;
    let error = refused(outcome, &[ErrorKind::Unsupported], "a deduplicated publish")?;
    ensure!(!error.may_be_stored(), "it is certainly not stored");
    nothing(&mut inbox, scene.quiet()).await
}
