//! P28: a member that joins or leaves moves only what it must.

use std::collections::BTreeSet;

use posthaste_core::{Confirmed, Delivery, Order, Sharing, SubscriptionEvent, TopicConfig};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq};
use crate::order::{enqueue, interleaved, keys, spread};
use crate::receive::{
    distinct, event, handle_both, nothing, numbers, settle_all, settle_together, take,
};
use crate::scene::Scene;
use crate::send::{publish, publish_each, topic_with, up_to};

cases![P28;
    Claim a_member_that_joins_takes_nothing_from_the_others
        when |can| can.sharing == Sharing::Messages;
    Claim what_is_held_is_settled_before_its_lane_goes
        when |can| can.sharing == Sharing::Lanes && can.order.is_kept();
    Claim a_member_that_leaves_disturbs_nobody when |can| can.sharing == Sharing::Messages;
    Edge a_joining_member_moves_no_more_lanes_than_it_gets when |can| can.order.is_kept();
];

/// What the first holds stays with it, and is with nobody else.
async fn a_member_that_joins_takes_nothing_from_the_others(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    let member = one.subscribe(&topic).group(&group).prefetch(10).lease(lease);
    let mut first = member.start().await?;
    publish(&one.publisher(&topic)?, 0..20).await?;
    let held = take(&mut first, 10, scene.patience()).await?;

    let mut second = two.subscribe(&topic).group(&group).lease(lease).start().await?;
    let others = take(&mut second, 10, scene.patience()).await?;
    let mut all = numbers(&held)?;
    all.extend(numbers(&others)?);
    ensure_eq!(distinct(&all)?, up_to(20), "what both members hold");
    // Longer than a lease, which is kept on both sides.
    nothing(&mut second, lease * 2 + scene.quiet()).await?;
    ensure!(!held.iter().any(Delivery::is_lost), "the first member lost a delivery");
    settle_all(held).await?;
    settle_all(others).await?;
    nothing(&mut second, scene.quiet()).await
}

/// A member joins while another holds messages of all lanes. It gets some of the lanes, but not
/// before the other has settled what it holds of them; and then it gets what comes.
async fn what_is_held_is_settled_before_its_lane_goes(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    one.ensure(TopicConfig::new(&topic).ordered(4).group(&group)).await?;
    // More credit than is needed: events come with it.
    let mut first = one.subscribe(&topic).group(&group).prefetch(20).start().await?;
    let mut events = first.events();
    let publisher = one.publisher(&topic)?;
    let sent = publish_each(&publisher, spread(0..10)).await?;
    let lanes: BTreeSet<_> = sent.iter().filter_map(Confirmed::partition).collect();
    ensure_eq!(lanes.len(), 4, "the lanes that have messages");
    let held = take(&mut first, 10, scene.patience()).await?;
    ensure_eq!(distinct(&numbers(&held)?)?, up_to(10), "what the first member holds");

    let mut second = two.subscribe(&topic).group(&group).start().await?;
    let goes = event(&mut events, scene.patience(), "a lane that goes", |event| match event {
        SubscriptionEvent::LaneRevoked { partition: Some(lane), .. } => Some(lane),
        _ => None,
    });
    tokio::select! {
        goes = goes => goes?,
        // Polled, so that the lanes move.
        _ = first.next() => return Err(Failed::new("the first member got what nobody sent")),
        _ = second.next() => return Err(Failed::new("the second got what the first one holds")),
    };
    ensure!(!held.iter().any(Delivery::is_lost), "the first member lost a delivery");
    settle_together(held).await?;

    publish_each(&publisher, spread(10..60)).await?;
    let (mut ours, theirs) = handle_both(&mut first, &mut second, 50, scene.patience()).await?;
    ensure!(!theirs.is_empty(), "the second member got nothing");
    ours.extend(theirs);
    ensure_eq!(distinct(&ours)?, (10..60).collect(), "what came after the second member");
    tokio::try_join!(nothing(&mut first, scene.quiet()), nothing(&mut second, scene.quiet()))?;
    Ok(())
}

/// What it held comes to the member that stays; what that one holds stays with it.
async fn a_member_that_leaves_disturbs_nobody(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&one, &topic, &[&group]).await?;
    publish(&one.publisher(&topic)?, 0..20).await?;
    let member = |bus: &posthaste_core::Bus| bus.subscribe(&topic).group(&group);
    let mut staying = member(&one).prefetch(30).start().await?;
    let mut held = take(&mut staying, 10, scene.patience()).await?;
    let mut leaving = member(&two).prefetch(10).start().await?;
    // It takes what the first has not fetched, which may be nothing.
    let theirs = crate::receive::rest(&mut leaving, scene.quiet()).await?;
    drop(theirs);
    leaving.stop(scene.patience()).await?;
    held.extend(take(&mut staying, 10, scene.patience()).await?);
    ensure_eq!(distinct(&numbers(&held)?)?, up_to(20), "what the member that stays has");
    ensure!(!held.iter().any(Delivery::is_lost), "it lost a delivery");
    settle_all(held).await?;
    nothing(&mut staying, scene.quiet()).await
}

/// Four lanes with one member; a second one gets at most two of them, and when it leaves, the
/// first keeps what it has.
async fn a_joining_member_moves_no_more_lanes_than_it_gets(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    one.ensure(TopicConfig::new(&topic).ordered(4).group(&group)).await?;
    let ordered = |bus: &posthaste_core::Bus| {
        bus.subscribe(&topic).group(&group).order(Order::PerKey).start()
    };
    let mut first = ordered(&one).await?;
    let mut events = first.events();
    let publisher = one.publisher(&topic)?;
    enqueue(&publisher, interleaved(&keys(16), 0..2)).await?;
    for _ in 0..32 {
        crate::receive::one(&mut first, scene.patience()).await?.ack().await?;
    }
    // What happened until here was no joining of another.
    revoked(&mut events).await?;
    let mut second = ordered(&two).await?;
    enqueue(&publisher, interleaved(&keys(16), 2..4)).await?;
    handle_both(&mut first, &mut second, 32, scene.patience()).await?;
    let joined = revoked(&mut events).await?;
    ensure!(joined <= 2, "{joined} of four lanes were revoked for a second member");

    second.stop(scene.patience()).await?;
    enqueue(&publisher, interleaved(&keys(16), 4..6)).await?;
    for _ in 0..32 {
        crate::receive::one(&mut first, scene.patience()).await?.ack().await?;
    }
    // One that was still to go when the other had handled its share may have gone since.
    let left = revoked(&mut events).await?;
    ensure!(joined + left <= 2, "{left} lanes were revoked because another member left");
    Ok(())
}

/// How many lanes were revoked by the events that wait to be read.
async fn revoked(events: &mut posthaste_core::Events) -> Outcome<usize> {
    let mut count = 0;
    while let Ok(Some(event)) =
        tokio::time::timeout(std::time::Duration::from_millis(50), events.next()).await
    {
        // One without a partition, for messages of other programs, is an adapter's own affair.
        let is_partition =
            matches!(event, SubscriptionEvent::LaneRevoked { partition: Some(_), .. });
        count += usize::from(is_partition);
    }
    Ok(count)
}
