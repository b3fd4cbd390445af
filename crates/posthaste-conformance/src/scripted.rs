//! A broker whose publishes go as a script says: what core has to do when an adapter reports
//! trouble, tried over the real adapter.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Destination, Outcomes, Publish, SendOptions, SubscribeRequest, Subscribed,
};
use posthaste_core::{Broker, Capabilities, Envelope, Error, ErrorKind, Health, Result, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;

/// What becomes of one entry of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is published.
    Pass,
    /// It is published, but its answer is lost: nobody knows whether it is stored.
    LoseReply,
    /// It is not published, for a reason that passes.
    Reject,
    /// It is not published, for a reason that stays.
    Refuse,
}

type Script = Box<dyn Fn(usize, &Envelope) -> Step + Send + Sync>;

/// The broker, and what it was asked.
pub(crate) struct Scripted {
    inner: Arc<dyn Broker>,
    script: Script,
    calls: AtomicUsize,
    sent: Mutex<Vec<String>>,
    open: watch::Sender<bool>,
}

impl Scripted {
    /// The script gets the number of the call, from 0, and the entry.
    pub(crate) fn new(
        inner: Arc<dyn Broker>,
        script: impl Fn(usize, &Envelope) -> Step + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            script: Box::new(script),
            calls: AtomicUsize::new(0),
            sent: Mutex::default(),
            open: watch::Sender::new(true),
        })
    }

    /// From now on no publish is answered, until [`unblock`](Self::unblock).
    pub(crate) fn block(&self) {
        self.open.send_replace(false);
    }

    /// Lets everything go on.
    pub(crate) fn unblock(&self) {
        self.open.send_replace(true);
    }

    /// The ids of all entries of all calls, in order.
    pub(crate) fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Publish for Scripted {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        let call = self.calls.fetch_add(1, Ordering::AcqRel);
        {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.extend(batch.iter().map(|envelope| envelope.id().to_owned()));
        }
        // The sender is `self`, so that it cannot be gone.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        let steps: Vec<Step> = batch.iter().map(|entry| (self.script)(call, entry)).collect();
        let goes = |step: &Step| matches!(step, Step::Pass | Step::LoseReply);
        let mut going: Vec<Envelope> = batch
            .iter()
            .zip(&steps)
            .filter(|(_, step)| goes(step))
            .map(|(entry, _)| entry.clone())
            .collect();
        let mut gone = if going.is_empty() {
            Outcomes::default().into_iter()
        } else {
            self.inner.publish(to, &mut going, options).await?.into_iter()
        };
        let missing = || Error::new(ErrorKind::Fatal, "the adapter returned too few outcomes");
        Ok(steps
            .into_iter()
            .map(|step| match step {
                Step::Pass => gone.next().unwrap_or_else(|| Err(missing())),
                Step::LoseReply => {
                    let _ = gone.next();
                    Err(Error::new(ErrorKind::Connection, "scripted: the answer was lost")
                        .with_may_be_stored(true))
                }
                Step::Reject => Err(Error::new(ErrorKind::Backpressure, "scripted: not now")),
                Step::Refuse => Err(Error::new(ErrorKind::Auth, "scripted: not allowed")),
            })
            .collect())
    }
}

#[async_trait]
impl Broker for Scripted {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        self.inner.capabilities(topic)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        self.inner.subscribe(request).await
    }

    fn admin(&self) -> &dyn Admin {
        self.inner.admin()
    }

    async fn health(&self) -> Result<Health> {
        self.inner.health().await
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.inner.close(deadline).await
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.inner.native()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted")
            .field("inner", &self.inner)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}
