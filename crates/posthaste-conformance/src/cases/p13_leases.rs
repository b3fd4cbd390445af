//! P13: the lease is kept while the handler runs, and a lost one cancels it before anybody else
//! begins.

use posthaste_core::broker::Received;
use posthaste_core::{Layout, Sharing, SubscriptionEvent};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq};
use crate::receive::{self, nothing, one};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{ends, numbered, publish, send, with_one_lane};

cases![P13;
    Claim a_slow_handler_keeps_its_delivery;
    Claim a_hanging_handler_is_cancelled_before_another_begins;
    Edge an_application_can_prolong_beyond_the_limit;
    Edge an_extended_lease_runs_from_then;
];

/// Three leases long, while another member would take it.
async fn a_slow_handler_keeps_its_delivery(scene: &Scene) -> Outcome {
    let (slow, waiting) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    with_one_lane(&slow, &topic).await?;
    let mut inbox = slow.subscribe(&topic).group(&group).lease(lease).prefetch(1).start().await?;
    publish(&slow.publisher(&topic)?, 0..1).await?;
    let held = one(&mut inbox, scene.patience()).await?;
    let mut other = waiting.subscribe(&topic).group(&group).lease(lease).start().await?;
    nothing(&mut other, lease * 3 + scene.quiet()).await?;
    ensure!(!held.is_lost(), "the lease was lost under its handler");
    held.ack_confirmed().await?;
    nothing(&mut other, lease + scene.quiet()).await
}

/// It is held beyond `max_handling`. Its holder hears of it, by the delivery and by an event, no
/// later than it is out again: with another member, or with the one that has its lane.
async fn a_hanging_handler_is_cancelled_before_another_begins(scene: &Scene) -> Outcome {
    let (hanging, waiting) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    with_one_lane(&hanging, &topic).await?;
    let inbox = hanging.subscribe(&topic).group(&group).lease(lease).max_handling(lease * 2);
    let sharing = hanging.capabilities(Some(&topic))?.sharing;
    let mut inbox = inbox.prefetch(receive::places(sharing)).start().await?;
    let mut events = inbox.events();
    publish(&hanging.publisher(&topic)?, 0..1).await?;
    let held = one(&mut inbox, scene.patience()).await?;
    let mut other = waiting.subscribe(&topic).group(&group).lease(lease).start().await?;
    let again = receive::again(sharing, &mut inbox, &mut other, scene.patience()).await?;
    ensure_eq!(again.id(), held.id(), "what came again");
    ensure!(held.is_lost(), "it is out again, and its holder was not told");
    ends("waiting for a lost lease", scene.quiet(), held.lost()).await?;
    let id = receive::event(&mut events, scene.patience(), "a lost lease", |event| match event {
        SubscriptionEvent::LeaseLost { id } => Some(id),
        _ => None,
    });
    ensure_eq!(id.await?, held.id(), "the message of the event");
    ensure!(inbox.stats().leases_lost >= 1, "it is counted");
    again.ack_confirmed().await?;
    Ok(())
}

async fn an_application_can_prolong_beyond_the_limit(scene: &Scene) -> Outcome {
    let (slow, waiting) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    // Longer than usual: each step has to come in time on a starved machine, too.
    let lease = scene.lease() * 2;
    with_one_lane(&slow, &topic).await?;
    let inbox = slow.subscribe(&topic).group(&group).lease(lease).max_handling(lease);
    let mut inbox = inbox.prefetch(1).start().await?;
    publish(&slow.publisher(&topic)?, 0..1).await?;
    let held = one(&mut inbox, scene.patience()).await?;
    let mut other = waiting.subscribe(&topic).group(&group).lease(lease).start().await?;
    for _ in 0..5 {
        nothing(&mut other, lease / 3).await?;
        held.extend().await?;
    }
    ensure!(!held.is_lost(), "it was prolonged, and lost");
    held.ack_confirmed().await?;
    nothing(&mut other, lease + scene.quiet()).await
}

/// Extends a lease that was extended at that time, and notes when.
fn prolong<'a>(
    holder: &Member,
    held: &Received,
    at: &'a mut Instant,
) -> impl Future<Output = Outcome> + Send + use<'a> {
    let extending = holder.extend(&[held]);
    async move {
        let before = std::mem::replace(at, Instant::now());
        let lost = !extending.await?.lost.is_empty();
        ensure!(!lost, "a lease was lost {:?} after it was prolonged", *at - before);
        Ok(())
    }
}

/// By the adapter's own call, without core's timer: extended leases hold, the other ends.
async fn an_extended_lease_runs_from_then(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    // Longer than usual: each step has to come in time on a starved machine, too.
    let lease = scene.lease() * 2;
    let mut holder = Member::join(&*broker, request(&topic, &group, "holder", lease)).await?;
    send(&*broker, &to, (0..2).map(numbered).collect()).await?;
    ensure_eq!(holder.lease(), lease, "the lease of a new group");
    let held = holder.take(2, scene.patience()).await?;
    let mut prolonged = Instant::now();
    holder.extend(&held.iter().collect::<Vec<_>>()).await?;
    let mut other = None;
    // Of a group that shares lanes the holder gets what comes again, and else another that is
    // alone in fetching.
    if broker.capabilities(Some(&topic)).sharing != Sharing::Lanes {
        holder.stop(lease / 2).await?;
        // On a starved machine either step may take a good part of the lease.
        prolong(&holder, &held[0], &mut prolonged).await?;
        other = Some(Member::join(&*broker, request(&topic, &group, "other", lease)).await?);
        prolong(&holder, &held[0], &mut prolonged).await?;
    }
    let mut taken = Vec::new();
    for _ in 0..5 {
        let next = other.as_mut().unwrap_or(&mut holder);
        taken.extend(next.listen(1, lease / 3).await?);
        prolong(&holder, &held[0], &mut prolonged).await?;
    }
    let ids: Vec<&str> = taken.iter().map(|received| received.envelope.id()).collect();
    ensure!(!ids.contains(&held[0].envelope.id()), "the prolonged one was given away: {ids:?}");
    ensure!(ids.contains(&held[1].envelope.id()), "the other one was not given away: {ids:?}");
    holder.ack(&held[0]).await
}
