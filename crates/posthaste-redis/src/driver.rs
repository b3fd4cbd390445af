//! The driver: polled by core, it does one step after the other: takes what comes again, sweeps
//! lanes that it was given, and reads what is new.
//!
//! The step that is under way is in here, so that a poll that is given up loses nothing.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use posthaste_core::broker::{
    Credit, DriverEvent, Extended, Polled, Received, Settler, SubscriptionDriver, Token,
};
use posthaste_core::{Error, ErrorKind, Result, Retry};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::connect::Connected;
use crate::error::{self, BROKER};
use crate::line::{Line, Out, Reading, State};
use crate::read::{self, Batch, Reader};
use crate::renew;
use crate::settle::RedisSettler;

/// The first pause after a step that failed, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How large messages are taken to be before one was seen: so that a first read is not far beyond
/// its bytes.
const UNKNOWN: usize = 16 << 10;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What is under way.
enum Step {
    Idle,
    /// A connection for reading, and what the last one left.
    Opening(Work<Result<Reader>>),
    Reading(Work<Result<Batch>>),
    /// By scripts.
    Taking(Work<Result<Batch>>),
    /// What came while nobody polled may be somebody else's by now.
    Checking(Work<Result<Extended>>, Vec<Received>),
    /// A topic or its group is made again.
    Renewing(Work<Result<()>>),
    Pausing(Work<()>),
}

pub(crate) struct Driver {
    line: Arc<Line>,
    settler: Arc<RedisSettler>,
    /// The task of the subscription ends with the driver.
    _ended: DropGuard,
    step: Step,
    reader: Option<Reader>,
    /// What was read and is not handed out yet.
    ready: VecDeque<Received>,
    /// Whether core was told that nothing comes any more.
    quiet: bool,
    disconnected: bool,
    pause: Duration,
    /// When it was polled last.
    polled: Instant,
    /// The mean size of messages, to bound a read by bytes.
    mean: usize,
    /// Counts reads.
    turn: usize,
}

impl Driver {
    pub(crate) fn new(line: Arc<Line>, connected: Connected, ended: DropGuard) -> Self {
        let reader = Reader::new(connected);
        Self {
            settler: Arc::new(RedisSettler::new(Arc::clone(&line))),
            line,
            _ended: ended,
            step: Step::Opening(Box::pin(read::identify(reader))),
            reader: None,
            ready: VecDeque::new(),
            quiet: false,
            disconnected: false,
            pause: PAUSE,
            polled: Instant::now(),
            mean: UNKNOWN,
            turn: 0,
        }
    }

    /// Begins what is next. `None` if there is nothing to do until somebody wakes it.
    fn begin(&mut self, cx: &Context<'_>, credit: Credit) -> Option<Step> {
        let line = Arc::clone(&self.line);
        let mut state = line.state();
        state.register(cx.waker());
        if state.gone {
            let renewing = renew::renew(Arc::clone(&self.line));
            return Some(Step::Renewing(Box::pin(renewing)));
        }
        let Some(reader) = &self.reader else {
            return Some(Step::Opening(Box::pin(renew::open(Arc::clone(&self.line)))));
        };
        let most = self.most(credit);
        if let Some((source, after)) = state.lanes.to_sweep() {
            state.taking = true;
            let sweeping = read::sweep(Arc::clone(&self.line), source, after, most);
            return Some(Step::Taking(Box::pin(sweeping)));
        }
        if state.take {
            (state.take, state.taking) = (false, true);
            return Some(Step::Taking(Box::pin(read::take(Arc::clone(&self.line), most))));
        }
        let mut sources: Vec<usize> = (0..line.sources.len())
            .filter(|source| !line.sources[*source].private && state.lanes.is_live(*source))
            .collect();
        if sources.is_empty() {
            return None;
        }
        // With little credit the first ones get it all.
        self.turn = self.turn.wrapping_add(1);
        let places = sources.len();
        sources.rotate_left(self.turn % places);
        let since = Instant::now();
        let number = reader.number;
        state.reading = Some(Reading { number, sources: sources.clone(), since, told: false });
        let reading = read::new(Arc::clone(&self.line), reader.clone(), sources, most);
        Some(Step::Reading(Box::pin(reading)))
    }

