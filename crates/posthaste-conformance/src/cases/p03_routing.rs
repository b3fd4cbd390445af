//! P3: a message that no group could ever get is never accepted in silence.

use posthaste_core::{ErrorKind, Start, Topology};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure_eq, refused};
use crate::receive::{distinct, handle, handle_all};
use crate::scene::Scene;
use crate::send::{numbered, publish, topic_with, up_to};

cases![P3;
    Claim a_message_without_a_group_is_kept_or_refused;
    Edge a_topic_that_does_not_exist_takes_nothing;
    Edge a_deleted_topic_takes_nothing_in_silence;
];

/// Either the publish says that nobody gets it, or the first group that comes does.
async fn a_message_without_a_group_is_kept_or_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    topic_with(&bus, &topic, &[]).await?;
    let publisher = bus.publisher(&topic)?;
    match publisher.publish_envelope(numbered(0)).await {
        Ok(_) => publish(&publisher, 1..20).await?,
        Err(error) if error.kind() == ErrorKind::Unroutable => {
            // Once there is a group, it is taken.
            let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
            publish(&publisher, 0..20).await?;
            handle_all(&mut inbox, &up_to(20), scene.patience()).await?;
            return Ok(());
        }
        Err(error) => return Err(Failed::from(error)),
    };
    let from_earliest = bus.capabilities(Some(&topic))?.start_earliest.is_kept();
    let start = if from_earliest { Start::Earliest } else { Start::Created };
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).from(start).start().await?;
    distinct(&handle(&mut inbox, 20, scene.patience()).await?)?;
    Ok(())
}

async fn a_topic_that_does_not_exist_takes_nothing(scene: &Scene) -> Outcome {
    let bus = scene.builder().await?.topology(Topology::Assume).build()?;
    let outcome = bus.publisher(scene.topic())?.publish_envelope(numbered(0)).await;
    refused(outcome, &[ErrorKind::NotFound, ErrorKind::Unroutable], "a publish to nothing")?;
    Ok(())
}

/// Under Create the topic is there again, and what was confirmed can be had from it; under Verify
/// the publish says that it is gone.
async fn a_deleted_topic_takes_nothing_in_silence(scene: &Scene) -> Outcome {
    let creating = scene.bus().await?;
    let verifying = scene.builder().await?.topology(Topology::Verify).build()?;
    let topic = scene.topic();
    topic_with(&creating, &topic, &[&scene.group("a")]).await?;
    let (create, verify) = (creating.publisher(&topic)?, verifying.publisher(&topic)?);
    publish(&create, 0..3).await?;
    publish(&verify, 3..6).await?;

    creating.admin().delete_topic(&topic).await?;
    let outcome = verify.publish_envelope(numbered(6)).await;
    let kinds = [ErrorKind::NotFound, ErrorKind::Unroutable];
    refused(outcome, &kinds, "a publish to a topic that was deleted, under Verify")?;

    let confirmed = match create.publish_envelope(numbered(7)).await {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::Unroutable => false,
        Err(error) => return Err(Failed::from(error)),
    };
    if confirmed {
        let from_earliest = creating.capabilities(Some(&topic))?.start_earliest.is_kept();
        let start = if from_earliest { Start::Earliest } else { Start::Created };
        let inbox = creating.subscribe(&topic).group(scene.group("a")).from(start).start().await;
        let handled = handle(&mut inbox?, 1, scene.patience()).await?;
        ensure_eq!(handled, [7], "what the new topic has");
    }
    Ok(())
}
