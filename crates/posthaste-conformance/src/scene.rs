//! What a case works with: connections, names that nobody else uses, chance, and how patient it is.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use posthaste_core::{Broker, Bus, BusBuilder, GroupName, TopicName};

use crate::failure::Outcome;
use crate::harness::{Instance, Link, Need};

/// The source of everything that the suite publishes.
pub const SOURCE: &str = "/conformance";

/// How long things may take, and how long nothing has to happen before it counts as nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// By when what is expected has to happen. Generous: a slow machine is no failure.
    pub patience: Duration,
    /// How long nothing may happen before it counts as nothing. A slow machine makes such a look
    /// weaker, never fail.
    pub quiet: Duration,
    /// The lease of subscriptions that let one end.
    pub lease: Duration,
}

impl Pace {
    /// For runs that should pass.
    pub const STEADY: Self = Self {
        patience: Duration::from_secs(20),
        quiet: Duration::from_millis(500),
        lease: Duration::from_secs(1),
    };

    /// For runs that should fail: with a sabotaged broker.
    pub const HASTY: Self = Self {
        patience: Duration::from_secs(4),
        quiet: Duration::from_millis(300),
        lease: Duration::from_secs(1),
    };
}

/// One run of one case.
pub struct Scene {
    instance: Arc<dyn Instance>,
    offers: Vec<Need>,
    version: Option<String>,
    case: &'static str,
    seed: u64,
    pace: Pace,
    topics: Mutex<Vec<String>>,
}

impl Scene {
    /// A scene for a case on an instance. All names and all chance come from the seed.
    #[must_use]
    pub fn new(
        instance: Arc<dyn Instance>,
        offers: &[Need],
        case: &'static str,
        seed: u64,
        pace: Pace,
    ) -> Self {
        Self {
            instance,
            offers: offers.to_vec(),
            version: None,
            case,
            seed,
            pace,
            topics: Mutex::new(Vec::new()),
        }
    }

    /// The version that the broker has to report.
    #[must_use]
    pub fn expecting(mut self, version: Option<&str>) -> Self {
        self.version = version.map(str::to_owned);
        self
    }

    /// The version that the broker has to report, where it is known.
    #[must_use]
    pub fn expected_version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What is behind the connections.
    #[must_use]
    pub fn instance(&self) -> &dyn Instance {
        &*self.instance
    }

    /// Whether the harness offers this.
    #[must_use]
    pub fn offers(&self, need: Need) -> bool {
        self.offers.contains(&need)
    }

    /// How patient to be.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// By when what is expected has to happen.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.pace.patience
    }

    /// How long nothing may happen before it counts as nothing.
    #[must_use]
    pub const fn quiet(&self) -> Duration {
        self.pace.quiet
    }

    /// The lease of subscriptions that let one end.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.pace.lease
    }

    /// The number from which all chance of this run comes.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Chance, the same for the same seed.
    #[must_use]
    pub fn chance(&self) -> Rng {
        Rng::with_seed(self.seed)
    }

    /// The topic of this run.
    #[must_use]
    pub fn topic(&self) -> String {
        self.named("")
    }

    /// A further topic of this run; the tag tells them apart.
    #[must_use]
    pub fn topic_called(&self, tag: &str) -> String {
        self.named(&format!("-{tag}"))
    }

    fn named(&self, tag: &str) -> String {
        let name = format!("it-{}{tag}-{:08x}", self.case.replace('_', "-"), self.short_seed());
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if !topics.contains(&name) {
            topics.push(name.clone());
        }
        name
    }

    /// The names of topics that were asked for.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A group of this run; the tag tells them apart.
    #[must_use]
    pub fn group(&self, tag: &str) -> String {
        format!("{tag}-{:08x}", self.short_seed())
    }

    fn short_seed(&self) -> u32 {
        // The lower half is enough to keep runs apart.
        u32::try_from(self.seed & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// The topic as the adapter's contract names it.
    ///
    /// # Errors
    /// Never: the names of a scene are portable.
    pub fn topic_name(&self) -> Outcome<TopicName> {
        Ok(TopicName::new(self.topic())?)
    }

    /// A group as the adapter's contract names it.
    ///
    /// # Errors
    /// If the tag is not portable.
    pub fn group_name(&self, tag: &str) -> Outcome<GroupName> {
        Ok(GroupName::new(self.group(tag))?)
    }

    /// A fresh connection.
    ///
    /// # Errors
    /// Those of the adapter.
    ///
    /// # Cancel safety
    /// That of the harness's `connect`.
    pub async fn broker(&self) -> Outcome<Arc<dyn Broker>> {
        Ok(self.instance.connect().await?)
    }

    /// A bus over a fresh connection.
    ///
    /// # Errors
    /// Those of the adapter.
    ///
    /// # Cancel safety
    /// That of [`broker`](Self::broker).
    pub async fn bus(&self) -> Outcome<Bus> {
        Ok(Self::bus_over(self.broker().await?).build()?)
    }

    /// Begins a bus over a fresh connection.
    ///
    /// # Errors
    /// Those of the adapter.
    ///
    /// # Cancel safety
    /// That of [`broker`](Self::broker).
    pub async fn builder(&self) -> Outcome<BusBuilder> {
        Ok(Self::bus_over(self.broker().await?))
    }

    /// Begins a bus over a connection.
    pub fn bus_over(broker: Arc<dyn Broker>) -> BusBuilder {
        Bus::shared(broker).source(SOURCE)
    }

    /// A bus over a connection that can be broken.
    ///
    /// # Errors
    /// Those of the adapter.
    ///
    /// # Cancel safety
    /// That of the harness's `connect_through`.
    pub async fn bus_through(&self) -> Outcome<(Bus, Arc<dyn Link>)> {
        let (broker, link) = self.instance.connect_through().await?;
        Ok((Self::bus_over(broker).build()?, link))
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene")
            .field("instance", &self.instance)
            .field("case", &self.case)
            .field("seed", &self.seed)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}
