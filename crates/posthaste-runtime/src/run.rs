//! The life of a consumer: start, run, drain.

use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Events, Result, Stopper, SubscriptionEvent};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::control::{Control, Phase};
use crate::floor::{Floor, Parts};
use crate::publish::Outbox;
use crate::route::Routes;
use crate::worker::work;
use crate::{Consumer, Report, Stop, shutdown_signal};

/// What the end of a drain may take beyond its deadline.
const LAST_CALL: Duration = Duration::from_secs(1);
/// Longer than any process lives.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl<S> Consumer<S> {
    /// Starts, and handles messages until [`shutdown_signal`]: then it takes nothing new, finishes
    /// what it has within the drain's time, and returns. A second signal ends it at once.
    ///
    /// # Errors
    /// As [`start`](Self::start); what ends a subscription for good: `NotFound` where a topic or
    /// the group vanished, `Auth`, `Fatal`; `Decode` under `Unknown::Fail`.
    ///
    /// # Cancel safety
    /// When dropped, handlers are dropped where they wait, and their messages come again.
    pub async fn run(self) -> Result<Report>
    where
        S: Send + Sync,
    {
        self.run_until(shutdown_signal()).await
    }

    /// The same until that future resolves: a shutdown of your own.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn run_until<F>(self, signal: F) -> Result<Report>
    where
        F: Future,
        F::Output: Stop,
    {
        let mut signal = pin!(signal);
        let control = self.control();
        let drain = self.settings.drain;
        let mut running = tokio::select! {
            biased;
            _ = &mut signal => {
                control.end();
                return Ok(Report::default());
            }
            started = self.start() => started?,
        };
        let stop = tokio::select! {
            biased;
            stop = &mut signal => Some(stop),
            () = running.ended() => None,
            () = control.reached(Phase::Stopping) => None,
        };
        match stop {
            Some(stop) => running.finish(drain, stop.at_once()).await,
            None => running.finish(drain, pending()).await,
        }
    }

    /// Starts, and returns when the consumer handles messages. Names, numbers, topology and what
    /// the broker can do are checked before the first message.
    ///
    /// # Errors
    /// `Invalid` names a setting, a malformed name, or two handlers that would take the same
    /// messages; `Unsupported` names what the broker or the topic cannot keep; `NotFound` and
    /// `Conflict` by the topology; `Auth`, `Connection`, `Timeout`, `Closed`.
    ///
    /// # Cancel safety
    /// When dropped, topics and the group may have been created; nothing is held.
    pub async fn start(self) -> Result<Running> {
        let control = self.control();
        let started = self.start_unwatched().await;
        if started.is_err() {
            control.end();
        }
        started
    }

    async fn start_unwatched(self) -> Result<Running> {
        let Self { bus, settings, routes, control, journal, .. } = self;
        let routes = Routes::new(routes)?;
        settings.check(&routes)?;
        settings.check_broker(&bus, &routes)?;
        let subscription = settings.subscribe(&bus, &routes)?.start().await?;
        let events = subscription.events();
        let floor = Arc::new(Floor::new(Parts {
            routes,
            outbox: Arc::new(Outbox::new(bus)),
            policy: settings.retry,
            time_limit: settings.time_limit,
            unknown: settings.unknown,
            settled_first: settings.at_most_once,
            control: control.clone(),
            journal,
            subscription,
        }));
        control.begin();
        let mut tasks = JoinSet::new();
        for _ in 0..settings.concurrency {
            tasks.spawn(work(Arc::clone(&floor)));
        }
        tasks.spawn(listen(events, control, floor.stopper.clone(), settings.drain));
        Ok(Running { floor, tasks, drain: settings.drain, broken: None })
    }
}

/// A consumer that runs. From [`Consumer::start`].
///
/// Dropping it ends it at once: handlers are dropped where they wait, and their messages come
/// again.
#[must_use = "dropping it ends the consumer"]
pub struct Running {
    floor: Arc<Floor>,
    tasks: JoinSet<()>,
    drain: Duration,
    /// A worker ended as it never should.
    broken: Option<Error>,
}

impl Running {
    /// What it has done so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.floor.report(self.floor.stopper.stats())
    }

    /// Watches and steers it.
    #[must_use]
    pub fn control(&self) -> Control {
        self.floor.control.clone()
    }

    /// Waits until it has ended by itself: after an error, a [`Control::stop`], or when its bus was
    /// closed. Then [`stop`](Self::stop) tells why.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&mut self) {
        while let Some(joined) = self.tasks.join_next().await {
            if let Err(error) = joined.map_err(|error| (error.is_panic(), error))
                && error.0
            {
                let fatal = Error::new(ErrorKind::Fatal, "a worker of the consumer panicked");
                self.broken.get_or_insert(fatal.with_source(error.1));
                self.floor.control.stop();
                self.floor.stopper.stop();
            }
        }
    }

    /// Takes nothing new, finishes what it has within the drain's time (30 s, or
    /// [`Consumer::drain`]), and gives back the rest.
    ///
    /// # Errors
    /// What ended the consumer before, if something did.
    ///
    /// # Cancel safety
    /// When dropped, handlers are dropped where they wait, and their messages come again.
    pub async fn stop(self) -> Result<Report> {
        let drain = self.drain;
        self.finish(drain, pending()).await
    }

    pub(crate) async fn finish(
        mut self,
        drain: Duration,
        at_once: impl Future<Output = ()>,
    ) -> Result<Report> {
        let drain = drain.min(LONGEST);
        let floor = Arc::clone(&self.floor);
        floor.control.stop();
        floor.stopper.stop_within(drain);
        let late = Instant::now() + drain + LAST_CALL;
        tokio::select! {
            () = self.ended() => {}
            () = at_once => floor.stopper.stop_within(Duration::ZERO),
            () = tokio::time::sleep_until(late) => {}
        }
        self.tasks.abort_all();
        if timeout(LAST_CALL, self.ended()).await.is_err() {
            tracing::warn!("a handler blocks its thread and is left behind");
        }
        let unfinished = floor.stopper.stopped().await as u64;
        floor.counters.unfinished.store(unfinished, std::sync::atomic::Ordering::Relaxed);
        let report = self.report();
        tracing::debug!(?report, "a consumer has ended");
        match self.broken.take().or_else(|| floor.failure()) {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.floor.stopper.stop_within(Duration::ZERO);
        self.floor.control.end();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("phase", &self.floor.control.phase())
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}

/// Keeps what health checks ask, and stops the subscription when the control says so.
async fn listen(mut events: Events, control: Control, stopper: Stopper, drain: Duration) {
    let stop = async {
        control.reached(Phase::Stopping).await;
        stopper.stop_within(drain.min(LONGEST));
        pending::<()>().await;
    };
    let health = async {
        while let Some(event) = events.next().await {
            match event {
                SubscriptionEvent::Disconnected { .. } => control.set_connected(false),
                SubscriptionEvent::Reconnected => control.set_connected(true),
                _ => {}
            }
        }
    };
    tokio::select! {
        () = stop => {}
        () = health => {}
    }
}
