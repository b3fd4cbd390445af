//! The stage of a run: topics, groups, and who publishes where.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use posthaste_core::{Bus, Capabilities, Result, Sharing, TopicConfig};

use super::audit::Shape;
use crate::harness::{Instance, Link};
use crate::scene::SOURCE;

/// How somebody is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    /// Over a link that can be broken.
    Linked,
}

/// How a publisher goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As much as fits into the window, outcomes later.
    Window,
    /// Several tasks that await each message, which is deduplicated where that can be had.
    Awaited,
    /// In batches.
    Batch,
    /// Several tasks that give up soon, and publish again what may be stored.
    Impatient,
}

#[derive(Debug, Clone)]
pub(super) struct PublisherSpec {
    pub(super) name: String,
    pub(super) topic: usize,
    pub(super) style: Style,
    pub(super) way: Way,
    pub(super) deduplicates: bool,
}

#[derive(Debug, Clone)]
pub(super) struct GroupSpec {
    pub(super) name: String,
    pub(super) topic: usize,
}

#[derive(Debug, Clone)]
pub(super) struct TopicSpec {
    pub(super) name: String,
    pub(super) ordered: bool,
}

/// What a run is played on. Shared by all who take part.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) can: Arc<Capabilities>,
    pub(super) topics: Vec<TopicSpec>,
    pub(super) groups: Vec<GroupSpec>,
    pub(super) publishers: Vec<PublisherSpec>,
    /// How many lanes the ordered topic has.
    pub(super) partitions: u16,
    /// Whether connections can be broken.
    has_links: bool,
    links: Mutex<Vec<Weak<dyn Link>>>,
}

impl Stage {
    /// What this broker can have: an ordered topic besides the plain one, a second group.
    pub(super) fn new(
        instance: Arc<dyn Instance>,
        can: Arc<Capabilities>,
        has_links: bool,
        partitions: u16,
    ) -> Self {
        // The names are not chance of the seed: a run may be repeated on the same server.
        let run = fastrand::u32(..);
        let topic =
            |what: &str, ordered| TopicSpec { name: format!("faults-{what}-{run:08x}"), ordered };
        let mut topics = vec![topic("plain", false)];
        let group = |name: &str, topic| GroupSpec { name: format!("{name}-{run:08x}"), topic };
        let mut groups = vec![group("a", 0)];
        if can.fan_out.is_kept() {
            groups.push(group("b", 0));
        }
        let once = can.deduplication.is_kept();
        let mut publishers = vec![
            publisher("window", 0, Style::Window, Way::Direct, false),
            publisher("window-linked", 0, Style::Window, Way::Linked, false),
            publisher("awaited", 0, Style::Awaited, Way::Direct, once),
            publisher("batch-linked", 0, Style::Batch, Way::Linked, false),
            publisher("impatient-linked", 0, Style::Impatient, Way::Linked, once),
        ];
        if can.order.is_kept() {
            topics.push(topic("ordered", true));
            groups.push(group("keyed", 1));
            publishers.push(publisher("keyed", 1, Style::Window, Way::Direct, false));
            publishers.push(publisher("keyed-linked", 1, Style::Window, Way::Linked, false));
        }
        let links = Mutex::default();
        Self { instance, can, topics, groups, publishers, partitions, has_links, links }
    }

    pub(super) fn shape(&self) -> Shape {
        let publishers = self.publishers.iter();
        let groups = self.groups.iter();
        Shape {
            publishers: publishers.map(|of| (of.topic, of.deduplicates)).collect(),
            groups: groups
                .map(|of| (of.name.clone(), of.topic, self.topics[of.topic].ordered))
                .collect(),
            replay_window: self.can.replay_window,
            share_lanes: self.can.sharing == Sharing::Lanes,
        }
    }

    /// Creates the topics with their groups.
    pub(super) async fn prepare(&self) -> Result<()> {
        let bus = self.bus(Way::Direct, Duration::from_secs(30)).await?.bus;
        for (number, topic) in self.topics.iter().enumerate() {
            let mut config = TopicConfig::new(&topic.name);
            if topic.ordered {
                config = config.ordered(self.partitions);
            }
            for group in self.groups.iter().filter(|group| group.topic == number) {
                config = config.group(&group.name);
            }
            bus.ensure(config).await?;
        }
        bus.close(Duration::from_secs(10)).await
    }

    /// A bus over a connection of its own.
    pub(super) async fn bus(&self, way: Way, publish_deadline: Duration) -> Result<Connected> {
        let (broker, link) = match way {
            Way::Linked if self.has_links => {
                let (broker, link) = self.instance.connect_through().await?;
                self.links().push(Arc::downgrade(&link));
                (broker, Some(link))
            }
            _ => (self.instance.connect().await?, None),
        };
        let bus = Bus::shared(broker).source(SOURCE).publish_deadline(publish_deadline).build()?;
        Ok(Connected { bus, _link: link })
    }

    /// The links that are in use now, in the order in which they were made.
    pub(super) fn links_in_use(&self) -> Vec<Arc<dyn Link>> {
        let mut links = self.links();
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    fn links(&self) -> MutexGuard<'_, Vec<Weak<dyn Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bus, and what keeps the network below it up.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) bus: Bus,
    _link: Option<Arc<dyn Link>>,
}

fn publisher(
    name: &str,
    topic: usize,
    style: Style,
    way: Way,
    deduplicates: bool,
) -> PublisherSpec {
    PublisherSpec { name: name.to_owned(), topic, style, way, deduplicates }
}
