//! What an application writes: which handlers a consumer has, and how it shall run.

use std::any::type_name;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Bus, Expired, KeyFailure, Order, Start, Topology};

use crate::route::Route;
use crate::settings::Settings;
use crate::slot::{Many, Single, Slot};
use crate::test_bus::Journal;
use crate::{
    Arguments, BatchArguments, Control, HandlerFn, IntoReplies, IntoReply, RetryPolicy, Unknown,
};

/// Handlers for the messages of one or several topics, as one member of a group.
///
/// ```
/// # use posthaste_core::{Bus, Result, TopicConfig};
/// # use posthaste_derive::Event;
/// # use posthaste_memory::MemoryBroker;
/// # use serde::{Deserialize, Serialize};
/// use posthaste_runtime::{Consumer, HandlerError, Payload, State};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order.placed", key = order_id, crate = posthaste_core)]
/// struct OrderPlaced {
///     order_id: String,
/// }
///
/// #[derive(Clone)]
/// struct Cards;
///
/// async fn charge(order: Payload<OrderPlaced>, _: State<Cards>) -> Result<(), HandlerError> {
///     println!("{} is charged", order.order_id);
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new(MemoryBroker::new());
/// let consumer = Consumer::new(&bus).group("billing").state(Cards).on("orders", charge);
/// let report = consumer.run_until(async {}).await?; // or `run()`: until SIGTERM or Ctrl-C
/// # assert_eq!(report.handled, 0);
/// # Ok(())
/// # }
/// ```
#[must_use = "a consumer does nothing until it is run"]
pub struct Consumer<S = ()> {
    pub(crate) bus: Bus,
    pub(crate) settings: Settings,
    pub(crate) routes: Vec<Route>,
    pub(crate) control: Control,
    /// For tests: remembers what was handled.
    pub(crate) journal: Option<Arc<Journal>>,
    state: Arc<S>,
}

impl Consumer {
    /// A consumer without handlers yet.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            settings: Settings::default(),
            routes: Vec::new(),
            control: Control::new(),
            journal: None,
            state: Arc::new(()),
        }
    }
}

