//! P27: errors are typed, name what was wrong, come in time, and show no secret.

use std::error::Error as StdError;

use posthaste_core::broker::{Destination, SendOptions};
use posthaste_core::{Error, ErrorKind, Layout, Start, TopicConfig, TopicSpec, Topology};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::scene::Scene;
use crate::seam::{Member, request};
use crate::send::{ends, numbered, topic_with};

cases![P27;
    Claim a_wrong_connection_fails_in_time_and_says_why, needs [Mistakes];
    Claim after_close_every_call_says_so;
    Edge an_adapter_that_was_closed_says_so;
    Edge errors_name_operation_topic_and_group;
    Edge no_error_shows_a_secret;
];

/// Everything that an error shows: its text, its report, and its causes.
fn shown(error: &Error) -> String {
    let mut text = format!("{error}\n{error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n{error}\n{error:?}"));
        cause = error.source();
    }
    text
}

fn shows_none(text: &str, secrets: &[String], what: &str) -> Outcome {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        ensure!(!text.contains(secret.as_str()), "{what} shows a secret");
    }
    Ok(())
}

async fn a_wrong_connection_fails_in_time_and_says_why(scene: &Scene) -> Outcome {
    let mistakes = scene.instance().mistakes();
    ensure!(!mistakes.is_empty(), "the harness offers mistakes and has none");
    for mistake in mistakes {
        let what = mistake.what;
        let begun = Instant::now();
        let connected = ends(what, mistake.within + scene.patience(), (mistake.connect)()).await?;
        let error = refused(connected, mistake.kinds, what)?;
        let took = begun.elapsed();
        ensure!(took <= mistake.within, "{what}: the error came after {took:?}");
        ensure!(!error.message().is_empty(), "{what}: an error without a word");
        let text = shown(&error);
        shows_none(&text, &mistake.secrets, what)?;
        shows_none(&text, &scene.instance().secrets(), what)?;
    }
    Ok(())
}

async fn after_close_every_call_says_so(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    bus.close(scene.patience()).await?;

    let closed = &[ErrorKind::Closed];
    let admin = bus.admin();
    refused(bus.publisher(&topic), closed, "a publisher")?;
    refused(publisher.publish_envelope(numbered(0)).await, closed, "a publish")?;
    refused(publisher.enqueue_envelope(numbered(1)).await, closed, "an enqueue")?;
    for outcome in publisher.publish_all_envelopes(vec![numbered(2)]).await.into_outcomes() {
        refused(outcome, closed, "a batch")?;
    }
    refused(bus.subscribe(&topic).group(&group).start().await, closed, "a subscription")?;
    refused(bus.ensure(TopicConfig::new(&topic)).await, closed, "ensure")?;
    refused(bus.verify(TopicConfig::new(&topic)).await, closed, "verify")?;
    refused(admin.describe(&topic).await, closed, "describe")?;
    refused(admin.delete_topic(&topic).await, closed, "delete_topic")?;
    refused(admin.lag(&topic, &group).await, &[ErrorKind::Closed, ErrorKind::Unsupported], "lag")?;
    refused(bus.health().await, closed, "health")?;
    Ok(())
}

/// Without core above it.
async fn an_adapter_that_was_closed_says_so(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    broker.close(Instant::now() + scene.patience()).await?;
    ends("closing again", scene.patience(), broker.close(Instant::now() + scene.patience()))
        .await??;
    let closed = &[ErrorKind::Closed];
    let to = Destination::new(topic.clone(), Layout::Plain, false);
    let mut batch = [numbered(0)];
    let options = SendOptions::default();
    let published = ends("a publish", scene.patience(), broker.publish(&to, &mut batch, &options));
    match published.await? {
        Ok(outcomes) => {
            for outcome in outcomes {
                refused(outcome, closed, "a publish")?;
            }
        }
        Err(error) => ensure_eq!(error.kind(), ErrorKind::Closed, "a publish"),
    }
    let request = request(&topic, &group, "m", scene.lease());
    let joined = ends("a subscription", scene.patience(), Member::join(&*broker, request)).await?;
    refused(joined, closed, "a subscription")?;
    let spec = TopicSpec::plain(topic.clone());
    let ensured = broker.admin().ensure(&spec, Topology::Create);
    refused(ends("ensure", scene.patience(), ensured).await?, closed, "ensure")?;
    let described = broker.admin().describe(&topic);
    refused(ends("describe", scene.patience(), described).await?, closed, "describe")?;
    Ok(())
}

/// Errors that a broker of any kind can be brought to, with what each has to name.
async fn provoked(scene: &Scene) -> Outcome<Vec<(Error, Option<String>)>> {
    let bus = scene.builder().await?.topology(Topology::Verify).build()?;
    let assuming = scene.builder().await?.topology(Topology::Assume).build()?;
    let (gone, group) = (scene.topic_called("gone"), scene.group("a"));
    let missing = &[ErrorKind::NotFound, ErrorKind::Unroutable];
    let mut errors = Vec::new();
    let publish = bus.publisher(&gone)?.publish_envelope(numbered(0)).await;
    errors.push((refused(publish, missing, "a publish to nothing")?, None));
    let publish = assuming.publisher(&gone)?.publish_envelope(numbered(0)).await;
    errors.push((refused(publish, missing, "a publish to nothing")?, None));
    let inbox = bus.subscribe(&gone).group(&group).start().await;
    errors.push((refused(inbox, missing, "a subscription to nothing")?, Some(group.clone())));
    let described = bus.admin().describe(&gone).await;
    errors.push((refused(described, missing, "a description of nothing")?, None));
    let ensured = bus.ensure(TopicConfig::new(&gone)).await;
    errors.push((refused(ensured, missing, "ensure of nothing")?, None));
    let can = bus.capabilities(None)?;
    if can.lag.is_kept() {
        let lag = bus.admin().lag(&gone, &group).await;
        errors.push((refused(lag, missing, "the lag on nothing")?, Some(group.clone())));
    }
    if can.seek.is_kept() {
        let sought = bus.admin().seek(&gone, &group, Start::Earliest).await;
        errors.push((refused(sought, missing, "seeking on nothing")?, Some(group)));
    }
    Ok(errors)
}

async fn errors_name_operation_topic_and_group(scene: &Scene) -> Outcome {
    let gone = scene.topic_called("gone");
    for (error, group) in provoked(scene).await? {
        ensure_eq!(error.topic(), Some(gone.as_str()), "the topic of {error}");
        ensure!(error.operation().is_some(), "no operation is named: {error}");
        if group.is_some() {
            ensure_eq!(error.group(), group.as_deref(), "the group of {error}");
        }
        ensure!(!error.to_string().contains('\n'), "more than one line: {error}");
    }
    Ok(())
}

async fn no_error_shows_a_secret(scene: &Scene) -> Outcome {
    let secrets = scene.instance().secrets();
    let errors = provoked(scene).await?;
    if errors.is_empty() {
        return Err(Failed::new("no error was provoked"));
    }
    for (error, _) in errors {
        shows_none(&shown(&error), &secrets, "an error")?;
    }
    let broker = scene.broker().await?;
    shows_none(&format!("{broker:?}"), &secrets, "the adapter's Debug")?;
    shows_none(&format!("{:?}", broker.capabilities(None)), &secrets, "the capabilities")?;
    let health = broker.health().await?;
    shows_none(&format!("{health:?} {health}"), &secrets, "the health")?;
    let bus = Scene::bus_over(broker).build()?;
    shows_none(&format!("{bus:?}"), &secrets, "the bus")
}
