//! A member of a group at the adapter's own contract, without core above it.
//!
//! Core refuses most mistakes before an adapter sees them. Cases that ask what the adapter does
//! with a stale token, a dead member or a credit hold the driver themselves.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use posthaste_core::broker::{
    Confirmation, Credit, Destination, Extended, Parcel, Polled, Received, SettleOutcome,
    Settlement, Settler, SubscribeRequest, SubscriptionDriver, Verdict,
};
use posthaste_core::{
    Broker, Difference, GroupName, Layout, Result, TopicName, TopicSpec, Topology,
};
use tokio::time::{Instant, timeout_at};

use crate::failure::{Failed, Outcome, ensure};

/// Credit beyond what is waited for.
const SPARE: usize = 50;
/// More bytes than any case has.
const PLENTY: usize = 1 << 30;

/// A member that polls and settles by hand. Dropping it is its death: it settles nothing.
#[derive(Debug)]
pub(crate) struct Member {
    driver: Box<dyn SubscriptionDriver>,
    settler: Arc<dyn Settler>,
    arrived: VecDeque<Received>,
    lease: Duration,
    differences: Vec<Difference>,
}

impl Member {
    /// Joins with the request as it is.
    pub(crate) async fn join(broker: &dyn Broker, request: SubscribeRequest) -> Result<Self> {
        let subscribed = broker.subscribe(request).await?;
        let settler = subscribed.driver.settler();
        Ok(Self {
            settler,
            driver: subscribed.driver,
            arrived: VecDeque::new(),
            lease: subscribed.lease,
            differences: subscribed.differences,
        })
    }

    /// The lease that is in force.
    pub(crate) const fn lease(&self) -> Duration {
        self.lease
    }

    /// What of the group differs from the request.
    pub(crate) fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// The way back for verdicts.
    pub(crate) fn settler(&self) -> &Arc<dyn Settler> {
        &self.settler
    }

    /// The next message, with a credit of so many messages for what is fetched.
    pub(crate) async fn next(&mut self, credit: usize, within: Duration) -> Outcome<Received> {
        let end = Instant::now() + within;
        self.fetch(credit, end).await?;
        self.arrived.pop_front().ok_or_else(|| Failed::new(format!("no message within {within:?}")))
    }

    /// So many messages, where there are no more. The credit is larger, because an adapter with
    /// several sources divides it, and a lease runs on while the last one is waited for.
    pub(crate) async fn take(&mut self, count: usize, within: Duration) -> Outcome<Vec<Received>> {
        self.take_with(SPARE, count, within).await
    }

    /// So many messages, with no more credit than that.
    pub(crate) async fn take_exactly(
        &mut self,
        count: usize,
        within: Duration,
    ) -> Outcome<Vec<Received>> {
        self.take_with(0, count, within).await
    }

