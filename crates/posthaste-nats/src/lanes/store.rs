//! Where members write down who they are and which lanes they have.
//!
//! A stream beside the topic holds one message for each lane (its owner) and one for each member
//! (its heartbeat), always the last. A lane is claimed or freed only on top of the state that was
//! seen, which the server checks. No clock of one machine is ever compared with that of another:
//! a member is gone when its heartbeat has not changed for its time on the observer's clock.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use posthaste_core::{Error, ErrorKind, GroupName, Result, TopicName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::names;
use crate::reply::Delivered;
use crate::settle::PROGRESS;

/// Who owns a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LaneRecord {
    owner: Option<String>,
}

/// That a member is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemberRecord {
    member: String,
    /// How long it is there without a further heartbeat.
    lasts_ms: u64,
    /// It takes no lanes any more, and frees those it has.
    leaving: bool,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Lane {
        lane: usize,
        owner: Option<String>,
        sequence: u64,
    },
    Member {
        member: String,
        lasts: Duration,
        leaving: bool,
        sequence: u64,
    },
    /// Nothing, but the server was heard, and everything older is known.
    Heard,
}

/// The records of one group.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) hub: Arc<Hub>,
    stream: String,
    prefix: String,
    /// How long one operation may take.
    patience: Duration,
}

impl Store {
    pub(crate) fn new(
        hub: Arc<Hub>,
        topic: &TopicName,
        group: &GroupName,
        patience: Duration,
    ) -> Self {
        let (stream, prefix) = (names::lanes_stream(topic), names::lanes_prefix(topic, group));
        Self { hub, stream, prefix, patience }
    }

    fn lane_subject(&self, lane: usize) -> String {
        format!("{}.{lane}", self.prefix)
    }

    fn member_subject(&self, member: &str) -> String {
        // Dots would make several tokens of it.
        format!("{}.m.{}", self.prefix, member.replace('.', "+"))
    }

    /// Writes that the member is there.
    pub(crate) async fn beat(&self, member: &str, lasts: Duration, leaving: bool) -> Result<()> {
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let record = MemberRecord { member: member.to_owned(), lasts_ms, leaving };
        self.write(self.member_subject(member), &record, None).await.map(drop)
    }

    /// Makes somebody, or nobody, the owner, if nothing happened since that sequence. Returns the
    /// sequence of the new state.
    ///
    /// # Errors
    /// `Conflict` if something did happen; anything else leaves it open.
    pub(crate) async fn own(&self, lane: usize, owner: Option<&str>, since: u64) -> Result<u64> {
        let record = LaneRecord { owner: owner.map(str::to_owned) };
        self.write(self.lane_subject(lane), &record, Some(since)).await
    }

    async fn write(
        &self,
        subject: String,
        record: &(impl Serialize + Sync),
        since: Option<u64>,
    ) -> Result<u64> {
        let body = serde_json::to_vec(record).map_err(|error| {
            Error::new(ErrorKind::Fatal, "a record could not be written").with_source(error)
        })?;
        let mut message = PublishMessage::build().payload(body.into());
        if let Some(since) = since {
            message = message.expected_last_subject_sequence(since);
        }
        let written = async {
            let sent = self.hub.jetstream.send_publish(subject, message).await;
            let ack = sent.map_err(error::publish)?.await.map_err(error::publish)?;
            Ok(ack.sequence)
        };
        tokio::time::timeout(self.patience, written).await.unwrap_or_else(|_| Err(late()))
    }

