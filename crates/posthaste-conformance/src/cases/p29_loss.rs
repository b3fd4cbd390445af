//! P29: loss is visible: counted where messages went, and the end of the stream where the topic
//! did.

use posthaste_core::{
    Bus, ErrorKind, Promise, Subscription, SubscriptionEvent, Support, TopicConfig, Topology,
};
use tokio::time::{Instant, timeout_at};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{distinct, end, handle, nothing};
use crate::scene::Scene;
use crate::send::{number, publish, topic_with};

cases![P29;
    Claim what_retention_removed_is_counted when |can| {
        can.visible_loss.is_kept() && can.retention_by_count.is_kept()
    };
    Claim a_vanished_topic_ends_the_subscription when |can| can.visible_loss.is_kept();
    Edge what_a_purge_removed_is_counted when |can| {
        can.visible_loss == Support::Kept && can.purge.is_kept()
    };
    Edge a_purge_empties_the_topic when |can| can.purge.is_kept();
    Edge a_topic_that_vanishes_under_create_is_not_silent when |can| can.visible_loss.is_kept();
    Edge what_was_read_is_no_loss when |can| {
        can.visible_loss.is_kept() && can.retention_by_count.is_kept()
    };
    Denial(VisibleLoss) visible_loss_is_refused;
    Denial(Purge) a_purge_is_refused;
];

/// Handles what comes, and adds up what is said to be lost, until both make the total.
async fn account(scene: &Scene, inbox: &mut Subscription, total: u64) -> Outcome<(u64, u64)> {
    let mut events = inbox.events();
    let (mut lost, mut uncounted) = (0, false);
    let mut handled = Vec::new();
    let end = Instant::now() + scene.patience();
    while handled.len() as u64 + lost < total && !uncounted {
        tokio::select! {
            next = timeout_at(end, inbox.next()) => match next {
                Ok(Some(delivery)) => {
                    let delivery = delivery?;
                    handled.push(number(delivery.envelope())?);
                    delivery.ack().await?;
                }
                Ok(None) => return Err(Failed::new("the subscription ended")),
                Err(_) => return Err(Failed::new(format!(
                    "of {total} messages {} came and {lost} were said to be lost", handled.len()
                ))),
            },
            Some(event) = events.next() => {
                if let SubscriptionEvent::Lost { topic, count, reason } = event {
                    ensure_eq!(topic.as_str(), scene.topic(), "the topic of a loss");
                    ensure!(!reason.is_empty(), "a loss without a reason");
                    lost += count.unwrap_or(0);
                    uncounted |= count.is_none();
                }
            }
        }
    }
    distinct(&handled)?;
    Ok((handled.len() as u64, lost))
}

async fn what_retention_removed_is_counted(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    bus.ensure(TopicConfig::new(&topic).max_messages(10).group(&group)).await?;
    let publisher = bus.publisher(&topic)?;
    for number in 0..25 {
        publish(&publisher, number..number + 1).await?;
    }
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let (handled, lost) = account(scene, &mut inbox, 25).await?;
    ensure!(handled >= 1, "the newest messages are there");
    ensure_eq!(handled + lost, 25, "handled and lost together");
    ensure!(lost > 0, "more were kept than the topic keeps");
    ensure_eq!(inbox.stats().lost, lost, "the count of the subscription");
    nothing(&mut inbox, scene.quiet()).await
}

async fn what_a_purge_removed_is_counted(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    publish(&publisher, 0..12).await?;
    let purged = bus.admin().purge(&topic).await?;
    ensure!(purged.is_none_or(|count| count == 12), "{purged:?} of 12 were purged");
    publish(&publisher, 12..15).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let (handled, lost) = account(scene, &mut inbox, 15).await?;
    ensure_eq!((handled, lost), (3, 12), "handled and lost");
    Ok(())
}

