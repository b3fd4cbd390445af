//! What the tests share: a topic, a publisher's side, and a driver polled by hand.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use posthaste_core::broker::{
    Broker, Confirmation, Credit, Destination, DriverEvent, Parcel, Polled, Publish, Received,
    SendOptions, SettleOutcome, Settlement, Settler, Start, Stored, SubscribeRequest, Subscribed,
    SubscriptionDriver, Verdict,
};
use posthaste_core::{
    Cause, DeadLetter, Envelope, ErrorKind, GroupName, Reason, Result, TopicConfig, TopicName,
    Topology,
};
use posthaste_memory::MemoryBroker;

pub(crate) const TOPIC: &str = "orders";
pub(crate) const GROUP: &str = "billing";

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn topic_name() -> TopicName {
    TopicName::new(TOPIC).unwrap()
}

pub(crate) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

pub(crate) fn message(id: impl std::fmt::Display + Copy) -> Envelope {
    let id = id.to_string();
    Envelope::builder("test").source("/t").id(&id).payload(id.clone()).build().unwrap()
}

pub(crate) fn keyed(id: impl std::fmt::Display + Copy, key: &str) -> Envelope {
    let id = id.to_string();
    let key = key.as_bytes().to_vec();
    Envelope::builder("test").source("/t").id(&id).key(key).payload(id.clone()).build().unwrap()
}

/// Creates the topic.
pub(crate) async fn ensure(broker: &MemoryBroker, config: TopicConfig) -> Destination {
    let spec = config.check().unwrap();
    let info = broker.admin().ensure(&spec, Topology::Create).await.unwrap();
    Destination::new(info.name, info.layout, info.queue)
}

/// A plain topic with the group.
pub(crate) async fn plain(broker: &MemoryBroker) -> Destination {
    ensure(broker, TopicConfig::new(TOPIC).group(GROUP)).await
}

pub(crate) async fn send(
    broker: &MemoryBroker,
    to: &Destination,
    batch: impl IntoIterator<Item = Envelope>,
) -> Vec<Result<Stored>> {
    send_with(broker, to, batch, SendOptions::default()).await
}

pub(crate) async fn send_with(
    broker: &MemoryBroker,
    to: &Destination,
    batch: impl IntoIterator<Item = Envelope>,
    options: SendOptions,
) -> Vec<Result<Stored>> {
    let mut batch: Vec<_> = batch.into_iter().collect();
    let outcomes = broker.publish(to, &mut batch, &options).await.unwrap();
    assert_eq!(outcomes.len(), batch.len(), "one outcome for each entry");
    outcomes.into_iter().collect()
}

/// Publishes messages with these ids, each of which must be confirmed.
pub(crate) async fn put(
    broker: &MemoryBroker,
    to: &Destination,
    ids: impl IntoIterator<Item = impl std::fmt::Display + Copy>,
) {
    for outcome in send(broker, to, ids.into_iter().map(message)).await {
        outcome.unwrap();
    }
}

pub(crate) fn request(group: Option<&str>) -> SubscribeRequest {
    SubscribeRequest::new(vec![topic_name()], group.map(group_name), "member".to_owned())
}

pub(crate) fn start_at(group: Option<&str>, start: Start) -> SubscribeRequest {
    let mut request = request(group);
    request.start = start;
    request
}

/// A subscription, as core would hold it.
#[derive(Debug)]
pub(crate) struct Sub {
    pub(crate) driver: Box<dyn SubscriptionDriver>,
    pub(crate) settler: Arc<dyn Settler>,
    pub(crate) events: Vec<DriverEvent>,
    pub(crate) stopped: bool,
}

impl Sub {
    pub(crate) async fn start(broker: &MemoryBroker, request: SubscribeRequest) -> Self {
        Self::of(broker.subscribe(request).await.unwrap())
    }

    pub(crate) async fn group(broker: &MemoryBroker) -> Self {
        Self::start(broker, request(Some(GROUP))).await
    }

    pub(crate) async fn member(broker: &MemoryBroker, name: &str) -> Self {
        let mut request = request(Some(GROUP));
        request.member = name.to_owned();
        Self::start(broker, request).await
    }

    pub(crate) fn of(subscribed: Subscribed) -> Self {
        let settler = subscribed.driver.settler();
        Self { driver: subscribed.driver, settler, events: Vec::new(), stopped: false }
    }