    /// The sequence of a member's last heartbeat; `None` if there is none.
    pub(crate) async fn heartbeat_of(&self, member: &str) -> Result<Option<u64>> {
        let body = json!({ "last_by_subj": self.member_subject(member) });
        let subject = format!("STREAM.MSG.GET.{}", self.stream);
        let asked = self.hub.api.ask::<serde_json::Value>(&subject, &body);
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(found)) => Ok(found["message"]["seq"].as_u64()),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late()),
        }
    }

    /// Waits until the server has taken all answers on a lane, given the subject of the last: it
    /// takes them in order. So the next owner does not get what was settled.
    pub(crate) async fn barrier(&self, answer: Option<Bytes>) {
        let Some(subject) = answer.and_then(|answer| Subject::from_utf8(answer).ok()) else {
            return;
        };
        let asked = self.hub.api.raw(&subject, PROGRESS);
        // If there is no answer, it may be handled twice: that is all.
        let _ = tokio::time::timeout(self.patience, asked).await;
    }

    /// Removes what is left of a member that is gone. Not by a purge of its subject: nats-server
    /// 2.9.10 moves whoever follows the records to the end then, past what they have not read.
    pub(crate) async fn bury(&self, member: &str) -> Result<()> {
        let Some(sequence) = self.heartbeat_of(member).await? else { return Ok(()) };
        let body = json!({ "seq": sequence, "no_erase": true });
        let subject = format!("STREAM.MSG.DELETE.{}", self.stream);
        self.hub.api.ask::<serde_json::Value>(&subject, &body).await.map(drop)
    }

    /// Begins to follow all changes, from what is now.
    pub(crate) async fn follow(&self) -> Result<Feed> {
        let config = Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subject: format!("{}.>", self.prefix),
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        let body = json!({ "stream_name": self.stream, "config": config });
        let create = format!("CONSUMER.CREATE.{}", self.stream);
        let info: Info = self.hub.api.ask(&create, &body).await?;
        let inbox = self.hub.client.new_inbox();
        let messages = self.hub.client.subscribe(inbox.clone()).await.map_err(error::subscribe)?;
        let prefix = &self.hub.api.prefix;
        Ok(Feed {
            store: self.clone(),
            request: format!("{prefix}.CONSUMER.MSG.NEXT.{}.{}", self.stream, info.name),
            inbox,
            messages,
            asked_until: None,
            left: 0,
            caught_up: info.num_pending == 0,
        })
    }

    /// The change in a message, and how many are behind it.
    fn read(&self, message: &Message) -> (Option<Change>, Option<u64>) {
        let delivered = message.reply.as_deref().and_then(Delivered::parse);
        let change = delivered.and_then(|delivered| self.change(message, &delivered));
        (change, delivered.map(|delivered| delivered.pending))
    }

    fn change(&self, message: &Message, delivered: &Delivered) -> Option<Change> {
        let sequence = delivered.stream_sequence;
        let name = message.subject.strip_prefix(&*self.prefix)?.strip_prefix('.')?;
        if name.starts_with("m.") {
            let record: MemberRecord = serde_json::from_slice(&message.payload).ok()?;
            let MemberRecord { member, lasts_ms, leaving } = record;
            let lasts = Duration::from_millis(lasts_ms);
            return Some(Change::Member { member, lasts, leaving, sequence });
        }
        let record: LaneRecord = serde_json::from_slice(&message.payload).ok()?;
        Some(Change::Lane { lane: name.parse().ok()?, owner: record.owner, sequence })
    }
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the server did not answer in time").with_broker(BROKER)
}

/// How many changes are asked for at once, and for how long.
const PAGE: usize = 256;
const EXPIRES: Duration = Duration::from_secs(1);

/// Follows the changes of a group's records.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Store,
    request: String,
    inbox: String,
    messages: async_nats::Subscriber,
    asked_until: Option<Instant>,
    left: usize,
    /// Everything there was has been read.
    caught_up: bool,
}

impl Feed {
    /// The next change.
    ///
    /// # Errors
    /// Any: the feed is to be begun anew.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Change> {
        if std::mem::take(&mut self.caught_up) {
            return Ok(Change::Heard);
        }
        loop {
            let until = match self.asked_until {
                Some(until) => until,
                None => {
                    let until = Instant::now() + EXPIRES;
                    let nanos = EXPIRES.as_nanos();
                    let body = format!("{{\"batch\":{PAGE},\"expires\":{nanos}}}");
                    let (request, inbox) = (self.request.clone(), self.inbox.clone());
                    let client = &self.store.hub.client;
                    let sent = client.publish_with_reply(request, inbox, body.into()).await;
                    sent.map_err(error::send)?;
                    self.left = PAGE;
                    *self.asked_until.insert(until)
                }
            };
            let patience = until + EXPIRES;
            let Ok(Some(message)) = tokio::time::timeout_at(patience, self.messages.next()).await
            else {
                return Err(late());
            };
            match message.status.map(|status| status.as_u16()) {
                None => {
                    self.left = self.left.saturating_sub(1);
                    if self.left == 0 {
                        self.asked_until = None;
                    }
                    let (change, pending) = self.store.read(&message);
                    self.caught_up = pending == Some(0);
                    if let Some(change) = change {
                        return Ok(change);
                    }
                }
                Some(100) => {}
                Some(404 | 408) => {
                    self.asked_until = None;
                    return Ok(Change::Heard);
                }
                Some(code) => {
                    return Err(Error::new(ErrorKind::Connection, "the feed of lanes ended")
                        .with_context("status", code)
                        .with_broker(BROKER));
                }
            }
        }
    }
}
