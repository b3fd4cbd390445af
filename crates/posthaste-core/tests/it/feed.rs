//! A subscription that does what a test tells it: it delivers what is pushed, records what is
//! settled, and fails, hangs or panics on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::*;
use posthaste_core::*;
use tokio::time::Instant;

use crate::stub::StubAdmin;

/// What a call of `settle` or `extend` does. Without a step it succeeds.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Fail(ErrorKind),
    /// Takes so long, then succeeds.
    Take(Duration),
    Hang,
    Panic,
    /// These entries fail, by index.
    FailSome(Vec<usize>),
    /// These leases are lost, by index.
    Lost(Vec<usize>),
}

/// What was said of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Ack,
    Release,
    Requeue,
    After(Duration),
    DeadLetter(Reason),
}

#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) capabilities: Mutex<Arc<Capabilities>>,
    pub(crate) admin: StubAdmin,
    pub(crate) lease: Duration,
    pub(crate) differences: Mutex<Vec<Difference>>,
    pub(crate) settles: Mutex<VecDeque<Step>>,
    pub(crate) extends: Mutex<VecDeque<Step>>,
    /// Whether `Broker::close` never ends.
    pub(crate) close_hangs: Mutex<bool>,
    /// What was settled, call by call.
    pub(crate) settled: Mutex<Vec<Vec<(String, Said)>>>,
    /// The ids whose leases were prolonged, call by call.
    pub(crate) extended: Mutex<Vec<Vec<String>>>,
    pub(crate) last_extended: Mutex<Option<Instant>>,
    state: Mutex<State>,
    settling: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Item>,
    ids: Vec<String>,
    waker: Option<Waker>,
    stopped: bool,
    /// Whether a stopped driver ends; else it stays pending.
    lingers: bool,
    polls: usize,
    credits: Vec<Credit>,
}

#[derive(Debug)]
enum Item {
    Batch(Vec<Received>),
    Event(DriverEvent),
    Error(Error),
    Quiet,
    Panic,
}

impl Feed {
    pub(crate) fn new(layout: Layout) -> Arc<Self> {
        Self::with_lease(layout, Duration::from_secs(30))
    }

    pub(crate) fn with_lease(layout: Layout, lease: Duration) -> Arc<Self> {
        Arc::new(Self {
            capabilities: Mutex::new(Arc::new(Capabilities::all("feed"))),
            admin: StubAdmin::new(layout),
            lease,
            differences: Mutex::default(),
            settles: Mutex::default(),
            extends: Mutex::default(),
            close_hangs: Mutex::default(),
            settled: Mutex::default(),
            extended: Mutex::default(),
            last_extended: Mutex::default(),
            state: Mutex::default(),
            settling: tokio::sync::Notify::new(),
        })
    }

    pub(crate) fn bus(self: &Arc<Self>) -> Bus {
        self.builder().build().unwrap()
    }

    pub(crate) fn builder(self: &Arc<Self>) -> BusBuilder {
        Bus::shared(Arc::new(Fed(Arc::clone(self)))).source("/test")
    }

    pub(crate) async fn inbox(self: &Arc<Self>) -> Subscription {
        self.bus().subscribe("orders").group("billing").start().await.unwrap()
    }

    pub(crate) async fn ordered(self: &Arc<Self>) -> Subscription {
        let inbox = self.bus().subscribe("orders").group("billing").order(Order::PerKey);
        inbox.start().await.unwrap()
    }

    /// Delivers these in one batch, in a lane of its own. `a1` has the key `a`; an id without a
    /// digit has none.
    pub(crate) fn send<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Arc<Lane> {
        self.send_as("orders", ids, |_| {})
    }

    pub(crate) fn send_as<'a>(
        &self,
        topic: &str,
        ids: impl IntoIterator<Item = &'a str>,
        change: impl Fn(&mut Received),
    ) -> Arc<Lane> {
        let lane = Arc::new(Lane::new(TopicName::new(topic).unwrap(), None));
        self.send_in(&lane, ids, change);
        lane
    }

    pub(crate) fn send_in<'a>(
        &self,
        lane: &Arc<Lane>,
        ids: impl IntoIterator<Item = &'a str>,
        change: impl Fn(&mut Received),
    ) {
        let mut state = self.state.lock().unwrap();
        let mut batch = Vec::new();
        for id in ids {
            let token = Token::sequence(0, 0, state.ids.len() as u64);
            state.ids.push(id.to_owned());
            let mut received = Received::new(envelope(id), token, Arc::clone(lane));
            change(&mut received);
            batch.push(received);
        }
        state.queue.push_back(Item::Batch(batch));
        wake(state);
    }

    pub(crate) fn event(&self, event: DriverEvent) {
        self.push(Item::Event(event));
    }

    /// Ends the stream.
    pub(crate) fn fail(&self, error: Error) {
        self.push(Item::Error(error));
    }

    /// What was asked for before the stop is answered.
    pub(crate) fn quiet(&self) {
        self.push(Item::Quiet);
    }

    pub(crate) fn panic(&self) {
        self.push(Item::Panic);
    }

    /// A stopped driver stays pending from now on.
    pub(crate) fn linger(&self) {
        self.state.lock().unwrap().lingers = true;
    }

    pub(crate) fn polls(&self) -> usize {
        self.state.lock().unwrap().polls
    }

    /// The credit of each poll.
    pub(crate) fn credits(&self) -> Vec<Credit> {
        self.state.lock().unwrap().credits.clone()
    }

    fn push(&self, item: Item) {
        let mut state = self.state.lock().unwrap();
        state.queue.push_back(item);
        wake(state);
    }

    /// Everything that was settled, in order.
    pub(crate) fn said(&self) -> Vec<(String, Said)> {
        self.settled.lock().unwrap().concat()
    }

    pub(crate) fn said_of(&self, id: &str) -> Vec<Said> {
        self.said().into_iter().filter(|(of, _)| of == id).map(|(_, said)| said).collect()
    }

    /// Waits until so many entries were given to `settle`.
    pub(crate) async fn until_said(&self, count: usize) -> Vec<(String, Said)> {
        let said = async {
            loop {
                let changed = self.settling.notified();
                if self.said().len() >= count {
                    return self.said();
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(100), said)
            .await
            .unwrap_or_else(|_| panic!("only settled: {:?}", self.said()))
    }

    fn ids(&self, tokens: impl Iterator<Item = u64>) -> Vec<String> {
        let state = self.state.lock().unwrap();
        tokens.map(|sequence| state.ids[usize::try_from(sequence).unwrap()].clone()).collect()
    }

    async fn step(&self, steps: &Mutex<VecDeque<Step>>) -> Result<(Vec<usize>, Vec<usize>)> {
        let step = steps.lock().unwrap().pop_front();
        match step {
            None => {}
            Some(Step::Fail(kind)) => return Err(Error::new(kind, "as the feed says")),
            Some(Step::Take(time)) => tokio::time::sleep(time).await,
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Panic) => panic!("as the feed says"),
            Some(Step::FailSome(some)) => return Ok((some, Vec::new())),
            Some(Step::Lost(some)) => return Ok((Vec::new(), some)),
        }
        Ok((Vec::new(), Vec::new()))
    }
}

