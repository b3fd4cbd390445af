//! P31: a slow, failing or cancelled subscription never stalls another on the same bus.

use std::time::Duration;

use posthaste_core::{Envelope, ErrorKind, PublishOptions, TopicConfig, Topology};
use tokio::time::timeout;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{distinct, end, handle, nothing, one, take};
use crate::scene::Scene;
use crate::scripted::{Scripted, Step};
use crate::send::{numbered, publish, topic_with, up_to};

cases![P31;
    Claim a_subscription_that_holds_everything_stalls_no_other;
    Claim a_subscription_that_nobody_polls_stalls_no_other;
    Edge a_cancelled_receive_loses_nothing;
    Edge a_subscription_that_fails_leaves_the_others_alone;
    Edge a_topic_that_cannot_be_published_to_stalls_no_other;
    Edge a_refused_declaration_disturbs_nobody when |can| can.order.is_kept();
];

/// All its credit is held, and all the others get what is theirs.
async fn a_subscription_that_holds_everything_stalls_no_other(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (slow, quick) = (scene.topic_called("slow"), scene.topic_called("quick"));
    let group = scene.group("a");
    let mut stuck = bus.subscribe(&slow).group(&group).prefetch(5).start().await?;
    let mut other = bus.subscribe(&quick).group(&group).prefetch(5).start().await?;
    publish(&bus.publisher(&slow)?, 0..50).await?;
    let held = take(&mut stuck, 5, scene.patience()).await?;
    for round in 0..4 {
        publish(&bus.publisher(&quick)?, round * 25..round * 25 + 25).await?;
        handle(&mut other, 25, scene.patience()).await?;
    }
    ensure_eq!(held.len(), 5, "held all the while");
    Ok(())
}

/// Started and forgotten, with a topic full of messages for it.
async fn a_subscription_that_nobody_polls_stalls_no_other(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, other) = (scene.topic(), scene.topic_called("other"));
    let forgotten = bus.subscribe(&topic).group(scene.group("forgotten")).start().await?;
    let mut inbox = bus.subscribe(&other).group(scene.group("a")).start().await?;
    publish(&bus.publisher(&topic)?, 0..500).await?;
    publish(&bus.publisher(&other)?, 0..100).await?;
    distinct(&handle(&mut inbox, 100, scene.patience()).await?)?;
    drop(forgotten);
    Ok(())
}

/// Receives are given up after random times, some of them too short for anything.
async fn a_cancelled_receive_loses_nothing(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).prefetch(10).start().await?;
    let publisher = bus.publisher(&topic)?;
    let mut chance = scene.chance();
    let mut handled = Vec::new();
    let sending = async {
        for number in 0..100 {
            publisher.publish_envelope(numbered(number)).await?;
        }
        Ok::<_, Failed>(())
    };
    let receiving = async {
        while handled.len() < 100 {
            let short = Duration::from_micros(chance.u64(..3_000));
            let batch = chance.bool();
            if batch {
                if let Ok(Some(batch)) = timeout(short, inbox.next_batch(7)).await {
                    for delivery in batch? {
                        handled.push(crate::send::number(delivery.envelope())?);
                        delivery.ack().await?;
                    }
                }
            } else if let Ok(Some(delivery)) = timeout(short, inbox.next()).await {
                let delivery = delivery?;
                handled.push(crate::send::number(delivery.envelope())?);
                delivery.ack().await?;
            }
        }
        Ok::<_, Failed>(())
    };
    let both = async { tokio::join!(sending, receiving) };
    let (sent, received) =
        crate::send::ends("receiving with cancelled calls", scene.patience(), both).await?;
    sent?;
    received?;
    ensure_eq!(distinct(&handled)?, up_to(100), "what was handled");
    Ok(())
}

