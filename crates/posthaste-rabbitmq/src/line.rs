//! What the parts of one subscription share: its channel, the books of it, and the task that ends
//! leases and closes the channel.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::{MaybeDone, join_all, maybe_done};
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions};
use lapin::{Channel, Consumer};
use posthaste_core::broker::{Lane, Token};
use posthaste_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::book::Book;
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::subscribe::Plan;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The way of one subscription to the broker.
pub(crate) struct Line {
    pub(crate) hub: Arc<Hub>,
    pub(crate) plan: Plan,
    state: Mutex<State>,
    retiring: Notify,
}

#[derive(Default)]
struct State {
    /// Which life of the channel: tokens of an earlier one are stale.
    generation: u32,
    channel: Option<Channel>,
    consumers: Vec<Consumer>,
    /// What the task has still to close.
    retired: Vec<Retired>,
    book: Book,
    lanes: Vec<Arc<Lane>>,
    /// Of ordered lanes nothing is given back before the channel closes.
    stopping: bool,
}

/// A channel that nobody uses any more, with its consumers. They are kept until it is closed: the
/// client cancels a consumer that is dropped. Then the next member of an ordered lane would begin,
/// and an answer that meets a closing channel would cost the connection.
type Retired = (Channel, Vec<Consumer>);

/// A frame that settles one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Ack,
    /// Given back without fault.
    Release,
    /// Given back as failed.
    Requeue,
}

type Frame = Pin<Box<MaybeDone<Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>>>>;

