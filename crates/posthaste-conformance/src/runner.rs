//! Runs one case: a scene of its own, a deadline, and a report when it fails.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use posthaste_core::{Error, ErrorKind, TopicName};
use tokio::time::{Instant, timeout};

use crate::case::Case;
use crate::harness::{Harness, Instance};
use crate::scene::{Pace, Scene};

/// How long cleaning up after a case that passed may take.
const CLEANING: Duration = Duration::from_secs(10);

/// Runs the case on the harness: on the shared instance, or on a private one if it disturbs.
///
/// What it needs must be offered. After a success its topics are deleted; after a failure they are
/// left for whoever looks into it.
///
/// # Errors
/// A report that says why, where, after how long, on which topics and with which seed.
///
/// # Cancel safety
/// When dropped, the topics are left.
pub async fn play(
    case: &Case,
    harness: &Arc<dyn Harness>,
    pace: Pace,
    seed: u64,
) -> Result<(), Report> {
    let begun = Instant::now();
    let report = |why: String, topics: Vec<String>| Report {
        case: case.path(),
        harness: harness.name().to_owned(),
        why,
        topics,
        elapsed: begun.elapsed(),
        seed,
    };
    let instance = if case.is_disturbing() {
        harness
            .private()
            .await
            .map_err(|error| report(format!("no instance: {error:?}"), vec![]))?
    } else {
        shared(harness)
    };
    let scene = Scene::new(Arc::clone(&instance), harness.offers(), case.name(), seed, pace)
        .expecting(harness.expected_version());
    let run = AssertUnwindSafe((case.run())(&scene)).catch_unwind();
    let why = match timeout(case.deadline(), run).await {
        Ok(Ok(Ok(()))) => {
            clean(&scene, &*instance).await;
            return Ok(());
        }
        Ok(Ok(Err(failed))) => failed.to_string(),
        Ok(Err(panic)) => format!("it panicked: {}", text(&*panic)),
        Err(_) => format!("it hangs: no end within {:?}", case.deadline()),
    };
    Err(report(why, scene.topics()))
}

fn shared(harness: &Arc<dyn Harness>) -> Arc<dyn Instance> {
    Arc::clone(harness) as Arc<dyn Instance>
}

/// Deletes the topics of a case that passed. Nothing depends on it.
async fn clean(scene: &Scene, instance: &dyn Instance) {
    let cleaning = async {
        let broker = instance.connect().await?;
        for topic in scene.topics() {
            broker.admin().delete_topic(&TopicName::new(topic)?).await?;
        }
        broker.close(Instant::now() + CLEANING).await
    };
    let cleaned = timeout(CLEANING, cleaning).await;
    let late = |_| Err(Error::new(ErrorKind::Timeout, "cleaning up took too long"));
    if let Err(error) = cleaned.unwrap_or_else(late) {
        // The case may have stopped the broker for good, or closed it.
        drop(error);
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// Why a case failed, with what is needed to look into it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The case, for example `p9::acks_out_of_order_lose_nothing`.
    pub case: String,
    /// The broker.
    pub harness: String,
    /// What was wrong.
    pub why: String,
    /// The topics it used; they were left as they are.
    pub topics: Vec<String>,
    /// How long it ran.
    pub elapsed: Duration,
    /// What all its chance came from.
    pub seed: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.why)?;
        writeln!(f, "  case     {} on {}", self.case, self.harness)?;
        writeln!(f, "  topics   {}", self.topics.join(", "))?;
        writeln!(f, "  elapsed  {:.1?}", self.elapsed)?;
        write!(f, "  seed     {} (POSTHASTE_SEED repeats it)", self.seed)
    }
}