    async fn take_with(
        &mut self,
        spare: usize,
        count: usize,
        within: Duration,
    ) -> Outcome<Vec<Received>> {
        let end = Instant::now() + within;
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            self.fetch(spare + count - taken.len(), end).await?;
            match self.arrived.pop_front() {
                Some(received) => taken.push(received),
                None => {
                    let got = taken.len();
                    return Err(Failed::new(format!("{got} of {count} messages in {within:?}")));
                }
            }
        }
        Ok(taken)
    }

    /// So many messages, each acknowledged as it comes: whatever a lease is, it is long enough.
    pub(crate) async fn handle(
        &mut self,
        count: usize,
        within: Duration,
    ) -> Outcome<Vec<Received>> {
        let end = Instant::now() + within;
        let mut handled = Vec::with_capacity(count);
        while handled.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            let next = self.next(SPARE, left).await;
            let received = next.map_err(|failed| {
                let got = handled.len();
                failed.saying(format!("{got} of {count} messages in {within:?}"))
            })?;
            self.ack(&received).await?;
            handled.push(received);
        }
        Ok(handled)
    }

    /// Whatever arrives within that time, which may be nothing.
    pub(crate) async fn listen(
        &mut self,
        credit: usize,
        quiet: Duration,
    ) -> Outcome<Vec<Received>> {
        let end = Instant::now() + quiet;
        let mut heard = Vec::new();
        while heard.len() < credit {
            self.fetch(credit - heard.len(), end).await?;
            match self.arrived.pop_front() {
                Some(received) => heard.push(received),
                None => break,
            }
        }
        Ok(heard)
    }

    /// Polls until something has arrived or the time is over.
    async fn fetch(&mut self, credit: usize, end: Instant) -> Outcome {
        let credit = Credit::new(credit, PLENTY);
        while self.arrived.is_empty() {
            let mut out = Vec::new();
            let polled =
                timeout_at(end, poll_fn(|cx| self.driver.poll_batch(cx, &mut out, credit))).await;
            ensure!(
                out.len() <= credit.messages,
                "{} messages were appended for a credit of {}",
                out.len(),
                credit.messages
            );
            self.arrived.extend(out);
            match polled {
                Err(_) => return Ok(()),
                Ok(Ok(Polled::Stopped)) => return Err(Failed::new("the driver stopped by itself")),
                Ok(polled) => {
                    polled?;
                }
            }
        }
        Ok(())
    }

    /// One poll with a credit: how many messages it appended at once.
    pub(crate) async fn poll_once(&mut self, credit: usize) -> Outcome<usize> {
        let mut out = Vec::new();
        let credit = Credit::new(credit, PLENTY);
        let polled = poll_fn(|cx| {
            Poll::Ready(match self.driver.poll_batch(cx, &mut out, credit) {
                Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
                Poll::Ready(Err(error)) => Err(error),
            })
        });
        polled.await?;
        let count = out.len();
        self.arrived.extend(out);
        Ok(count)
    }

    /// Stops, and polls to the end. What still arrives is released, as core does it.
    pub(crate) async fn stop(&mut self, within: Duration) -> Outcome {
        self.driver.stop();
        self.driver.stop(); // idempotent
        let end = Instant::now() + within;
        let all = Credit::new(usize::MAX, usize::MAX);
        let mut quiet = false;
        loop {
            let mut out = Vec::new();
            let polled =
                timeout_at(end, poll_fn(|cx| self.driver.poll_batch(cx, &mut out, all))).await;
            self.arrived.extend(out);
            let Ok(polled) = polled else {
                return Err(Failed::new(format!("no end of the driver in {within:?}")));
            };
            let polled = polled?;
            quiet |= matches!(polled, Polled::Quiet | Polled::Stopped);
            if quiet {
                for received in std::mem::take(&mut self.arrived) {
                    settle(&*self.settler, &received, release(&received)).await?;
                }
            }
            if matches!(polled, Polled::Stopped) {
                return Ok(());
            }
        }
    }

    // The futures below hold the settler and not the member: a driver is not `Sync`.

    /// Settles one, and waits for the broker. `None` is done.
    pub(crate) fn settle(
        &self,
        received: &Received,
        verdict: Verdict,
    ) -> impl Future<Output = Outcome<Option<SettleOutcome>>> + Send {
        let settler = Arc::clone(&self.settler);
        async move { settle(&*settler, received, verdict).await }
    }

    /// Acknowledges one, and waits for the broker.
    pub(crate) fn ack(&self, received: &Received) -> impl Future<Output = Outcome> + Send {
        let settled = self.settle(received, Verdict::Ack);
        async move {
            match settled.await? {
                None => Ok(()),
                Some(other) => {
                    Err(Failed::new(format!("an acknowledgement was not done: {other:?}")))
                }
            }
        }
    }

    /// Prolongs the leases.
    pub(crate) fn extend(
        &self,
        received: &[&Received],
    ) -> impl Future<Output = Result<Extended>> + Send + use<> {
        let tokens: Vec<_> = received.iter().map(|received| received.token.clone()).collect();
        let settler = Arc::clone(&self.settler);
        async move { settler.extend(&tokens).await }
    }
}

async fn settle(
    settler: &dyn Settler,
    received: &Received,
    verdict: Verdict,
) -> Outcome<Option<SettleOutcome>> {
    let settlement = Settlement::new(received.token.clone(), verdict);
    let report = settler.settle(&[settlement], Confirmation::Broker).await?;
    Ok(report.into_exceptions().pop().map(|(_, outcome)| outcome))
}

/// The parcel of a received message.
pub(crate) fn parcel(received: &Received) -> Box<Parcel> {
    Box::new(Parcel::new(
        received.envelope.clone(),
        received.position,
        Arc::clone(&received.lane),
        received.attempt.count,
        None,
    ))
}

/// The verdict that gives it back.
pub(crate) fn release(received: &Received) -> Verdict {
    Verdict::Release(parcel(received))
}

/// A request of a member with this lease.
pub(crate) fn request(
    topic: &TopicName,
    group: &GroupName,
    member: &str,
    lease: Duration,
) -> SubscribeRequest {
    let mut request =
        SubscribeRequest::new(vec![topic.clone()], Some(group.clone()), member.to_owned());
    request.lease = lease;
    request
}

/// Creates the topic by the adapter's own call, and says where it is. Without groups: a group
/// keeps the lease that it was created with, so the first member brings it about.
pub(crate) async fn create(
    broker: &dyn Broker,
    topic: &TopicName,
    layout: Layout,
) -> Result<Destination> {
    let mut spec = TopicSpec::plain(topic.clone());
    spec.layout = layout;
    broker.admin().ensure(&spec, Topology::Create).await?;
    Ok(Destination::new(topic.clone(), layout, false))
}
