//! Using an adapter without the bus: the contract as core uses it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use posthaste_core::broker::{
    Broker, Confirmation, Credit, Destination, DriverEvent, Parcel, Polled, Publish, Received,
    SendOptions, Settlement, Settler, Stored, SubscribeRequest, Subscribed, SubscriptionDriver,
    Token, Verdict,
};
use posthaste_core::{
    Envelope, GroupName, Layout, Result, TopicConfig, TopicInfo, TopicName, Topology,
};
use posthaste_nats::NatsBroker;

/// A topic name that no other test has.
pub(crate) fn fresh(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("it.{name}.{}-{next}-{:08x}", std::process::id(), fastrand::u32(..))
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a legal name")
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a legal name")
}

pub(crate) async fn ensure(broker: &NatsBroker, config: TopicConfig) -> Destination {
    let spec = config.check().expect("a sound config");
    let info = broker.admin().ensure(&spec, Topology::Create).await.expect("a topic");
    destination(&info)
}

pub(crate) fn destination(info: &TopicInfo) -> Destination {
    Destination::new(info.name.clone(), info.layout, info.queue)
}

pub(crate) fn plain(name: &str) -> Destination {
    Destination::new(topic(name), Layout::Plain, false)
}

pub(crate) fn envelope(payload: impl Into<bytes::Bytes>) -> Envelope {
    Envelope::builder("test").source("/it").payload(payload).build().expect("a sound envelope")
}

pub(crate) fn keyed(key: &str, payload: impl Into<bytes::Bytes>) -> Envelope {
    let builder = Envelope::builder("test").source("/it").key(key.to_owned());
    builder.payload(payload).build().expect("a sound envelope")
}

pub(crate) async fn publish_one(
    broker: &NatsBroker,
    to: &Destination,
    envelope: Envelope,
) -> Result<Stored> {
    publish_with(broker, to, envelope, SendOptions::default()).await
}

pub(crate) async fn publish_with(
    broker: &NatsBroker,
    to: &Destination,
    envelope: Envelope,
    options: SendOptions,
) -> Result<Stored> {
    let mut outcomes = broker.publish(to, &mut [envelope], &options).await?.into_iter();
    outcomes.next().expect("an outcome for each entry")
}

/// Publishes `n` messages with their numbers as payloads.
pub(crate) async fn publish_numbers(
    broker: &NatsBroker,
    to: &Destination,
    n: std::ops::Range<usize>,
) {
    let mut batch: Vec<_> = n.map(|number| envelope(number.to_string())).collect();
    let outcomes = broker.publish(to, &mut batch, &SendOptions::default()).await.expect("sent");
    for outcome in outcomes {
        outcome.expect("stored");
    }
}

pub(crate) fn request(topics: &[&str], group_name: Option<&str>) -> SubscribeRequest {
    let topics = topics.iter().map(|name| topic(name)).collect();
    SubscribeRequest::new(
        topics,
        group_name.map(group),
        format!("member-{:08x}", fastrand::u32(..)),
    )
}

/// A subscription as core holds one: credit is what is not settled.
#[derive(Debug)]
pub(crate) struct Reader {
    driver: Box<dyn SubscriptionDriver>,
    settler: Arc<dyn Settler>,
    prefetch: usize,
    pub(crate) unsettled: usize,
    pub(crate) events: Vec<DriverEvent>,
    pub(crate) member: String,
    pub(crate) lease: Duration,
    pub(crate) differences: Vec<posthaste_core::Difference>,
}

impl Reader {
    pub(crate) async fn start(broker: &NatsBroker, request: SubscribeRequest) -> Self {
        Self::try_start(broker, request).await.expect("a subscription")
    }

    pub(crate) async fn try_start(broker: &NatsBroker, request: SubscribeRequest) -> Result<Self> {
        let (prefetch, member) = (request.prefetch.count, request.member.clone());
        let Subscribed { driver, lease, differences, .. } = broker.subscribe(request).await?;
        let settler = driver.settler();
        Ok(Self {
            driver,
            settler,
            prefetch,
            unsettled: 0,
            events: Vec::new(),
            member,
            lease,
            differences,
        })
    }

    /// The next messages; waits until there are some.
    pub(crate) async fn next(&mut self) -> Result<Vec<Received>> {
        let mut out = Vec::new();
        while out.is_empty() {
            if let Polled::Stopped = self.poll(&mut out).await? {
                break;
            }
        }
        Ok(out)
    }