/// Its topic is deleted and it ends with an error; the others on the bus go on.
async fn a_subscription_that_fails_leaves_the_others_alone(scene: &Scene) -> Outcome {
    let owner = scene.bus().await?;
    let (doomed, healthy) = (scene.topic_called("doomed"), scene.topic_called("healthy"));
    let group = scene.group("a");
    topic_with(&owner, &doomed, &[&group]).await?;
    topic_with(&owner, &healthy, &[&group]).await?;
    let bus = scene.builder().await?.topology(Topology::Verify).build()?;
    let mut failing = bus.subscribe(&doomed).group(&group).start().await?;
    let mut inbox = bus.subscribe(&healthy).group(&group).start().await?;
    let publisher = bus.publisher(&healthy)?;
    publish(&publisher, 0..10).await?;
    handle(&mut inbox, 5, scene.patience()).await?;
    let admin = owner.admin();
    let deleting = admin.delete_topic(&doomed);
    let (error, deleted) = tokio::join!(end(&mut failing, scene.patience()), deleting);
    deleted?;
    ensure_eq!(error?.kind(), ErrorKind::NotFound, "the end of the one");
    // What breaks a call breaks that call only.
    let conflict = bus.subscribe(&doomed).group(&group).start().await;
    refused(conflict, &[ErrorKind::NotFound], "a subscription to nothing")?;
    publish(&publisher, 10..20).await?;
    distinct(&handle(&mut inbox, 15, scene.patience()).await?)?;
    ensure!(inbox.stats().leases_lost == 0, "a lease was lost on the way");
    Ok(())
}

/// One topic is refused again and again until its deadline; another one is quick meanwhile.
async fn a_topic_that_cannot_be_published_to_stalls_no_other(scene: &Scene) -> Outcome {
    let (bad, good) = (scene.topic_called("bad"), scene.topic_called("good"));
    let group = scene.group("a");
    let direct = scene.bus().await?;
    topic_with(&direct, &bad, &[&group]).await?;
    topic_with(&direct, &good, &[&group]).await?;
    let script = |_: usize, entry: &Envelope| {
        if entry.header("bad").is_some() { Step::Reject } else { Step::Pass }
    };
    let bus = Scene::bus_over(Scripted::new(scene.broker().await?, script)).build()?;
    let options = PublishOptions::new().header("bad", "1").deadline(Duration::from_secs(2));
    let publisher = bus.publisher(&bad)?;
    let failing = publisher.publish_envelope_with(numbered(0), options);
    let passing = async {
        let publisher = bus.publisher(&good)?;
        for round in 0..20 {
            publish(&publisher, round * 10..round * 10 + 10).await?;
        }
        Ok::<_, Failed>(tokio::time::Instant::now())
    };
    let begun = tokio::time::Instant::now();
    let (failed, passed) = tokio::join!(failing, passing);
    let kinds = [ErrorKind::Timeout, ErrorKind::Backpressure];
    refused(failed, &kinds, "a publish that is refused until its deadline")?;
    let took = passed?.duration_since(begun);
    ensure!(took < scene.patience(), "the other topic took {took:?}");
    Ok(())
}

/// A topic is declared as it is not, again and again. Whatever that breaks at the broker is not
/// what others use: deliveries stay theirs, and messages go in and out.
async fn a_refused_declaration_disturbs_nobody(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, other, group) = (scene.topic(), scene.topic_called("other"), scene.group("a"));
    bus.ensure(TopicConfig::new(&other).ordered(4)).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    publish(&publisher, 0..1).await?;
    let held = one(&mut inbox, scene.patience()).await?;
    for round in 1..=5 {
        let refusal = bus.ensure(TopicConfig::new(&other).ordered(8)).await;
        refused(refusal, &[ErrorKind::Conflict], "a declaration of what is not there")?;
        publish(&publisher, round * 10..round * 10 + 10).await?;
        distinct(&handle(&mut inbox, 10, scene.patience()).await?)?;
    }
    held.ack_confirmed().await?;
    ensure!(inbox.stats().leases_lost == 0, "a lease was lost on the way");
    nothing(&mut inbox, scene.quiet()).await
}