    /// How many messages may be asked for.
    fn most(&self, credit: Credit) -> usize {
        let by_bytes = credit.bytes.checked_div(self.mean).unwrap_or(credit.messages);
        credit.messages.min(by_bytes).clamp(1, 4_096)
    }

    /// Takes what a step brought.
    fn arrived(&mut self, batch: Batch, unwatched: Duration) {
        self.pause = PAUSE;
        self.reconnected();
        let mut state = self.line.state();
        state.take |= batch.more;
        for (topic, count) in batch.lost {
            state.tell(DriverEvent::Lost {
                topic: self.line.plan.topics[topic].topic.clone(),
                count: Some(count),
                reason: "removed from the stream before it was settled".to_owned(),
            });
        }
        drop(state);
        if batch.messages.is_empty() {
            return;
        }
        for received in &batch.messages {
            let size = received.envelope.size();
            self.mean = if self.mean == UNKNOWN { size } else { (self.mean * 7 + size) / 8 };
        }
        if unwatched * 4 > self.line.plan.lease && !self.line.settles_first() {
            let settler = Arc::clone(&self.settler);
            let tokens: Vec<Token> =
                batch.messages.iter().map(|received| received.token.clone()).collect();
            let checking = async move { settler.extend(&tokens).await };
            self.step = Step::Checking(Box::pin(checking), batch.messages);
            return;
        }
        self.note(batch.messages);
    }

    /// Books what is to be handed out.
    fn note(&mut self, messages: Vec<Received>) {
        if !self.line.settles_first() {
            let until = Instant::now() + self.line.plan.lease;
            let mut state = self.line.state();
            for received in &messages {
                let token = &received.token;
                let out = Out { count: token.generation, until };
                state.out.insert((token.lane, token.sequence), out);
            }
        }
        self.ready.extend(messages);
    }

