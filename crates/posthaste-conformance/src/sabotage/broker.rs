//! The broker that is sabotaged: subscriptions, health, and its end.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Confirmation, Order, Settlement, Start, Stored, SubscribeRequest, Subscribed, Verdict,
};
use posthaste_core::{
    Broker, Capabilities, Difference, GroupName, Health, Result, TopicName, Topology,
};
use tokio::time::Instant;

use super::admin::SabotagedAdmin;
use super::driver::SabotagedDriver;
use super::mutant::Mutant;
use super::publish::Late;
use super::saboteur::Saboteur;
use super::settler::SabotagedSettler;

/// The group of a queue.
const QUEUE_GROUP: &str = "queue";

/// A broker with a defect.
#[derive(Debug)]
pub struct Sabotage {
    pub(super) inner: Arc<dyn Broker>,
    pub(super) saboteur: Saboteur,
    pub(super) admin: SabotagedAdmin,
    /// What is confirmed and stored with the next entry.
    pub(super) late: Mutex<Option<Late>>,
    /// What became of the last entry of the publish before.
    pub(super) before: Mutex<Option<Result<Stored>>>,
    /// When this connection published an id to a topic.
    pub(super) known: Mutex<HashMap<(TopicName, String), Instant>>,
    /// Whether a subscription of this connection has failed.
    failed: Arc<AtomicBool>,
}

impl Sabotage {
    /// The broker with this defect. Where connections have to work together to do harm, only
    /// those of one [`harness`](super::harness) do.
    #[must_use]
    pub fn over(inner: Arc<dyn Broker>, mutant: Mutant) -> Arc<dyn Broker> {
        Self::by(inner, Saboteur::new(mutant, "sabotage"))
    }

    pub(super) fn by(inner: Arc<dyn Broker>, saboteur: Saboteur) -> Arc<dyn Broker> {
        let admin = SabotagedAdmin { inner: Arc::clone(&inner), saboteur: saboteur.clone() };
        Arc::new(Self {
            inner,
            saboteur,
            admin,
            late: Mutex::default(),
            before: Mutex::default(),
            known: Mutex::default(),
            failed: Arc::default(),
        })
    }

    /// What is asked for instead.
    async fn twist(&self, request: &mut SubscribeRequest) {
        match (self.saboteur.mutant, request.start) {
            (Mutant::StartAtTheEarliest, _) => request.start = Start::Earliest,
            (Mutant::StartAtTheLatest, Start::Earliest)
            | (Mutant::GroupsComeWithTheirMembers, Start::Created) => request.start = Start::Latest,
            (Mutant::MoveAnExistingGroup, start) if start != Start::Created => {
                self.move_groups(request, start).await;
            }
            (Mutant::LeaveTheEphemeral, _) if request.group.is_none() => {
                let number = self.saboteur.plot.count_entry();
                request.group = GroupName::new(format!("left-{number}")).ok();
            }
            (Mutant::CreateGroupsUnderVerify, _) => request.topology = Topology::Create,
            (Mutant::OrderOnAnyTopic, _) => request.order = Order::None,
            (Mutant::ForgetATopic, _) if request.topics.len() > 1 => {
                request.topics.pop();
            }
            _ => {}
        }
    }

    async fn move_groups(&self, request: &SubscribeRequest, to: Start) {
        let Some(group) = &request.group else { return };
        for topic in &request.topics {
            // A group that is not there, or has members, stays where it is.
            let _ = self.inner.admin().seek(topic, group, to).await;
        }
    }

    /// Acknowledges what dead members held.
    async fn bury(&self) {
        for (settler, tokens) in self.saboteur.plot.estates() {
            let acks = tokens.into_iter().map(|token| Settlement::new(token, Verdict::Ack));
            let acks: Vec<Settlement> = acks.collect();
            // They may be too late: then the defect does no harm.
            let _ = settler.settle(&acks, Confirmation::Broker).await;
        }
    }

    async fn start(&self, request: &SubscribeRequest) -> Result<Subscribed> {
        match self.inner.subscribe(request.clone()).await {
            Err(error) if self.saboteur.is(Mutant::StealFromAQueue) => {
                let mut queue = request.clone();
                queue.group = GroupName::new(QUEUE_GROUP).ok();
                queue.queue = true;
                self.inner.subscribe(queue).await.map_err(|_| error)
            }
            outcome => outcome.map_err(|error| self.saboteur.said(error)),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Broker for Sabotage {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        self.inner.capabilities(topic)
    }

    async fn subscribe(&self, mut request: SubscribeRequest) -> Result<Subscribed> {
        self.bury().await;
        self.twist(&mut request).await;
        let Some(first) = request.topics.first().cloned() else {
            return self.inner.subscribe(request).await;
        };
        let mut subscribed = self.start(&request).await?;
        match self.saboteur.mutant {
            Mutant::HideDifferingLeases => subscribed.differences.clear(),
            Mutant::TakeTheNewLease => subscribed.lease = request.lease,
            Mutant::UnderstateTheLease => subscribed.lease /= 2,
            Mutant::InventDifferences => {
                subscribed.differences.push(Difference::new("lease", "sabotage", "another"));
            }
            Mutant::OverstateTheLease => subscribed.lease = subscribed.lease.saturating_mul(4),
            _ => {}
        }
        let place = (first, request.group.clone());
        let (member, rank) = self.saboteur.plot.join(&place);
        if self.saboteur.is(Mutant::JoinTakesEverything) {
            self.saboteur.plot.rob(&place, member);
        }
        let settler = SabotagedSettler::new(
            subscribed.driver.settler(),
            Arc::clone(&self.inner),
            self.saboteur.clone(),
            member,
            request.group,
        );
        let driver = SabotagedDriver {
            inner: subscribed.driver,
            settler: Arc::new(settler),
            saboteur: self.saboteur.clone(),
            member,
            place,
            rank,
            queue: request.queue,
            topics: request.topics.len(),
            failed: Arc::clone(&self.failed),
            deaf: false,
            seen: 0,
            stopped: false,
            withheld: HashSet::new(),
            withholds: false,
            later: Vec::new(),
        };
        let mut sabotaged = Subscribed::new(Box::new(driver), subscribed.lease);
        sabotaged.differences = subscribed.differences;
        Ok(sabotaged)
    }

    fn admin(&self) -> &dyn Admin {
        &self.admin
    }

    async fn health(&self) -> Result<Health> {
        let plot = &self.saboteur.plot;
        match self.saboteur.mutant {
            Mutant::AlwaysLive => return Ok(Health::Live),
            Mutant::HangInHealth => pending().await,
            _ => {}
        }
        let health = self.inner.health().await.map_err(|error| self.saboteur.said(error))?;
        let is_down = matches!(health, Health::Down(_));
        Ok(match self.saboteur.mutant {
            Mutant::LiveWhileItIsDown if is_down => Health::Live,
            Mutant::NeverLiveAgain if plot.was_down(is_down) => Health::Down("it was".to_owned()),
            _ => health,
        })
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        match self.saboteur.mutant {
            Mutant::AliveAfterClose => Ok(()),
            Mutant::HangInClose => pending().await,
            _ => self.inner.close(deadline).await.map_err(|error| self.saboteur.said(error)),
        }
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        if self.saboteur.is(Mutant::HideTheNativeClient) { None } else { self.inner.native() }
    }
}
