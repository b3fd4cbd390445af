//! P8: what its holder did not settle comes again, flagged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthaste_core::{ErrorKind, Layout, Nack};

use crate::case::cases;
use crate::child;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::{again, distinct, nothing, numbers, one, only, places, settle_all, take};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{numbered, publish, send, up_to, with_one_lane};

cases![P8;
    Claim a_delivery_whose_lease_ends_comes_again_flagged;
    Claim what_a_dead_member_held_comes_again_flagged;
    Edge at_most_once_is_settled_before_the_handler;
    Fault what_a_killed_process_held_comes_again, needs [Child];
    Denial(AtLeastOnce) redelivery_is_refused;
];

/// Held longer than may be: another member gets it, or the one with its lane, and knows that it is
/// not the first.
async fn a_delivery_whose_lease_ends_comes_again_flagged(scene: &Scene) -> Outcome {
    let (holder, other) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    with_one_lane(&holder, &topic).await?;
    let first = holder.subscribe(&topic).group(&group).lease(lease).max_handling(lease);
    let sharing = holder.capabilities(Some(&topic))?.sharing;
    let mut first = first.prefetch(places(sharing)).start().await?;
    publish(&holder.publisher(&topic)?, 0..1).await?;
    let held = one(&mut first, scene.patience()).await?;
    ensure_eq!(held.attempt(), 1, "the first attempt");
    ensure!(!held.is_redelivered(), "it was not delivered before");

    let mut second = other.subscribe(&topic).group(&group).lease(lease).start().await?;
    let again = again(sharing, &mut first, &mut second, scene.patience()).await?;
    ensure_eq!(again.id(), held.id(), "what came again");
    ensure!(again.is_redelivered(), "it is flagged");
    ensure!(again.attempt() >= 2, "attempt {}", again.attempt());
    let id = again.id().to_owned();
    again.ack_confirmed().await?;
    let quiet = lease + scene.quiet();
    if holder.capabilities(Some(&topic))?.replay_window == Duration::MAX {
        // Without a bound it may come once more, but nothing else does.
        tokio::try_join!(only(&mut first, &id, quiet), only(&mut second, &id, quiet))?;
        return Ok(());
    }
    tokio::try_join!(nothing(&mut first, quiet), nothing(&mut second, quiet))?;
    Ok(())
}

/// It takes messages and is gone, without a word. Nothing that it had settled comes again.
async fn what_a_dead_member_held_comes_again_flagged(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    let lease = scene.lease();
    let unbound = broker.capabilities(Some(&topic)).replay_window == Duration::MAX;
    let mut dying = Member::join(&*broker, request(&topic, &group, "dying", lease)).await?;
    send(&*broker, &to, (0..20).map(numbered).collect()).await?;
    let held = dying.take(20, scene.patience()).await?;
    for received in held.iter().take(5) {
        dying.ack(received).await?;
    }
    let settled: BTreeSet<&str> = held.iter().take(5).map(|it| it.envelope.id()).collect();
    // Not all twenty where leases ended before it had them: then the first ones came twice.
    let seen: BTreeSet<&str> = held.iter().map(|it| it.envelope.id()).collect();
    drop(dying);

    let other = scene.broker().await?;
    let mut heir = Member::join(&*other, request(&topic, &group, "heir", lease)).await?;
    let inherited = heir.handle(15, scene.patience()).await?;
    for received in &inherited {
        let id = received.envelope.id();
        ensure!(!settled.contains(id), "{id} was settled and came again");
        let flagged = received.attempt.count >= 2 || !seen.contains(id);
        // Without a bound the server may send one as if for the first time.
        ensure!(flagged || unbound, "{id} is not flagged: {:?}", received.attempt);
    }
    let counts: BTreeMap<&str, u32> =
        inherited.iter().map(|it| (it.envelope.id(), it.attempt.count)).collect();
    ensure_eq!(counts.len(), 15, "different messages");
    for more in heir.listen(1, lease + scene.quiet()).await? {
        // Of the heir's own some may come again, where their leases ended before it had settled
        // them; what was settled before does not.
        let (id, attempt) = (more.envelope.id(), more.attempt);
        let before = counts.get(id).copied();
        let again = before.is_some_and(|before| attempt.count > before);
        ensure!(
            again || unbound,
            "{id} was settled and came again: {attempt:?}, before {before:?}"
        );
    }
    Ok(())
}

/// SIGKILL with a hundred in flight.
async fn what_a_killed_process_held_comes_again(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    // The consumer brings about the group, with its lease.
    let mut consumer =
        child::consumer(scene.instance(), &scene.topic(), &group, 100, scene.lease())?;
    let line = consumer.next_line(scene.patience()).await?;
    ensure_eq!(line.as_deref(), Some(child::READY), "what the consumer says first");
    publish(&bus.publisher(&topic)?, 0..150).await?;
    let line = consumer.next_line(scene.patience()).await?;
    ensure_eq!(line, Some(child::holding(100)), "what the consumer says");
    consumer.kill().await?;

    let inbox = bus.subscribe(&topic).group(&group).lease(scene.lease()).prefetch(200);
    let mut inbox = inbox.start().await?;
    let deliveries = take(&mut inbox, 150, scene.patience()).await?;
    ensure_eq!(distinct(&numbers(&deliveries)?)?, up_to(150), "what the next member got");
    let flagged = deliveries.iter().filter(|delivery| delivery.is_redelivered()).count();
    ensure!(flagged >= 100, "{flagged} of the 100 that were in flight are flagged");
    settle_all(deliveries).await
}

/// Whatever becomes of it, it does not come again; and there is nothing to settle.
async fn at_most_once_is_settled_before_the_handler(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let member = bus.subscribe(&topic).group(&group).lease(scene.lease()).at_most_once();
    let mut inbox = member.start().await?;
    publish(&bus.publisher(&topic)?, 0..3).await?;
    let first = one(&mut inbox, scene.patience()).await?;
    refused(first.nack(Nack::requeue()).await, &[ErrorKind::Unsupported], "a nack")?;
    drop(one(&mut inbox, scene.patience()).await?);
    one(&mut inbox, scene.patience()).await?.ack().await?;
    nothing(&mut inbox, scene.lease() + scene.quiet()).await?;
    inbox.stop(scene.patience()).await?;
    let mut next = bus.subscribe(&topic).group(&group).start().await?;
    nothing(&mut next, scene.quiet()).await
}

/// A transport that keeps no copy cannot deliver again; without that it can be used.
async fn redelivery_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let inbox = bus.subscribe(scene.topic()).group(scene.group("a")).start().await;
    refused(inbox, &[ErrorKind::Unsupported], "a subscription at least once")?;
    bus.subscribe(scene.topic()).group(scene.group("b")).at_most_once().start().await?;
    Ok(())
}
