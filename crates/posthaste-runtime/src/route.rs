//! Which handler a message goes to: by topic, then by the type and version of its event.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use posthaste_core::envelope::FOREIGN_TYPE;
use posthaste_core::{Envelope, Error, Result, TopicName};

use crate::EventType;
use crate::slot::Slot;

/// For so many calls a handler counts as one that computes, after it has.
const HEAVY_FOR: u32 = 64;

/// What becomes of a message whose event type no handler of its topic takes.
///
/// A known type in a version that no handler takes is never skipped: it becomes a dead letter, or
/// ends the consumer under [`Fail`](Self::Fail).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Unknown {
    /// It is settled and counted; the first one of each topic is warned of.
    #[default]
    Skip,
    /// It becomes a dead letter.
    DeadLetter,
    /// It is given back, and the consumer ends with an error.
    Fail,
}

/// A handler, and what it takes.
pub(crate) struct Route {
    pub(crate) topic: String,
    pub(crate) event: Option<EventType>,
    /// The handler's path, for dead letters and logs.
    pub(crate) handler: &'static str,
    /// How many messages it takes at once.
    pub(crate) batch: usize,
    pub(crate) slot: Box<dyn Fn() -> Box<dyn Slot> + Send + Sync>,
    /// Not zero while its calls compute for long, so that nobody waits for one.
    weight: AtomicU32,
}

impl Route {
    pub(crate) fn new(
        topic: String,
        event: Option<EventType>,
        handler: &'static str,
        batch: usize,
        slot: impl Fn() -> Box<dyn Slot> + Send + Sync + 'static,
    ) -> Self {
        Self { topic, event, handler, batch, slot: Box::new(slot), weight: AtomicU32::new(0) }
    }

    pub(crate) fn is_heavy(&self) -> bool {
        self.weight.load(Ordering::Relaxed) > 0
    }

    /// Notes how long a call has computed. What was long once counts as such for some calls more.
    pub(crate) fn weigh(&self, heavy: bool) {
        let weight = self.weight.load(Ordering::Relaxed);
        // Whoever comes at the same time knows no better.
        if heavy {
            self.weight.store(HEAVY_FOR, Ordering::Relaxed);
        } else if weight > 0 {
            self.weight.store(weight - 1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("topic", &self.topic)
            .field("event", &self.event)
            .field("handler", &self.handler)
            .finish_non_exhaustive()
    }
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// To the handler of that route.
    Route(usize),
    /// No handler takes its type.
    UnknownType,
    /// A handler takes its type, but not this version.
    UnknownVersion,
}

/// All routes of a consumer.
#[derive(Debug)]
pub(crate) struct Routes {
    all: Vec<Route>,
    topics: Vec<OfTopic>,
}

#[derive(Debug)]
struct OfTopic {
    name: TopicName,
    typed: Vec<(EventType, usize)>,
    /// Takes whatever no other one does.
    any: Option<usize>,
    /// Whether an unknown type was warned of.
    warned: AtomicBool,
}

impl Routes {
    /// Sorts the routes.
    ///
    /// # Errors
    /// `Invalid` if there is none, or if two would take the same message.
    pub(crate) fn new(all: Vec<Route>) -> Result<Self> {
        if all.is_empty() {
            return Err(Error::invalid("a consumer has at least one handler: see `Consumer::on`"));
        }
        let mut topics: Vec<OfTopic> = Vec::new();
        for (index, route) in all.iter().enumerate() {
            let name = TopicName::new(&route.topic)?;
            let at = topics.iter().position(|topic| topic.name == name).unwrap_or_else(|| {
                let (typed, warned) = (Vec::new(), AtomicBool::new(false));
                topics.push(OfTopic { name, typed, any: None, warned });
                topics.len() - 1
            });
            let topic = &mut topics[at];
            let twice = match route.event {
                Some(event) => {
                    let twice = topic.typed.iter().find(|(known, _)| *known == event).copied();
                    topic.typed.push((event, index));
                    twice.map(|(_, first)| first)
                }
                None => topic.any.replace(index),
            };
            if let Some(first) = twice {
                let event = route.event.map_or_else(|| "any".to_owned(), |e| e.to_string());
                return Err(Error::invalid("two handlers would take the same messages")
                    .with_topic(&topic.name)
                    .with_context("event", event)
                    .with_context("first", all[first].handler)
                    .with_context("second", route.handler));
            }
        }
        Ok(Self { all, topics })
    }

    pub(crate) fn get(&self, route: usize) -> &Route {
        &self.all[route]
    }

    pub(crate) const fn len(&self) -> usize {
        self.all.len()
    }

    /// The topics, each once.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &TopicName> {
        self.topics.iter().map(|topic| &topic.name)
    }

    /// Where a message of that topic goes.
    pub(crate) fn find(&self, topic: &TopicName, envelope: &Envelope) -> Found {
        let Some(of) = self.of(topic) else { return Found::UnknownType };
        let any = of.any.map_or(Found::UnknownType, Found::Route);
        if of.typed.is_empty() {
            return any;
        }
        let name = envelope.event_type();
        if envelope.is_foreign() && name == FOREIGN_TYPE {
            // It names no type: with one handler only the payload can tell.
            return match (&of.typed[..], of.any) {
                ([(_, only)], None) => Found::Route(*only),
                _ => any,
            };
        }
        let mut of_type = of.typed.iter().filter(|(event, _)| event.name == name);
        let Some((first, index)) = of_type.next() else { return any };
        let route = match envelope.schema_version() {
            Some(version) if version == first.version => Some(*index),
            Some(version) => {
                of_type.find(|(event, _)| event.version == version).map(|(_, index)| *index)
            }
            // It names no version: with one handler only the payload can tell.
            None => of_type.next().is_none().then_some(*index),
        };
        match (route, of.any) {
            (Some(route), _) | (None, Some(route)) => Found::Route(route),
            (None, None) => Found::UnknownVersion,
        }
    }

    /// Whether it is the first unknown type of that topic.
    pub(crate) fn is_news(&self, topic: &TopicName) -> bool {
        self.of(topic).is_some_and(|of| !of.warned.swap(true, Ordering::Relaxed))
    }

    fn of(&self, topic: &TopicName) -> Option<&OfTopic> {
        match &self.topics[..] {
            [only] => Some(only),
            several => several.iter().find(|of| of.name == *topic),
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}
