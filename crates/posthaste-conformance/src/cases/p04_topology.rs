//! P4: topics and groups are created, verified or refused as the application chose, and a
//! difference names the setting, what was wanted and what was found.

use posthaste_core::{Bus, ErrorKind, Layout, TopicConfig, Topology};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::handle;
use crate::scene::Scene;
use crate::send::{numbered, publish, topic_with};

cases![P4;
    Claim create_brings_about_what_is_missing;
    Claim verify_creates_nothing;
    Claim a_difference_names_setting_wanted_and_found when |can| can.order.is_kept();
    Edge a_differing_topic_is_not_overwritten when |can| can.order.is_kept();
    Edge assume_takes_the_declaration_for_the_truth;
    Edge a_malformed_name_is_refused_before_any_call;
    Denial(RetentionByCount) a_number_of_messages_to_keep_is_refused;
];

async fn verifying(scene: &Scene) -> Outcome<Bus> {
    Ok(scene.builder().await?.topology(Topology::Verify).build()?)
}

/// Whether the topic is there, asked by somebody who creates nothing.
async fn exists(scene: &Scene, topic: &str) -> Outcome<bool> {
    match verifying(scene).await?.admin().describe(topic).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failed::from(error)),
    }
}

/// By `ensure`, by a publish and by a subscription; doing it again changes nothing.
async fn create_brings_about_what_is_missing(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let ensured = scene.topic_called("ensured");
    let config = || TopicConfig::new(&ensured).group(scene.group("a")).group(scene.group("b"));
    let first = bus.ensure(config()).await?;
    ensure_eq!(first.name.as_str(), ensured, "the name of the topic");
    ensure_eq!(first.layout, Layout::Plain, "the layout of the topic");
    ensure!(!first.queue, "a topic is no queue");
    ensure_eq!(bus.ensure(config()).await?, first, "ensured again");
    ensure_eq!(bus.admin().describe(&ensured).await?, first, "as described");
    ensure_eq!(bus.verify(config()).await?, [], "differences from what was just made");

    let published = scene.topic_called("published");
    match bus.publisher(&published)?.publish_envelope(numbered(0)).await {
        Ok(_) => {}
        // Nobody gets it, but it is there now.
        Err(error) if error.kind() == ErrorKind::Unroutable => {}
        Err(error) => return Err(Failed::from(error)),
    }
    let subscribed = scene.topic_called("subscribed");
    let mut inbox = bus.subscribe(&subscribed).group(scene.group("a")).start().await?;
    publish(&bus.publisher(&subscribed)?, 0..3).await?;
    handle(&mut inbox, 3, scene.patience()).await?;
    for topic in [ensured, published, subscribed] {
        ensure!(exists(scene, &topic).await?, "{topic} was not created");
    }
    Ok(())
}

/// Neither a topic nor a group comes into being, whatever is tried.
async fn verify_creates_nothing(scene: &Scene) -> Outcome {
    let bus = verifying(scene).await?;
    let gone = scene.topic();
    let missing = &[ErrorKind::NotFound];
    refused(bus.ensure(TopicConfig::new(&gone)).await, missing, "ensure under Verify")?;
    refused(bus.verify(TopicConfig::new(&gone)).await, missing, "verify of nothing")?;
    let publish = bus.publisher(&gone)?.publish_envelope(numbered(0)).await;
    refused(publish, missing, "a publish under Verify")?;
    let inbox = bus.subscribe(&gone).group(scene.group("a")).start().await;
    refused(inbox, missing, "a subscription to no topic under Verify")?;
    ensure!(!exists(scene, &gone).await?, "the topic was created under Verify");

    let creating = scene.bus().await?;
    let there = scene.topic_called("there");
    topic_with(&creating, &there, &[&scene.group("a")]).await?;
    let inbox = bus.subscribe(&there).group(scene.group("b")).start().await;
    refused(inbox, missing, "a subscription to no group under Verify")?;
    let config = || TopicConfig::new(&there).group(scene.group("b"));
    refused(bus.ensure(config()).await, missing, "ensure of a group under Verify")?;
    refused(bus.verify(config()).await, missing, "verify of a group that is not there")?;

    // What is there can be used.
    let mut inbox = bus.subscribe(&there).group(scene.group("a")).start().await?;
    publish_one(&bus, &there).await?;
    handle(&mut inbox, 1, scene.patience()).await?;
    Ok(())
}

async fn publish_one(bus: &Bus, topic: &str) -> Outcome {
    bus.publisher(topic)?.publish_envelope(numbered(0)).await?;
    Ok(())
}

