//! P32: two configurations of one group run side by side; what differs is reported and never
//! overwritten.

use std::time::Duration;

use posthaste_core::{
    Bus, ErrorKind, Layout, Order, Sharing, SubscriptionEvent, TopicConfig, TopicName, Topology,
};
use tokio::time::{Instant, timeout};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::order::spread;
use crate::receive::{distinct, event, handle_both, one, settle_all};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{number, publish, publish_each, topic_with, up_to};

cases![P32;
    Claim a_differing_lease_is_reported_and_left_as_it_is
        when |can| can.sharing == Sharing::Messages;
    Claim the_application_hears_of_a_difference when |can| can.sharing == Sharing::Messages;
    Claim a_lease_is_each_members_own
        when |can| can.sharing == Sharing::Lanes && can.order.is_kept();
    Edge two_configurations_run_side_by_side;
    Edge another_number_of_partitions_is_refused when |can| can.order.is_kept();
];

const OLD: Duration = Duration::from_secs(20);
const NEW: Duration = Duration::from_secs(40);

/// A new deploy wants another lease. It is told, gets the group's own, and the old one still finds
/// what it asked for.
async fn a_differing_lease_is_reported_and_left_as_it_is(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    create(&*broker, &topic, Layout::Plain).await?;
    let old = Member::join(&*broker, request(&topic, &group, "old", OLD)).await?;
    ensure!(old.differences().is_empty(), "the first member of a group differs from nothing");
    let other = scene.broker().await?;
    let new = Member::join(&*other, request(&topic, &group, "new", NEW)).await?;
    let Some(difference) = new.differences().first() else {
        return Err(Failed::new("another lease was asked for, and nothing was said"));
    };
    ensure!(!difference.setting.is_empty(), "a difference without a setting");
    ensure!(difference.wanted != difference.found, "no difference: {difference:?}");
    ensure_eq!(new.lease(), OLD, "the lease that is in force");
    let again = Member::join(&*broker, request(&topic, &group, "old-again", OLD)).await?;
    ensure_eq!(again.differences(), [], "what an old member finds after the new one came");
    ensure_eq!(again.lease(), OLD, "the lease that is in force");
    Ok(())
}

async fn the_application_hears_of_a_difference(scene: &Scene) -> Outcome {
    let (old, new) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let first = old.subscribe(&topic).group(&group).lease(OLD).start().await?;
    let mut second = new.subscribe(&topic).group(&group).lease(NEW).start().await?;
    let mut events = second.events();
    let told = event(&mut events, scene.patience(), "a difference", |event| match event {
        SubscriptionEvent::Differs(difference) => Some(difference),
        _ => None,
    });
    let difference = tokio::select! {
        told = told => told?,
        _ = second.next() => return Err(Failed::new("there was nothing to deliver")),
    };
    ensure!(difference.wanted != difference.found, "no difference: {difference:?}");
    drop(first);
    Ok(())
}

/// A new deploy wants another lease, and gets it. There is nothing to report. What the one member
/// holds for too long comes again, while the other one may hold on.
async fn a_lease_is_each_members_own(scene: &Scene) -> Outcome {
    each_is_told_its_own(scene).await?;
    let (ours, theirs) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    ours.ensure(TopicConfig::new(&topic).ordered(4).group(&group)).await?;
    let member = |bus: &Bus, lease| {
        bus.subscribe(&topic).group(&group).lease(lease).max_handling(lease).start()
    };
    let (mut old, mut new) = (member(&ours, scene.lease()).await?, member(&theirs, NEW).await?);
    let publisher = ours.publisher(&topic)?;
    // Until both have lanes.
    let end = Instant::now() + scene.patience();
    loop {
        publish_each(&publisher, spread(0..16)).await?;
        let (few, rest) = handle_both(&mut old, &mut new, 16, scene.patience()).await?;
        if !few.is_empty() && !rest.is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "of two members one got nothing");
    }

    publish_each(&publisher, spread(16..32)).await?;
    let short = one(&mut old, scene.patience()).await?;
    let long = one(&mut new, scene.patience()).await?;
    let again = loop {
        let next = one(&mut old, scene.patience()).await?;
        if next.id() == short.id() {
            break next;
        }
        next.ack().await?;
    };
    ensure!(short.is_lost() && again.is_redelivered(), "the short lease has ended");
    ensure!(!long.is_lost(), "the long lease has ended with the short one");
    settle_all([again, long]).await
}

async fn each_is_told_its_own(scene: &Scene) -> Outcome {
    let (topic, group) = (TopicName::new(scene.topic_called("told"))?, scene.group_name("a")?);
    let (one, two) = (scene.broker().await?, scene.broker().await?);
    create(&*one, &topic, Layout::Plain).await?;
    let old = Member::join(&*one, request(&topic, &group, "old", OLD)).await?;
    let new = Member::join(&*two, request(&topic, &group, "new", NEW)).await?;
    ensure_eq!((old.lease(), new.lease()), (OLD, NEW), "the leases that are in force");
    ensure_eq!(old.differences(), [], "what the first member is told");
    ensure_eq!(new.differences(), [], "what the second member is told");
    Ok(())
}

/// Other prefetch, lease and attempts: both work, and share.
async fn two_configurations_run_side_by_side(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&one, &topic, &[&group]).await?;
    let old = one.subscribe(&topic).group(&group).lease(OLD).prefetch(3).max_attempts(2);
    let new = two.subscribe(&topic).group(&group).lease(NEW).prefetch(7).max_attempts(9);
    let (mut old, mut new) = (old.start().await?, new.start().await?);
    publish(&one.publisher(&topic)?, 0..60).await?;
    let mut handled = Vec::new();
    let work = async {
        while handled.len() < 60 {
            let delivery = tokio::select! {
                Some(delivery) = old.next() => delivery?,
                Some(delivery) = new.next() => delivery?,
                else => break,
            };
            handled.push(number(delivery.envelope())?);
            delivery.ack().await?;
        }
        Ok::<_, Failed>(())
    };
    let ended = timeout(scene.patience(), work).await;
    ensure!(ended.is_ok(), "{} of 60 messages were handled", handled.len());
    ended.unwrap_or(Ok(()))?;
    ensure_eq!(distinct(&handled)?, up_to(60), "what both configurations handled");
    Ok(())
}

/// The number of partitions is the order of every key: it is never changed by a deploy.
async fn another_number_of_partitions_is_refused(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let bus = scene.bus().await?;
    bus.ensure(TopicConfig::new(&topic).ordered(4).group(&group)).await?;
    let conflict = &[ErrorKind::Conflict];
    for topology in [Topology::Create, Topology::Verify] {
        let eight = TopicConfig::new(&topic).ordered(8).group(&group);
        let other = scene.builder().await?.topology(topology).topic(eight).build()?;
        let sent = other.publisher(&topic)?.publish_envelope(crate::send::keyed("k", 0)).await;
        refused(sent, conflict, "a publish by eight partitions")?;
        let inbox = other.subscribe(&topic).group(&group).order(Order::PerKey).start().await;
        refused(inbox, conflict, "a subscription to eight partitions")?;
    }
    let found = bus.admin().describe(&topic).await?;
    ensure_eq!(found.layout.partitions(), Some(4), "the partitions afterwards");
    Ok(())
}
