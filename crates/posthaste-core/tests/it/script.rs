//! A broker that does what a test tells it, for the paths that no real broker takes on demand.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use posthaste_core::broker::*;
use posthaste_core::*;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::stub::StubAdmin;

/// What a call of `publish` does. Without a step it confirms.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Every entry fails.
    Fail(ErrorKind, Stored),
    /// The entry with this index fails, the others are confirmed.
    FailOne(usize, ErrorKind),
    /// Every entry waits for a permit of `Script::gate`, then is confirmed.
    Wait,
    /// Never answers.
    Hang,
    /// Every entry of these ids fails, the others are confirmed.
    FailIds(&'static [&'static str], ErrorKind),
    Panic,
}

/// Whether a failed entry is stored nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    No,
    Maybe,
}

#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) admin: StubAdmin,
    pub(crate) capabilities: Mutex<Arc<Capabilities>>,
    pub(crate) steps: Mutex<VecDeque<Step>>,
    /// The ids of every call, in order.
    pub(crate) calls: Mutex<Vec<Vec<String>>>,
    /// What every call was told of the topic.
    pub(crate) destinations: Mutex<Vec<Destination>>,
    pub(crate) gate: Semaphore,
    pub(crate) out: AtomicUsize,
    pub(crate) most_out: AtomicUsize,
}

impl Script {
    pub(crate) fn new(layout: Layout) -> Arc<Self> {
        let mut capabilities = Capabilities::all("script");
        capabilities.max_flights = 2;
        Arc::new(Self {
            admin: StubAdmin::new(layout),
            capabilities: Mutex::new(Arc::new(capabilities)),
            steps: Mutex::default(),
            calls: Mutex::default(),
            destinations: Mutex::default(),
            gate: Semaphore::new(0),
            out: AtomicUsize::new(0),
            most_out: AtomicUsize::new(0),
        })
    }

    pub(crate) fn then(self: &Arc<Self>, steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        self.steps.lock().unwrap().extend(steps);
        Arc::clone(self)
    }

    pub(crate) fn limit(&self, change: impl FnOnce(&mut Capabilities)) {
        let mut held = self.capabilities.lock().unwrap();
        let mut changed = (**held).clone();
        change(&mut changed);
        *held = Arc::new(changed);
    }

    pub(crate) fn bus(self: &Arc<Self>) -> Bus {
        Bus::shared(Arc::new(Scripted(Arc::clone(self)))).source("/test").build().unwrap()
    }

    pub(crate) fn builder(self: &Arc<Self>) -> BusBuilder {
        Bus::shared(Arc::new(Scripted(Arc::clone(self)))).source("/test")
    }

    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().unwrap().clone()
    }
}

#[derive(Debug)]
pub(crate) struct Scripted(Arc<Script>);

struct Out<'a>(&'a Script);

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Publish for Scripted {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        _: &SendOptions,
    ) -> Result<Outcomes> {
        let script = &*self.0;
        script.destinations.lock().unwrap().push(to.clone());
        let out = script.out.fetch_add(1, Ordering::SeqCst) + 1;
        let _out = Out(script);
        script.most_out.fetch_max(out, Ordering::SeqCst);
        let ids = batch.iter().map(|envelope| envelope.id().to_owned()).collect();
        script.calls.lock().unwrap().push(ids);
        let step = script.steps.lock().unwrap().pop_front();
        let fail = |kind, stored| {
            Error::new(kind, "as the script says").with_may_be_stored(stored == Stored::Maybe)
        };
        match step {
            None => {}
            Some(Step::Fail(kind, stored)) => {
                return Ok(Outcomes::failed(batch.len(), &fail(kind, stored)));
            }
            Some(Step::FailOne(index, kind)) => {
                let outcome = |at| match at == index {
                    true => Err(fail(kind, Stored::No)),
                    false => Ok(posthaste_core::broker::Stored::at(at as u64)),
                };
                return Ok((0..batch.len()).map(outcome).collect());
            }
            Some(Step::FailIds(failing, kind)) => {
                let outcome = |envelope: &Envelope| match failing.contains(&envelope.id()) {
                    true => Err(fail(kind, Stored::No)),
                    false => Ok(posthaste_core::broker::Stored::default()),
                };
                return Ok(batch.iter().map(outcome).collect());
            }
            Some(Step::Panic) => panic!("as the script says"),
            Some(Step::Wait) => script.gate.acquire().await.unwrap().forget(),
            Some(Step::Hang) => std::future::pending().await,
        }
        Ok((0..batch.len()).map(|at| Ok(posthaste_core::broker::Stored::at(at as u64))).collect())
    }
}

#[async_trait]
impl Broker for Scripted {
    fn capabilities(&self, _: Option<&TopicName>) -> Arc<Capabilities> {
        Arc::clone(&self.0.capabilities.lock().unwrap())
    }

    async fn subscribe(&self, _: SubscribeRequest) -> Result<Subscribed> {
        Err(Error::unsupported("the script only publishes"))
    }

    fn admin(&self) -> &dyn posthaste_core::broker::Admin {
        &self.0.admin
    }

    async fn health(&self) -> Result<Health> {
        Ok(Health::Live)
    }

    async fn close(&self, _: Instant) -> Result<()> {
        Ok(())
    }
}