    async fn poll(&mut self, out: &mut Vec<Received>) -> Result<Polled> {
        let credit = Credit::new((self.prefetch - self.unsettled).max(1), 16 << 20);
        let polled = poll_fn(|cx| self.driver.poll_batch(cx, out, credit)).await?;
        self.unsettled += out.len();
        assert!(self.unsettled <= self.prefetch, "more than prefetch");
        if let Polled::Event(event) = &polled {
            self.events.push(event.clone());
        }
        Ok(polled)
    }

    /// One message.
    pub(crate) async fn one(&mut self) -> Received {
        let mut batch = self.next().await.expect("a message");
        assert_eq!(batch.len(), 1, "one message was expected");
        batch.remove(0)
    }

    /// Reads and acknowledges until that many came. Returns their payloads.
    pub(crate) async fn drain(&mut self, n: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        while payloads.len() < n {
            let batch = self.next().await.expect("messages");
            assert!(!batch.is_empty(), "the subscription ended after {}", payloads.len());
            payloads.extend(batch.iter().map(text));
            self.settle(batch.iter().map(|received| (received, Verdict::Ack))).await;
        }
        payloads
    }

    /// Whether nothing comes for a while.
    pub(crate) async fn is_quiet(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.next()).await.is_err()
    }

    /// Polls for a while, for what happens only in polls.
    pub(crate) async fn until(&mut self, mut done: impl FnMut(&[DriverEvent]) -> bool) {
        let mut out = Vec::new();
        while !done(&self.events) {
            self.poll(&mut out).await.expect("events");
        }
        assert!(out.is_empty(), "messages came with the events");
    }

    pub(crate) async fn settle<'a>(
        &mut self,
        verdicts: impl Iterator<Item = (&'a Received, Verdict)>,
    ) {
        self.settle_until(Confirmation::Sent, verdicts).await;
    }

    /// Settles, and waits until the server has it.
    pub(crate) async fn settle_confirmed<'a>(
        &mut self,
        verdicts: impl Iterator<Item = (&'a Received, Verdict)>,
    ) {
        self.settle_until(Confirmation::Broker, verdicts).await;
    }

    async fn settle_until<'a>(
        &mut self,
        confirmation: Confirmation,
        verdicts: impl Iterator<Item = (&'a Received, Verdict)>,
    ) {
        let batch: Vec<_> = verdicts
            .map(|(received, verdict)| Settlement::new(received.token.clone(), verdict))
            .collect();
        self.unsettled -= batch.len();
        let report = self.settler.settle(&batch, confirmation).await.expect("settled");
        let exceptions = report.into_exceptions();
        assert!(exceptions.is_empty(), "{exceptions:?}");
    }

    pub(crate) fn settler(&self) -> &Arc<dyn Settler> {
        &self.settler
    }

    pub(crate) async fn extend(&self, tokens: &[Token]) -> Vec<usize> {
        self.settler.extend(tokens).await.expect("extended").lost
    }

    /// Stops, releases what still comes, and returns how much that was.
    pub(crate) async fn stop(mut self) -> usize {
        self.driver.stop();
        let (mut released, mut quiet, mut left) = (0, false, Vec::new());
        loop {
            let mut out = Vec::new();
            let credit = Credit::new(usize::MAX, usize::MAX);
            let polled = poll_fn(|cx| self.driver.poll_batch(cx, &mut out, credit)).await;
            self.unsettled += out.len();
            left.extend(out);
            let polled = polled.expect("a clean end");
            quiet |= matches!(polled, Polled::Quiet | Polled::Stopped);
            if quiet && !left.is_empty() {
                let parcels = left.iter().map(|r| (r, Verdict::Release(parcel(r))));
                self.settle(parcels).await;
                released += left.len();
                left.clear();
            }
            if matches!(polled, Polled::Stopped) {
                return released;
            }
        }
    }
}

pub(crate) fn parcel(received: &Received) -> Box<Parcel> {
    Box::new(Parcel::new(
        received.envelope.clone(),
        received.position,
        Arc::clone(&received.lane),
        received.attempt.count,
        None,
    ))
}

pub(crate) fn text(received: &Received) -> String {
    String::from_utf8_lossy(received.envelope.payload()).into_owned()
}
