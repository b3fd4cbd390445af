//! P33: groups can be listed and deleted, and an abandoned one shows.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::{Bus, ErrorKind, GroupInfo, Promise, Start};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{handle, nothing, one};
use crate::scene::Scene;
use crate::send::{publish, topic_with, until};

cases![P33;
    Claim groups_are_listed when |can| can.group_lifecycle.is_kept();
    Claim a_deleted_group_is_gone when |can| can.group_lifecycle.is_kept();
    Edge a_group_with_members_is_not_deleted when |can| can.group_lifecycle.is_kept();
    Edge an_abandoned_group_shows_with_what_it_pins when |can| can.group_lifecycle.is_kept();
    Denial(GroupLifecycle) groups_are_not_told;
];

async fn names(bus: &Bus, topic: &str) -> Outcome<BTreeSet<String>> {
    let groups = bus.admin().groups(topic).await?;
    let names: BTreeSet<String> =
        groups.iter().map(|group| group.name.as_str().to_owned()).collect();
    ensure_eq!(names.len(), groups.len(), "different groups in the list");
    Ok(names)
}

async fn groups_are_listed(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, one, two) = (scene.topic(), scene.group("one"), scene.group("two"));
    let missing = bus.admin().groups(&topic).await;
    refused(missing, &[ErrorKind::NotFound], "the groups of no topic")?;
    topic_with(&bus, &topic, &[]).await?;
    ensure!(names(&bus, &topic).await?.is_empty(), "a topic without groups");
    topic_with(&bus, &topic, &[&one]).await?;
    let inbox = bus.subscribe(&topic).group(&two).start().await?;
    ensure_eq!(names(&bus, &topic).await?, BTreeSet::from([one, two]), "the groups");
    drop(inbox);
    Ok(())
}

/// With its place and its private channel: who comes with the name later is a new group.
async fn a_deleted_group_is_gone(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group, other) = (scene.topic(), scene.group("a"), scene.group("other"));
    topic_with(&bus, &topic, &[&group, &other]).await?;
    let publisher = bus.publisher(&topic)?;
    publish(&publisher, 0..5).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    // One waits in the private channel of the group when it goes.
    let first = one(&mut inbox, scene.patience()).await?;
    first.nack(posthaste_core::Nack::after(scene.quiet())).await?;
    inbox.stop(scene.patience()).await?;
    bus.admin().delete_group(&topic, &group).await?;
    ensure_eq!(names(&bus, &topic).await?, BTreeSet::from([other.clone()]), "groups that are left");
    let again = bus.admin().delete_group(&topic, &group).await;
    refused(again, &[ErrorKind::NotFound], "deleting what is not there")?;

    let mut new = bus.subscribe(&topic).group(&group).from(Start::Latest).start().await?;
    nothing(&mut new, scene.quiet() * 3).await?;
    publish(&publisher, 5..7).await?;
    let handled: BTreeSet<_> = handle(&mut new, 2, scene.patience()).await?.into_iter().collect();
    ensure_eq!(handled, BTreeSet::from([5, 6]), "what the new group got");
    let mut kept = bus.subscribe(&topic).group(&other).start().await?;
    handle(&mut kept, 7, scene.patience()).await?;
    Ok(())
}

async fn a_group_with_members_is_not_deleted(scene: &Scene) -> Outcome {
    let (bus, admin) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    publish(&bus.publisher(&topic)?, 0..3).await?;
    handle(&mut inbox, 3, scene.patience()).await?;
    let deleting = async {
        let deleted = admin.admin().delete_group(&topic, &group).await;
        refused(deleted, &[ErrorKind::Conflict], "deleting under a live member")
    };
    tokio::select! {
        refused = deleting => { refused?; }
        _ = inbox.next() => return Err(Failed::new("the subscription ended or got something")),
    }
    publish(&bus.publisher(&topic)?, 3..5).await?;
    handle(&mut inbox, 2, scene.patience()).await?;
    inbox.stop(scene.patience()).await?;
    admin.admin().delete_group(&topic, &group).await?;
    Ok(())
}

async fn an_abandoned_group_shows_with_what_it_pins(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let find = async || -> Outcome<GroupInfo> {
        let groups = bus.admin().groups(&topic).await?;
        let found = groups.into_iter().find(|info| info.name.as_str() == group);
        found.ok_or_else(|| Failed::new("the group is not listed"))
    };
    let live = tokio::select! {
        found = find() => found?,
        _ = inbox.next() => return Err(Failed::new("there was nothing to deliver")),
    };
    if let Some(members) = live.members {
        ensure_eq!(members, 1, "members of the live group");
    }
    ensure!(!live.is_abandoned(Duration::ZERO), "a group with a member is not abandoned");
    inbox.stop(scene.patience()).await?;
    publish(&bus.publisher(&topic)?, 0..9).await?;
    let idle = scene.quiet();
    let info = until("the group is abandoned", scene.patience(), || async {
        match find().await {
            Ok(info) if info.members.is_none() || info.idle_for.is_none() => Ok(info),
            Ok(info) if info.is_abandoned(idle) => Ok(info),
            Ok(info) => Err(format!("{info:?}")),
            Err(failed) => Err(failed.to_string()),
        }
    })
    .await?;
    if let Some(pins) = info.pins {
        ensure_eq!(pins, 9, "the messages that it pins");
    }
    Ok(())
}

async fn groups_are_not_told(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let unsupported = &[ErrorKind::Unsupported];
    refused(bus.admin().groups(&topic).await, unsupported, "groups")?;
    refused(bus.admin().delete_group(&topic, &group).await, unsupported, "delete_group")?;
    let inbox = bus.subscribe(&topic).group(&group).require(Promise::P33).start().await;
    refused(inbox, unsupported, "a subscription that requires P33")?;
    Ok(())
}
