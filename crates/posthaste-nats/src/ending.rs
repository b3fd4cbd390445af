//! Ending an inbox without losing what is on its way to it.
//!
//! The client forgets an inbox as soon as it is told to, and with it what the server had sent
//! before it heard of that. So the server is asked to end the inbox after a few messages more, and
//! is sent that many: what comes between is in front of them.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;

/// How many messages may be on their way to an inbox that was quiet a moment ago.
const MARKS: u64 = 16;
/// The last token of the subject of a mark, where messages have the number of a request.
const MARK: &str = "end";
/// Only a lost connection, or a server that lets us send nothing to our own inbox, makes it last.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends the inbox `name.*`, of which that many messages were read. Returns what was on its way.
pub(crate) async fn end(
    client: Client,
    name: String,
    mut inbox: Subscriber,
    read: u64,
) -> Vec<Message> {
    let mut left = Vec::new();
    let collected = async {
        if inbox.unsubscribe_after(read + MARKS).await.is_err() {
            return;
        }
        let subject = async_nats::Subject::from(format!("{name}.{MARK}"));
        for _ in 0..MARKS {
            if client.publish(subject.clone(), Bytes::new()).await.is_err() {
                return;
            }
        }
        while let Some(message) = inbox.next().await {
            if message.subject != subject {
                left.push(message);
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, collected).await;
    left
}
