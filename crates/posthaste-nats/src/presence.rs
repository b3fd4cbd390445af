//! Who is a member of a group now: those who are answer when they are asked.
//!
//! The server knows requests, not members. So each subscription listens on a subject of its group
//! and answers with its name. Nothing is stored, and who is gone does not answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use posthaste_core::{GroupName, Result, TopicName};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::hub::Hub;
use crate::{error, names};

/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// Answers for a member until the guard is dropped.
///
/// # Errors
/// `Connection`.
pub(crate) async fn announce(
    hub: &Arc<Hub>,
    topic: &TopicName,
    group: &GroupName,
    member: &str,
) -> Result<DropGuard> {
    let subject = names::presence_subject(topic, group);
    let mut asked = hub.client.subscribe(subject).await.map_err(error::subscribe)?;
    let (client, name) = (hub.client.clone(), Bytes::copy_from_slice(member.as_bytes()));
    let gone = CancellationToken::new();
    let until = gone.clone();
    let shared = Arc::clone(hub);
    hub.tasks.spawn(async move {
        let answering = async {
            while let Some(request) = asked.next().await {
                if let Some(reply) = request.reply {
                    // Who asked does not wait for long; a lost answer is like none.
                    let _ = client.publish(reply, name.clone()).await;
                }
            }
        };
        tokio::select! {
            // First: once the member is gone, nobody hears of it any more.
            biased;
            () = until.cancelled() => {}
            () = shared.closing() => {}
            () = answering => {}
        }
    });
    Ok(gone.drop_guard())
}

/// The names of the members that answer, in order.
///
/// # Errors
/// `Connection`, `Closed`.
pub(crate) async fn members(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
) -> Result<Vec<String>> {
    let until = Instant::now() + PATIENCE;
    hub.link.ready(until).await?;
    let inbox = hub.client.new_inbox();
    let mut answers = hub.client.subscribe(inbox.clone()).await.map_err(error::subscribe)?;
    let subject = names::presence_subject(topic, group);
    let sent = hub.client.publish_with_reply(subject, inbox, Bytes::new()).await;
    sent.map_err(error::send)?;
    let mut members = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
        // A status is the server's word that nobody listens.
        if answer.status.is_some() {
            break;
        }
        members.push(String::from_utf8_lossy(&answer.payload).into_owned());
    }
    members.sort_unstable();
    members.dedup();
    Ok(members)
}