    /// One poll with that waker.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<(Vec<Received>, Polled)>> {
        let mut out = Vec::new();
        let polled = self.driver.poll_batch(cx, &mut out, Credit::new(max, usize::MAX));
        polled.map(|polled| polled.map(|polled| (out, polled)))
    }

    /// The next batch, and the events before it aside.
    pub(crate) async fn next(&mut self, max: usize) -> Result<Vec<Received>> {
        loop {
            let (out, polled) = poll_fn(|cx| self.poll(cx, max)).await?;
            match polled {
                Polled::Batch => return Ok(out),
                Polled::Event(event) => self.events.push(event),
                _ => {
                    self.stopped = true;
                    return Ok(out);
                }
            }
        }
    }

    /// The next event; a batch before it is an error of the test.
    pub(crate) async fn event(&mut self) -> DriverEvent {
        match poll_fn(|cx| self.poll(cx, 1)).await.unwrap() {
            (_, Polled::Event(event)) => event,
            other => panic!("wanted an event, got {other:?}"),
        }
    }

    /// Everything that is there now, without waiting.
    pub(crate) fn ready(&mut self, max: usize) -> Vec<Received> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while all.len() < max {
            match self.poll(&mut cx, max - all.len()) {
                Poll::Pending => break,
                Poll::Ready(Ok((_, Polled::Event(event)))) => self.events.push(event),
                Poll::Ready(Ok((out, Polled::Batch))) => all.extend(out),
                Poll::Ready(Ok(_)) => {
                    self.stopped = true;
                    break;
                }
                Poll::Ready(Err(error)) => panic!("{error:?}"),
            }
        }
        all
    }

    /// The events that are there now, and no message: a credit of none.
    pub(crate) fn hear(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(polled) = self.poll(&mut cx, 0) {
            match polled.unwrap() {
                (_, Polled::Event(event)) => self.events.push(event),
                other => panic!("wanted events, got {other:?}"),
            }
        }
    }

    /// Exactly these many, which must come within an hour of virtual time.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::new();
        while all.len() < count {
            let next = tokio::time::timeout(secs(3_600), self.next(count - all.len())).await;
            all.extend(next.expect("it never came").unwrap());
            assert!(!self.stopped, "the subscription ended");
        }
        all
    }

    pub(crate) async fn settle(&self, settlement: Settlement) -> Option<SettleOutcome> {
        let batch = [settlement];
        let report = self.settler.settle(&batch, Confirmation::Broker).await.unwrap();
        report.into_exceptions().pop().map(|(_, outcome)| outcome)
    }

    pub(crate) async fn ack(&self, received: &Received) {
        let outcome = self.settle(Settlement::new(received.token.clone(), Verdict::Ack)).await;
        assert!(outcome.is_none(), "{outcome:?}");
    }

    pub(crate) async fn ack_all(&self, received: &[Received]) {
        let ack = |received: &Received| Settlement::new(received.token.clone(), Verdict::Ack);
        let batch: Vec<_> = received.iter().map(ack).collect();
        let report = self.settler.settle(&batch, Confirmation::Sent).await.unwrap();
        assert!(report.into_exceptions().is_empty());
    }
}

pub(crate) fn parcel(received: &Received) -> Box<Parcel> {
    Box::new(Parcel::new(
        received.envelope.clone(),
        received.position,
        Arc::clone(&received.lane),
        received.attempt.count,
        Some(Cause::new("the test says so")),
    ))
}

pub(crate) fn release(received: &Received) -> Settlement {
    Settlement::new(received.token.clone(), Verdict::Release(parcel(received)))
}

pub(crate) fn requeue(received: &Received) -> Settlement {
    Settlement::new(received.token.clone(), Verdict::Requeue(parcel(received)))
}

pub(crate) fn after(received: &Received, delay: Duration) -> Settlement {
    Settlement::new(received.token.clone(), Verdict::After(delay, parcel(received)))
}

pub(crate) fn dead_letter(received: &Received) -> Settlement {
    let mut letter = DeadLetter::new(
        received.envelope.clone(),
        Reason::Rejected,
        topic_name(),
        group_name(GROUP),
    );
    letter.attempts = received.attempt.count;
    letter.first_failed_at = Some(letter.failed_at); // as far as this delivery knows
    letter.cause = Some(Cause::new("the test says so"));
    Settlement::new(received.token.clone(), Verdict::DeadLetter(Box::new(letter)))
}

pub(crate) fn is_lost(outcome: &Option<SettleOutcome>) -> bool {
    matches!(outcome, Some(SettleOutcome::LeaseLost))
}

pub(crate) fn ids(received: &[Received]) -> Vec<&str> {
    received.iter().map(|received| received.envelope.id()).collect()
}

pub(crate) fn kinds(outcomes: &[Result<Stored>]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.as_ref().err().map(posthaste_core::Error::kind)).collect()
}

/// Polls a future once.
pub(crate) fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Whether somebody was woken.
#[derive(Debug, Default)]
pub(crate) struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Sub {
    /// Finds nothing, and waits: the alarm tells when it would be polled again.
    pub(crate) fn wait(&mut self) -> Arc<Alarm> {
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(Arc::clone(&alarm));
        let polled = self.poll(&mut Context::from_waker(&waker), 9);
        assert!(polled.is_pending(), "there is something: {polled:?}");
        alarm.0.store(false, Ordering::SeqCst);
        alarm
    }
}

impl Alarm {
    pub(crate) fn rang(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