impl<S> Consumer<S> {
    /// The group whose member this is. Without a group it gets what is published while it runs,
    /// and what fails for good is lost, which is said by an event and a warning.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.settings.group = Some(name.into());
        self
    }

    /// Consumes a queue: the one topic that it has handlers for is one, and brings its group.
    pub fn queue(mut self) -> Self {
        self.settings.queue = true;
        self
    }

    /// What handlers that are added from now on get as [`State`](crate::State).
    pub fn state<T>(self, state: T) -> Consumer<T> {
        let Self { bus, settings, routes, control, journal, .. } = self;
        Consumer { bus, settings, routes, control, journal, state: Arc::new(state) }
    }

    /// Handles messages of a topic: those of the event that the handler takes as
    /// [`Payload`](crate::Payload), or, if it takes none, all that no other handler of the topic
    /// takes. Several handlers may stand on one topic, one for each type and version.
    pub fn on<H, A>(mut self, topic: impl Into<String>, handler: H) -> Self
    where
        S: Send + Sync + 'static,
        H: HandlerFn<A>,
        A: Arguments<S> + 'static,
        H::Returned: Future + Send + 'static,
        <H::Returned as Future>::Output: IntoReply,
    {
        let (handler, state) = (Arc::new(handler), Arc::clone(&self.state));
        let slot = move || -> Box<dyn Slot> { Box::new(Single::new(&handler, &state)) };
        self.routes.push(Route::new(topic.into(), A::EVENT, type_name::<H>(), 1, slot));
        self
    }

    /// The same with up to `max` messages at once: as many as are there when a worker is free, so
    /// nothing waits for a batch to be full. Under [`Order::PerKey`] a batch has at most one
    /// message of a key.
    pub fn on_batch<H, A>(mut self, topic: impl Into<String>, max: usize, handler: H) -> Self
    where
        S: Send + Sync + 'static,
        H: HandlerFn<A>,
        A: BatchArguments<S> + 'static,
        H::Returned: Future + Send + 'static,
        <H::Returned as Future>::Output: IntoReplies,
    {
        let (handler, state) = (Arc::new(handler), Arc::clone(&self.state));
        let slot = move || -> Box<dyn Slot> { Box::new(Many::new(&handler, &state)) };
        self.routes.push(Route::new(topic.into(), A::EVENT, type_name::<H>(), max, slot));
        self
    }

    /// What becomes of messages whose type no handler of their topic takes. Default: skipped, with
    /// a warning.
    pub const fn unknown(mut self, unknown: Unknown) -> Self {
        self.settings.unknown = unknown;
        self
    }

    /// What order is kept. Default: none. [`Order::PerKey`] and [`Order::Partition`] need topics
    /// that were created as ordered.
    pub const fn order(mut self, order: Order) -> Self {
        self.settings.order = order;
        self
    }

    /// How many handlers may run at once. Default: 16; at most 65,536.
    pub const fn concurrency(mut self, handlers: usize) -> Self {
        self.settings.concurrency = handlers;
        self
    }

    /// When a message that failed is tried again. Default: [`RetryPolicy::exponential`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// How long a handler may take for one try. One that takes longer is dropped where it waits,
    /// and has failed. Default: none but [`max_handling`](Self::max_handling).
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.settings.time_limit = Some(limit);
        self
    }

    /// How long a message may be held with all immediate tries. After that its lease is not
    /// prolonged any more; when it is lost, the handler is dropped where it waits, and the message
    /// comes again, for any member. Default: 15 min.
    pub const fn max_handling(mut self, time: Duration) -> Self {
        self.settings.max_handling = time;
        self
    }

    /// How long a message stays ours without a sign of life of this process. Default: 30 s.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = Some(lease);
        self
    }

    /// How many messages may be unsettled, waiting ones included. Default: 256, or twice the
    /// concurrency if that is more.
    pub const fn prefetch(mut self, count: usize) -> Self {
        self.settings.prefetch = Some(count);
        self
    }

    /// How many bytes may be unsettled, by running mean. Default: 16 MiB.
    pub const fn prefetch_bytes(mut self, bytes: usize) -> Self {
        self.settings.prefetch_bytes = Some(bytes);
        self
    }

    /// What becomes of a key whose message fails for good, under [`Order::PerKey`]. Default:
    /// [`KeyFailure::DeadLetterKey`].
    pub const fn key_failure(mut self, failure: KeyFailure) -> Self {
        self.settings.key_failure = failure;
        self
    }

    /// How long a failing key may wait at most. Default: [`max_handling`](Self::max_handling).
    pub const fn key_wait(mut self, wait: Duration) -> Self {
        self.settings.key_wait = Some(wait);
        self
    }

    /// What becomes of messages that expired before they were handled. Default: dead letters.
    pub const fn expired(mut self, expired: Expired) -> Self {
        self.settings.expired = expired;
        self
    }

    /// Where a group starts that does not exist yet. Default: [`Start::Created`].
    pub const fn from(mut self, start: Start) -> Self {
        self.settings.from = Some(start);
        self
    }

    /// What is done about missing topics and groups, instead of the bus's setting.
    pub const fn topology(mut self, topology: Topology) -> Self {
        self.settings.topology = Some(topology);
        self
    }

    /// The member's name, unique within the group.
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.settings.member = Some(name.into());
        self
    }

    /// Settles each message before its handler runs: a crash or a failure loses it.
    pub const fn at_most_once(mut self) -> Self {
        self.settings.at_most_once = true;
        self
    }

    /// Refuses to start where a message that fails for good would be lost: without a group, or at
    /// most once.
    pub const fn strict(mut self) -> Self {
        self.settings.strict = true;
        self
    }

    /// How long handlers have to finish when the consumer stops. Default: 30 s.
    pub const fn drain(mut self, time: Duration) -> Self {
        self.settings.drain = time;
        self
    }

    /// Watches and steers the consumer from elsewhere.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl<S> fmt::Debug for Consumer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("routes", &self.routes)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
