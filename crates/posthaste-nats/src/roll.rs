//! The roll: members say their names when they are asked.
//!
//! The server knows consumers and open requests, and no names. Every subscription of a group
//! listens on a subject that no stream has, and answers with its member's name.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use posthaste_core::{GroupName, TopicName};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::hub::Hub;
use crate::names;

/// How long answers may take. Who is slower goes unnamed.
const PATIENCE: Duration = Duration::from_millis(250);
/// So many names are enough for an error.
const ENOUGH: usize = 16;

/// Answers for this member until the guard is dropped.
pub(crate) async fn answer(
    hub: &Arc<Hub>,
    topic: &TopicName,
    group: &GroupName,
    member: &str,
) -> DropGuard {
    let ended = CancellationToken::new();
    let (client, name) = (hub.client.clone(), member.to_owned());
    // Where this is not permitted the member is counted, and not named.
    if let Ok(mut calls) = client.subscribe(names::roll_subject(topic, group)).await {
        let until = ended.clone();
        hub.tasks.spawn(async move {
            loop {
                let call = tokio::select! {
                    call = calls.next() => call,
                    () = until.cancelled() => return,
                };
                let Some(call) = call else { return };
                if let Some(reply) = call.reply {
                    // An answer that cannot be sent is one that nobody waits for.
                    let _ = client.publish(reply, name.clone().into()).await;
                }
            }
        });
    }
    ended.drop_guard()
}

/// The names of the members that answer now.
pub(crate) async fn call(hub: &Hub, topic: &TopicName, group: &GroupName) -> Vec<String> {
    let inbox = hub.client.new_inbox();
    let mut names = Vec::new();
    let Ok(mut answers) = hub.client.subscribe(inbox.clone()).await else { return names };
    let subject = names::roll_subject(topic, group);
    if hub.client.publish_with_reply(subject, inbox, "".into()).await.is_err() {
        return names;
    }
    let until = Instant::now() + PATIENCE;
    while names.len() < ENOUGH {
        match tokio::time::timeout_at(until, answers.next()).await {
            Ok(Some(answer)) => {
                names.push(String::from_utf8_lossy(&answer.payload).into_owned());
            }
            Ok(None) | Err(_) => break,
        }
    }
    names.sort_unstable();
    names
}