async fn a_difference_names_setting_wanted_and_found(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    bus.ensure(TopicConfig::new(&topic).ordered(4)).await?;
    let differences = bus.verify(TopicConfig::new(&topic).ordered(8)).await?;
    ensure!(!differences.is_empty(), "8 partitions were wanted, 4 found, and nothing was said");
    for difference in &differences {
        ensure!(!difference.setting.is_empty(), "a difference without a setting");
        ensure!(difference.wanted != difference.found, "no difference: {difference:?}");
    }
    let named = differences
        .iter()
        .any(|difference| difference.wanted.contains('8') && difference.found.contains('4'));
    ensure!(named, "the numbers of partitions are not named: {differences:?}");

    for topology in [Topology::Create, Topology::Verify] {
        let bus = scene.builder().await?.topology(topology).build()?;
        let error = refused(
            bus.ensure(TopicConfig::new(&topic).ordered(8)).await,
            &[ErrorKind::Conflict],
            "ensure of something else",
        )?;
        ensure_eq!(error.topic(), Some(topic.as_str()), "the topic that the error names");
    }
    Ok(())
}

async fn a_differing_topic_is_not_overwritten(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let topic = scene.topic();
    let before = bus.ensure(TopicConfig::new(&topic).ordered(4).group(scene.group("a"))).await?;
    publish(&bus.publisher(&topic)?, 0..5).await?;
    refused(bus.ensure(TopicConfig::new(&topic)).await, &[ErrorKind::Conflict], "a plain one")?;
    let eight = bus.ensure(TopicConfig::new(&topic).ordered(8)).await;
    refused(eight, &[ErrorKind::Conflict], "one with eight partitions")?;
    ensure_eq!(bus.admin().describe(&topic).await?, before, "the topic afterwards");
    let mut inbox = bus.subscribe(&topic).group(scene.group("a")).start().await?;
    handle(&mut inbox, 5, scene.patience()).await?;
    Ok(())
}

/// Declared and there: usable without a question. Not there: an error, and nothing is created.
async fn assume_takes_the_declaration_for_the_truth(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic_called("there"), scene.group("a"));
    topic_with(&scene.bus().await?, &topic, &[&group]).await?;
    let gone = scene.topic_called("gone");
    let assuming = scene
        .builder()
        .await?
        .topology(Topology::Assume)
        .topic(TopicConfig::new(&topic).group(&group))
        .topic(TopicConfig::new(&gone).group(&group))
        .build()?;
    let mut inbox = assuming.subscribe(&topic).group(&group).start().await?;
    publish(&assuming.publisher(&topic)?, 0..3).await?;
    handle(&mut inbox, 3, scene.patience()).await?;

    let outcome = assuming.publisher(&gone)?.publish_envelope(numbered(0)).await;
    refused(outcome, &[ErrorKind::NotFound, ErrorKind::Unroutable], "a publish to nothing")?;
    ensure!(!exists(scene, &gone).await?, "the topic was created under Assume");
    Ok(())
}

async fn a_malformed_name_is_refused_before_any_call(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    for name in ["", "two  spaces", "a__b", ".a", "a.", "a..b", "a*", "a>", "\u{e9}t\u{e9}"] {
        refused(bus.publisher(name), &[ErrorKind::Invalid], name)?;
        refused(bus.ensure(TopicConfig::new(name)).await, &[ErrorKind::Invalid], name)?;
        let inbox = bus.subscribe(name).group("a").start().await;
        refused(inbox, &[ErrorKind::Invalid], name)?;
    }
    for group in ["", "a.b", "unrouted", "a__b"] {
        let inbox = bus.subscribe(scene.topic()).group(group).start().await;
        refused(inbox, &[ErrorKind::Invalid], group)?;
    }
    Ok(())
}

/// The error names the setting, and there is no topic that ignores it.
async fn a_number_of_messages_to_keep_is_refused(scene: &Scene) -> Outcome {
    let (bus, topic) = (scene.bus().await?, scene.topic());
    let limited = || TopicConfig::new(&topic).max_messages(10).group(scene.group("a"));
    let ensured = bus.ensure(limited()).await;
    let error = refused(ensured, &[ErrorKind::Unsupported], "a topic of ten messages")?;
    ensure!(error.to_string().contains("max_messages"), "the setting is not named: {error}");
    ensure_eq!(error.topic(), Some(topic.as_str()), "the topic that the error names");
    ensure!(!exists(scene, &topic).await?, "the topic was created without its limit");

    topic_with(&bus, &topic, &[&scene.group("a")]).await?;
    let verified = bus.verify(limited()).await;
    let error = refused(verified, &[ErrorKind::Unsupported], "a look for ten messages")?;
    ensure!(error.to_string().contains("max_messages"), "the setting is not named: {error}");
    Ok(())
}