fn wake(mut state: std::sync::MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

fn envelope(id: &str) -> Envelope {
    let mut builder = Envelope::builder("test.sent").source("/test").id(id.to_owned());
    if id.bytes().any(|byte| byte.is_ascii_digit()) {
        builder = builder.key(id[..1].to_owned());
    }
    builder.payload("x").build().unwrap()
}

#[derive(Debug)]
struct Driver(Arc<Feed>);

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let mut state = self.0.state.lock().unwrap();
        state.polls += 1;
        state.credits.push(credit);
        match state.queue.pop_front() {
            Some(Item::Batch(mut batch)) => {
                let rest = batch.split_off(batch.len().min(credit.messages));
                if !rest.is_empty() {
                    state.queue.push_front(Item::Batch(rest));
                }
                out.append(&mut batch);
                Poll::Ready(Ok(Polled::Batch))
            }
            Some(Item::Event(event)) => Poll::Ready(Ok(Polled::Event(event))),
            Some(Item::Quiet) => Poll::Ready(Ok(Polled::Quiet)),
            Some(Item::Error(error)) => Poll::Ready(Err(error)),
            Some(Item::Panic) => {
                drop(state);
                panic!("as the feed says")
            }
            None if state.stopped && !state.lingers => Poll::Ready(Ok(Polled::Stopped)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn stop(&mut self) {
        let mut state = self.0.state.lock().unwrap();
        state.stopped = true;
        wake(state);
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Fed(Arc::clone(&self.0)))
    }
}

#[derive(Debug)]
pub(crate) struct Fed(Arc<Feed>);

#[async_trait]
impl Settler for Fed {
    async fn settle(&self, batch: &[Settlement], _: Confirmation) -> Result<SettleReport> {
        let said = batch.iter().map(|settlement| match &settlement.verdict {
            Verdict::Ack => Said::Ack,
            Verdict::Release(_) => Said::Release,
            Verdict::Requeue(_) => Said::Requeue,
            Verdict::After(delay, _) => Said::After(*delay),
            Verdict::DeadLetter(letter) => Said::DeadLetter(letter.reason.clone()),
            other => panic!("a verdict that no test knows: {other:?}"),
        });
        let ids = self.0.ids(batch.iter().map(|settlement| settlement.token.sequence));
        self.0.settled.lock().unwrap().push(ids.into_iter().zip(said).collect());
        self.0.settling.notify_waiters();
        let (failed, lost) = self.0.step(&self.0.settles).await?;
        let mut report = SettleReport::done();
        for index in failed {
            let error = Error::new(ErrorKind::Connection, "as the feed says");
            report.except(index, SettleOutcome::Failed(error));
        }
        lost.into_iter().for_each(|index| report.except(index, SettleOutcome::LeaseLost));
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        let ids = self.0.ids(tokens.iter().map(|token| token.sequence));
        self.0.extended.lock().unwrap().push(ids);
        *self.0.last_extended.lock().unwrap() = Some(Instant::now());
        let (_, lost) = self.0.step(&self.0.extends).await?;
        Ok(Extended::except(lost))
    }
}

#[async_trait]
impl Publish for Fed {
    async fn publish(
        &self,
        _: &Destination,
        batch: &mut [Envelope],
        _: &SendOptions,
    ) -> Result<Outcomes> {
        Ok((0..batch.len()).map(|at| Ok(Stored::at(at as u64))).collect())
    }
}

#[async_trait]
impl Broker for Fed {
    fn capabilities(&self, _: Option<&TopicName>) -> Arc<Capabilities> {
        Arc::clone(&self.0.capabilities.lock().unwrap())
    }

    async fn subscribe(&self, _: SubscribeRequest) -> Result<Subscribed> {
        let mut subscribed = Subscribed::new(Box::new(Driver(Arc::clone(&self.0))), self.0.lease);
        subscribed.differences = std::mem::take(&mut *self.0.differences.lock().unwrap());
        Ok(subscribed)
    }

    fn admin(&self) -> &dyn posthaste_core::broker::Admin {
        &self.0.admin
    }

    async fn health(&self) -> Result<Health> {
        Ok(Health::Live)
    }

    async fn close(&self, _: Instant) -> Result<()> {
        if *self.0.close_hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}
