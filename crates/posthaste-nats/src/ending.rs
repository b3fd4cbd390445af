//! Ending an inbox without losing what is on its way to it.
//!
//! The client forgets an inbox as soon as it is told to, and with it what the server had sent
//! before it heard of that. So the server is asked to end the inbox after as many messages more as
//! may come, and is sent that many: what comes between is in front of them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::groups;
use crate::hub::Hub;
use crate::version::Version;

/// How many messages may come beside those that were asked for: the server tells the ends of
/// requests there, too.
const SPARE: u64 = 16;
/// The last token of the subject of a mark, where messages have the number of a request.
const MARK: &str = "end";
/// Only a lost connection, or a server that lets us send nothing to our own inbox, makes it last.
const PATIENCE: Duration = Duration::from_secs(1);

/// An inbox that is to end.
pub(crate) struct Ending {
    pub(crate) hub: Arc<Hub>,
    /// What it is called, without the numbers of requests.
    pub(crate) name: String,
    pub(crate) messages: Subscriber,
    /// How many were read of it.
    pub(crate) read: u64,
    /// How many more were asked for. All of them may be on their way: others may publish just now.
    pub(crate) awaited: usize,
    /// The consumer that was asked to send there.
    pub(crate) stream: String,
    pub(crate) consumer: String,
}

impl Ending {
    /// Ends it. Returns what was on its way.
    pub(crate) async fn run(mut self) -> Vec<Message> {
        let mut left = Vec::new();
        let ended = async {
            self.collect(&mut left).await;
            if self.hub.version() < Version::EXACT_ATTEMPTS {
                // Older servers lose their place when a message is given back while they have
                // requests only of those who have gone. Asked about a consumer, they forget these.
                let _ = groups::info(&self.hub, &self.stream, &self.consumer).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, ended).await;
        left
    }

    async fn collect(&mut self, left: &mut Vec<Message>) {
        let marks = u64::try_from(self.awaited).unwrap_or(u64::MAX).saturating_add(SPARE);
        if self.messages.unsubscribe_after(self.read.saturating_add(marks)).await.is_err() {
            return;
        }
        let mark = Subject::from(format!("{}.{MARK}", self.name));
        for _ in 0..marks {
            if self.hub.client.publish(mark.clone(), Bytes::new()).await.is_err() {
                return;
            }
        }
        while let Some(message) = self.messages.next().await {
            if message.subject != mark {
                left.push(message);
            }
        }
    }
}