    /// A step failed.
    fn failed(&mut self, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Closed {
            return Err(self.named(error));
        }
        if error::is_gone(&error) {
            self.line.state().gone = true;
            return Ok(());
        }
        let passes = error.retry() == Retry::Transient;
        if !passes {
            return Err(self.named(error));
        }
        if let Some(reader) = self.reader.take() {
            // What it may still get is given back when another one is there.
            reader.end();
        }
        if !std::mem::replace(&mut self.disconnected, true) {
            let reason = error.to_string();
            self.line.state().tell(DriverEvent::Disconnected { reason });
        }
        self.step = Step::Pausing(Box::pin(tokio::time::sleep(self.pause)));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    fn reconnected(&mut self) {
        if std::mem::take(&mut self.disconnected) {
            self.line.state().tell(DriverEvent::Reconnected);
        }
    }

    /// Polls what is under way. `Pending` if it has to be waited for.
    fn poll_step(&mut self, cx: &mut Context<'_>, unwatched: Duration) -> Poll<Result<()>> {
        let mut step = std::mem::replace(&mut self.step, Step::Idle);
        let done = match &mut step {
            Step::Idle => return Poll::Ready(Ok(())),
            Step::Opening(work) => work.as_mut().poll(cx).map(|opened| {
                opened.map(|reader| {
                    self.reader = Some(reader);
                    Batch::default()
                })
            }),
            Step::Reading(work) | Step::Taking(work) => work.as_mut().poll(cx),
            Step::Renewing(work) => work.as_mut().poll(cx).map(|renewed| {
                renewed.map(|()| {
                    self.line.state().gone = false;
                    Batch::default()
                })
            }),
            Step::Pausing(work) => {
                if work.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending
            }
            Step::Checking(work, messages) => match work.as_mut().poll(cx) {
                Poll::Ready(checked) => {
                    let messages = std::mem::take(messages);
                    self.note(still_ours(checked, messages));
                    self.line.state().arrived();
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => Poll::Pending,
            },
        };
        let Poll::Ready(done) = done else {
            self.step = step;
            return Poll::Pending;
        };
        let renewing = matches!(step, Step::Renewing(_));
        match done {
            Ok(batch) => {
                self.arrived(batch, unwatched);
                if !matches!(self.step, Step::Checking(..)) {
                    self.line.state().arrived();
                }
                Poll::Ready(Ok(()))
            }
            // It cannot be made again.
            Err(error) if renewing && error.retry() != Retry::Transient => {
                Poll::Ready(Err(self.named(error)))
            }
            Err(error) => {
                self.line.state().arrived();
                Poll::Ready(self.failed(error))
            }
        }
    }

    /// The end after a stop. The member goes at once, but where it has lanes when nothing is held:
    /// they must not be somebody else's before. A group without a name goes with the driver.
    fn poll_end(&mut self) -> Poll<Result<Polled>> {
        let plan = &self.line.plan;
        let lanes = plan.topics.iter().any(|planned| planned.lanes);
        if plan.group.is_none() {
            return Poll::Ready(Ok(Polled::Stopped));
        }
        if lanes && !std::mem::replace(&mut self.quiet, true) {
            return Poll::Ready(Ok(Polled::Quiet));
        }
        let mut state = self.line.state();
        if state.left {
            return Poll::Ready(Ok(Polled::Stopped));
        }
        let may = !lanes || state.out.is_empty();
        if may && !std::mem::replace(&mut state.leaving, true) {
            self.line.changed.notify_one();
        }
        Poll::Pending
    }

    /// Names what the error is about.
    #[cold]
    fn named(&self, error: Error) -> Error {
        let error = error.with_broker(BROKER);
        let error = match self.line.plan.topics.first() {
            Some(planned) => error.with_topic(&planned.topic),
            None => error,
        };
        match &self.line.plan.group {
            Some(group) => error.with_group(group),
            None => error,
        }
    }
}

/// What is left of a batch after its leases were looked at.
fn still_ours(checked: Result<Extended>, messages: Vec<Received>) -> Vec<Received> {
    match checked {
        Ok(extended) => {
            let all = messages.into_iter().enumerate();
            let kept = all.filter(|(index, _)| !extended.lost.contains(index));
            kept.map(|(_, received)| received).collect()
        }
        // They come again when their leases have ended.
        Err(_) => Vec::new(),
    }
}

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let unwatched = self.polled.elapsed();
        self.polled = Instant::now();
        loop {
            let stopping = {
                let mut state = self.line.state();
                state.register(cx.waker());
                if let Some(failed) = state.failed.take() {
                    drop(state);
                    return Poll::Ready(Err(self.named(failed)));
                }
                if let Some(event) = state.events.pop_front() {
                    return Poll::Ready(Ok(Polled::Event(event)));
                }
                state.stopping
            };
            if !self.ready.is_empty() {
                let most = credit.messages.min(self.ready.len());
                out.extend(self.ready.drain(..most));
                return Poll::Ready(Ok(Polled::Batch));
            }
            if matches!(self.step, Step::Idle) {
                if stopping {
                    return self.poll_end();
                }
                match self.begin(cx, credit) {
                    Some(step) => self.step = step,
                    None => return Poll::Pending,
                }
            }
            if stopping
                && !matches!(self.step, Step::Reading(_) | Step::Taking(_) | Step::Checking(..))
            {
                self.step = Step::Idle;
                continue;
            }
            match self.poll_step(cx, unwatched) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    if self.line.state().has_news() {
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn stop(&mut self) {
        let mut state = self.line.state();
        state.stopping = true;
        state.wake();
        drop(state);
        // The task tells the server to wait no longer.
        self.line.changed.notify_one();
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl State {
    /// Nothing is on its way any more: what came is booked.
    fn arrived(&mut self) {
        self.reading = None;
        self.taking = false;
    }

    /// Whether there is something to tell.
    fn has_news(&self) -> bool {
        self.failed.is_some() || !self.events.is_empty()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.end();
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match &self.step {
            Step::Idle => "idle",
            Step::Opening(_) => "opening",
            Step::Reading(_) => "reading",
            Step::Taking(_) => "taking",
            Step::Checking(..) => "checking",
            Step::Renewing(_) => "renewing",
            Step::Pausing(_) => "pausing",
        };
        f.debug_struct("Driver")
            .field("line", &self.line)
            .field("step", &step)
            .finish_non_exhaustive()
    }
}