async fn a_purge_empties_the_topic(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    publish(&publisher, 0..5).await?;
    bus.admin().purge(&topic).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    nothing(&mut inbox, scene.quiet()).await?;
    publish(&publisher, 5..7).await?;
    let handled = handle(&mut inbox, 2, scene.patience()).await?;
    ensure!(handled.iter().all(|number| *number >= 5), "it got {handled:?}");
    refused(bus.admin().purge(&scene.topic_called("gone")).await, &[ErrorKind::NotFound], "purge")?;
    Ok(())
}

/// Deleted under its consumer, who creates nothing: the stream ends, and says why.
async fn a_vanished_topic_ends_the_subscription(scene: &Scene) -> Outcome {
    let owner = scene.bus().await?;
    for (topology, tag) in [(Topology::Verify, "verify"), (Topology::Assume, "assume")] {
        let (topic, group) = (scene.topic_called(tag), scene.group("a"));
        let config = || TopicConfig::new(&topic).group(&group);
        owner.ensure(config()).await?;
        let bus = scene.builder().await?.topology(topology).topic(config()).build()?;
        let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
        publish(&owner.publisher(&topic)?, 0..3).await?;
        handle(&mut inbox, 3, scene.patience()).await?;
        let admin = owner.admin();
        let deleting = admin.delete_topic(&topic);
        let (error, deleted) = tokio::join!(end(&mut inbox, scene.patience()), deleting);
        deleted?;
        ensure_eq!(error?.kind(), ErrorKind::NotFound, "the end under {topology:?}");
        ensure!(inbox.next().await.is_none(), "there is nothing after the error");
    }
    Ok(())
}

/// It is there again, and the consumer gets what comes; or the stream ends. It never just waits.
async fn a_topic_that_vanishes_under_create_is_not_silent(scene: &Scene) -> Outcome {
    let (owner, bus) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).lease(scene.lease()).start().await?;
    publish(&owner.publisher(&topic)?, 0..3).await?;
    handle(&mut inbox, 3, scene.patience()).await?;
    owner.admin().delete_topic(&topic).await?;
    let again = resumes(scene, &owner, &mut inbox);
    again.await
}

async fn resumes(scene: &Scene, owner: &Bus, inbox: &mut Subscription) -> Outcome {
    let publisher = owner.publisher(scene.topic())?;
    let end = Instant::now() + scene.patience();
    let mut number = 10;
    // A message that is sent before the group is there again need not come: they are sent on.
    let mut beat = tokio::time::interval(scene.quiet());
    loop {
        tokio::select! {
            next = inbox.next() => match next {
                Some(Ok(delivery)) => {
                    delivery.ack().await?;
                    return Ok(());
                }
                Some(Err(error)) => {
                    ensure_eq!(error.kind(), ErrorKind::NotFound, "the end of the stream");
                    return Ok(());
                }
                None => return Err(Failed::new("the stream ended without an error")),
            },
            _ = beat.tick() => {
                // Nobody gets it while there is no group: an error of the publish is no matter.
                drop(publisher.publish_envelope(crate::send::numbered(number)).await);
                number += 1;
            }
            () = tokio::time::sleep_until(end) => {
                return Err(Failed::new("a consumer of a deleted topic waits in silence"));
            }
        }
    }
}

/// Messages that every group has handled may go, and nobody calls it a loss.
async fn what_was_read_is_no_loss(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    bus.ensure(TopicConfig::new(&topic).max_messages(10).group(&group)).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    for round in 0..5 {
        publish(&publisher, round * 8..round * 8 + 8).await?;
        handle(&mut inbox, 8, scene.patience()).await?;
    }
    nothing(&mut inbox, scene.quiet()).await?;
    ensure_eq!(inbox.stats().lost, 0, "messages that are called lost");
    Ok(())
}

async fn visible_loss_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let inbox = bus.subscribe(scene.topic()).group(scene.group("a")).require(Promise::P29);
    refused(inbox.start().await, &[ErrorKind::Unsupported], "a subscription that requires P29")?;
    Ok(())
}

async fn a_purge_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    topic_with(&bus, &scene.topic(), &[]).await?;
    refused(bus.admin().purge(&scene.topic()).await, &[ErrorKind::Unsupported], "a purge")?;
    Ok(())
}