impl Line {
    pub(crate) fn new(hub: Arc<Hub>, plan: Plan) -> Self {
        Self { hub, plan, state: Mutex::default(), retiring: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new channel is there. Returns its generation, for tokens.
    pub(crate) fn open(
        &self,
        channel: &Channel,
        consumers: Vec<Consumer>,
        lanes: Vec<Arc<Lane>>,
    ) -> u32 {
        let mut state = self.state();
        state.generation = state.generation.wrapping_add(1);
        state.channel = Some(channel.clone());
        state.consumers = consumers;
        state.book = Book::default();
        state.lanes = lanes;
        state.generation
    }

    /// The channel is gone: what was out is somebody else's.
    pub(crate) fn lose(&self, generation: u32) {
        let mut state = self.state();
        if state.generation == generation {
            let consumers = std::mem::take(&mut state.consumers);
            if let Some(channel) = state.channel.take() {
                state.retired.push((channel, consumers));
            }
            state.book = Book::default();
            state.lanes.drain(..).for_each(|lane| lane.lose());
            self.retiring.notify_one();
        }
    }

    /// The task closes the channel in good order.
    pub(crate) fn retire(&self, channel: Channel, consumers: Vec<Consumer>) {
        self.state().retired.push((channel, consumers));
        self.retiring.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state().stopping = true;
    }

    /// Deliveries are handed out.
    pub(crate) fn arrive(&self, tags: impl Iterator<Item = u64>, generation: u32) {
        let until = Instant::now() + self.plan.lease;
        let mut state = self.state();
        if state.generation == generation {
            tags.for_each(|tag| state.book.arrive(tag, until));
        }
    }

    /// Whether the delivery is out and ours.
    pub(crate) fn is_ours(&self, token: &Token) -> bool {
        self.state().is_ours(token)
    }

    /// Prolongs a lease. `false` if it is lost.
    pub(crate) fn prolong(&self, token: &Token, until: Instant) -> bool {
        let mut state = self.state();
        state.is_ours(token) && state.book.prolong(token.sequence, until)
    }

    /// Settles deliveries: marks them, and brings the frames on their way in an order in which one
    /// acknowledgement for many covers none that was given back.
    ///
    /// # Errors
    /// `Connection` if the channel is gone: all come again.
    pub(crate) async fn tell(&self, mut told: Vec<(u64, Told)>, generation: u32) -> Result<()> {
        if told.is_empty() {
            return Ok(());
        }
        told.sort_unstable_by_key(|(tag, _)| *tag);
        let mut frames: Vec<Frame> = Vec::new();
        {
            let mut state = self.state();
            if state.generation != generation {
                return Err(gone());
            }
            let ordered = self.plan.is_ordered() && state.stopping;
            let Some(channel) = state.channel.clone() else { return Err(gone()) };
            // What a closing channel gives back stays where it is in the books.
            told.retain(|(tag, how)| !(ordered && *how != Told::Ack) && state.book.settle(*tag));
            for (tag, how) in &told {
                match how {
                    Told::Ack => {}
                    Told::Release => {
                        let options = BasicNackOptions { multiple: false, requeue: true };
                        frames.push(frame(&channel, *tag, |channel, tag| async move {
                            channel.basic_nack(tag, options).await
                        }));
                    }
                    Told::Requeue => {
                        let options = BasicRejectOptions { requeue: true };
                        frames.push(frame(&channel, *tag, |channel, tag| async move {
                            channel.basic_reject(tag, options).await
                        }));
                    }
                }
            }
            let floor = state.book.floor();
            let acks = || told.iter().filter(|(_, how)| *how == Told::Ack).map(|(tag, _)| *tag);
            // It has to be one that the broker still knows.
            let all = acks().filter(|tag| *tag <= floor).max();
            for (tag, multiple) in all
                .map(|tag| (tag, true))
                .into_iter()
                .chain(acks().filter(|tag| *tag > floor).map(|tag| (tag, false)))
            {
                frames.push(frame(&channel, tag, |channel, tag| async move {
                    channel.basic_ack(tag, BasicAckOptions { multiple }).await
                }));
            }
            // A frame is queued by the first poll. All of them are before the lock goes.
            let mut nobody = Context::from_waker(Waker::noop());
            for frame in &mut frames {
                let _ = frame.as_mut().poll(&mut nobody);
            }
        }
        let written = async {
            join_all(frames.iter_mut().map(Pin::as_mut)).await;
            let mut outcomes = frames.iter_mut().filter_map(|frame| frame.as_mut().take_output());
            outcomes.find_map(lapin::Result::err)
        };
        match tokio::time::timeout_at(self.hub.until(), written).await {
            Ok(None) => Ok(()),
            Ok(Some(native)) => Err(error::native(native)),
            Err(_) => {
                self.hub.consume.suspect();
                Err(error::timed_out("settlements"))
            }
        }
    }

    /// A round trip behind what was told.
    ///
    /// # Errors
    /// `Connection` if the channel is gone.
    pub(crate) async fn barrier(&self, generation: u32) -> Result<()> {
        let channel = {
            let state = self.state();
            state.channel.clone().filter(|_| state.generation == generation)
        };
        let Some(channel) = channel else { return Err(gone()) };
        // It says nothing new; it is for consumers that are to come.
        let asked = channel.basic_qos(1, BasicQosOptions::default());
        self.hub.consume.answer(self.hub.until(), "a barrier", asked).await
    }

    /// Ends leases, until the subscription has ended; then closes its channel.
    pub(crate) async fn keep(self: Arc<Self>, ended: CancellationToken) {
        let keeping = async {
            loop {
                // Nothing that comes from now on ends sooner than that.
                let lease = Instant::now() + self.plan.lease;
                let next = self.state().book.next_end().unwrap_or(lease).min(lease);
                tokio::select! {
                    () = tokio::time::sleep_until(next) => self.end_leases().await,
                    () = self.retiring.notified() => self.close_retired().await,
                }
            }
        };
        let closing = self.hub.closing();
        tokio::select! {
            () = ended.cancelled() => {}
            () = closing.cancelled() => {}
            () = keeping => {}
        }
        self.lose_now();
        self.close_retired().await;
    }

    async fn end_leases(&self) {
        let (over, generation) = {
            let state = self.state();
            (state.book.ended(Instant::now()), state.generation)
        };
        if over.is_empty() {
            return;
        }
        if self.plan.is_ordered() {
            // What follows must come again behind it: everything goes back at once.
            return self.lose_now();
        }
        let told = over.into_iter().map(|tag| (tag, Told::Requeue)).collect();
        if let Err(error) = self.tell(told, generation).await {
            tracing::debug!(%error, "messages whose lease ended were not given back");
        }
    }

    fn lose_now(&self) {
        let generation = self.state().generation;
        self.lose(generation);
    }

    /// Closes channels: the broker takes back what is out, in its order.
    async fn close_retired(&self) {
        let retired = std::mem::take(&mut self.state().retired);
        for (channel, consumers) in retired {
            if channel.status().connected() {
                let closing = channel.close(200, "done".into());
                drop(tokio::time::timeout(GOODBYE, closing).await);
            }
            drop(consumers);
        }
    }
}

impl State {
    fn is_ours(&self, token: &Token) -> bool {
        token.generation == self.generation
            && self.channel.is_some()
            && self.book.is_out(token.sequence)
    }
}

fn frame<F>(channel: &Channel, tag: u64, call: impl FnOnce(Channel, u64) -> F) -> Frame
where
    F: Future<Output = lapin::Result<()>> + Send + 'static,
{
    let call: Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>> =
        Box::pin(call(channel.clone(), tag));
    Box::pin(maybe_done(call))
}

#[cold]
fn gone() -> Error {
    Error::new(ErrorKind::Connection, "the channel of the delivery is gone").with_broker(BROKER)
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Line")
            .field("generation", &state.generation)
            .field("open", &state.channel.is_some())
            .field("stopping", &state.stopping)
            .finish_non_exhaustive()
    }
}
