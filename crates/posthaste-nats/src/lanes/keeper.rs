//! The task that keeps a member's lanes: it says that the member is there, claims what is free
//! and is its share, and gives up what is not.
//!
//! It owns no delivery. It opens lanes and hands them to the driver, and frees a lane only when
//! the application holds nothing of it and nothing of it is on its way here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use posthaste_core::broker::Lane;
use posthaste_core::{ErrorKind, Result, TopicName};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::assignment::{View, moves};
use super::handle::{LaneHandle, Signals, Validity};
use super::members::Members;
use super::ownership::{Owned, Ownership, fence, lock, lose_all};
use super::store::{Change, Feed, Store};
use crate::groups::{self, ConsumerSpec};
use crate::hub::Hub;
use crate::settle::NatsSettler;
use crate::source::Source;

/// How long the handlers of a lane that goes may take.
const DRAIN: Duration = Duration::from_secs(30);
/// How many lanes are opened or claimed at once, so that the rest is not kept waiting.
const AT_ONCE: usize = 16;
/// After so many claims in a row that met another state than ours, and not one change that told of
/// it, the records are not what the server has.
const LOST_TRACK: u32 = 16;

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum FromKeeper {
    /// The lane is ours, and is read through this.
    Opened(Box<Source>),
    /// The keeper cannot go on.
    Failed(posthaste_core::Error),
}

/// What the keeper is told: go on, end when the application has settled everything, or end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    Keep,
    Stop,
    Drop,
}

/// What a keeper needs.
pub(crate) struct Keeper {
    pub(crate) hub: Arc<Hub>,
    pub(crate) topic: TopicName,
    pub(crate) store: Store,
    pub(crate) member: String,
    /// How long the others believe that this member is there after a heartbeat.
    pub(crate) lasts: Duration,
    /// One for each lane, in order.
    pub(crate) consumers: Vec<ConsumerSpec>,
    pub(crate) settler: Arc<NatsSettler>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) opened: mpsc::Sender<FromKeeper>,
    pub(crate) wish: watch::Receiver<Wish>,
}

/// A lane as the records say.
#[derive(Debug, Clone, Default)]
struct Record {
    owner: Option<String>,
    sequence: u64,
    /// The term in which we wrote that it is ours.
    claimed: Option<u64>,
}

impl Keeper {
    /// Runs until the driver wishes otherwise, or nothing can be done any more.
    pub(crate) async fn run(self) {
        let validity = Arc::new(Validity::none());
        let owned = Arc::new(Owned::default());
        let (store, member, lasts) = (self.store.clone(), self.member.clone(), self.lasts);
        let opened = self.opened.clone();
        let mut work = Work {
            records: vec![Record::default(); self.consumers.len()],
            members: Members::new(self.member.clone()),
            owned: Arc::clone(&owned),
            validity: Arc::clone(&validity),
            synced: false,
            heard: Instant::now(),
            conflicts: 0,
            closing: false,
            keeper: self,
        };
        // The heartbeat goes on whatever the work waits for, and so does the fence.
        let wish = work.keeper.wish.clone();
        tokio::select! {
            () = beat(&store, &member, lasts, &validity, wish) => {}
            () = fence(&owned, &validity) => {}
            ended = work.run() => {
                if let Err(error) = ended {
                    let _ = opened.send(FromKeeper::Failed(error)).await;
                }
            }
        }
        lose_all(&owned);
        // Without it the others wait until the last heartbeat has lasted; no more than that.
        let _ = store.bury(&member).await;
    }
}

/// Writes heartbeats. A confirmed one lasts from when it was sent, and for us a little less than
/// for the others.
async fn beat(
    store: &Store,
    member: &str,
    lasts: Duration,
    validity: &Validity,
    mut wish: watch::Receiver<Wish>,
) {
    loop {
        let sent = Instant::now();
        let leaving = *wish.borrow_and_update() != Wish::Keep;
        match store.beat(member, lasts, leaving).await {
            Ok(()) => {
                validity.set(sent + lasts.mul_f64(0.8));
                let pause = tokio::time::sleep_until(sent + lasts / 4);
                tokio::select! {
                    () = pause => {}
                    // That it leaves is told at once.
                    Ok(()) = wish.changed() => {}
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not confirmed");
                tokio::time::sleep(lasts / 10).await;
            }
        }
    }
}

struct Work {
    keeper: Keeper,
    records: Vec<Record>,
    members: Members,
    owned: Arc<Owned>,
    validity: Arc<Validity>,
    /// The records are known as they are.
    synced: bool,
    /// When the records were heard of last.
    heard: Instant,
    /// Claims in a row that met another state than the records show.
    conflicts: u32,
    /// The connection is being closed.
    closing: bool,
}

impl Work {
    async fn run(&mut self) -> Result<()> {
        let mut feed: Option<Feed> = None;
        let mut wish = self.keeper.wish.clone();
        loop {
            let _ = wish.borrow_and_update();
            if self.keeper.hub.open().is_err() {
                self.closing = true;
            }
            let stopping = self.wish() != Wish::Keep;
            if stopping && self.has_nothing() {
                return Ok(());
            }
            let next = match &mut feed {
                Some(feed) => feed,
                None => match self.keeper.store.follow().await {
                    Ok(followed) => {
                        self.synced = false;
                        self.members.was_deaf(self.heard);
                        self.heard = Instant::now();
                        feed.insert(followed)
                    }
                    Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "the records of lanes cannot be followed now");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            tokio::select! {
                change = next.next() => match change {
                    Ok(change) => self.take(change),
                    Err(_) => feed = None,
                },
                () = self.keeper.signals.keeper.notified() => {}
                // A driver that is gone has left its last wish.
                Ok(()) = wish.changed() => {}
                () = self.keeper.hub.closing(), if !self.closing => {}
                () = tokio::time::sleep(self.keeper.lasts / 8) => {}
            }
            self.act().await?;
            if self.conflicts >= LOST_TRACK {
                // A change passed us by: the records are read anew.
                (self.conflicts, feed) = (0, None);
            }
        }
    }

    /// Whether no lane is ours, as far as can be told now.
    fn has_nothing(&self) -> bool {
        let ours = |record: &Record| record.owner.as_deref() == Some(&*self.keeper.member);
        // What cannot be freed because there is no connection frees itself.
        lock(&self.owned).is_empty()
            && (self.validity.left().is_zero() || !self.records.iter().any(ours))
    }

    fn wish(&self) -> Wish {
        if self.closing { Wish::Drop } else { *self.keeper.wish.borrow() }
    }

    fn take(&mut self, change: Change) {
        self.heard = Instant::now();
        match change {
            Change::Heard => self.synced = true,
            Change::Member { member, lasts, leaving, sequence } => {
                self.members.take(member, lasts, leaving, sequence);
            }
            Change::Lane { lane, owner, sequence } => {
                let Some(record) = self.records.get_mut(lane) else { return };
                if sequence <= record.sequence {
                    return;
                }
                *record = Record { owner, sequence, claimed: None };
                self.conflicts = 0;
                let ours = record.owner.as_deref() == Some(&*self.keeper.member);
                if !ours && let Some(lost) = lock(&self.owned).remove(&lane) {
                    // Somebody found us gone. Nothing of it is ours from now on.
                    lost.handle.lose();
                }
            }
        }
    }

    /// Does what is to be done.
    async fn act(&mut self) -> Result<()> {
        self.free_what_is_done().await;
        let Some(term) = self.validity.term().filter(|_| self.synced) else { return Ok(()) };
        for suspect in self.members.suspects() {
            // Its heartbeats may have passed us by.
            match self.keeper.store.heartbeat_of(&suspect).await {
                Ok(sequence) => self.members.look_again(&suspect, sequence),
                Err(_) => return Ok(()),
            }
        }
        let stopping = self.wish() != Wish::Keep;
        let moves = {
            let members = self.members.present(!stopping);
            let owners: Vec<_> = self
                .records
                .iter()
                .map(|record| record.owner.as_deref().filter(|owner| self.members.holds(owner)))
                .collect();
            moves(&View { owners: &owners, members: &members }, &self.keeper.member)
        };
        self.give_up(&moves.give_up);
        self.free_again(&moves.give_up).await;
        if stopping {
            return Ok(());
        }
        let mut claim = self.not_opened(&moves.give_up);
        claim.retain(|lane| self.records[*lane].claimed != Some(term));
        claim.extend(moves.claim);
        self.claim(&claim, term).await;
        self.open_what_is_ours(&moves.give_up, term).await?;
        if let Some(gone) = self.members.to_bury()
            && self.keeper.store.bury(&gone).await.is_ok()
        {
            self.members.buried(&gone);
        }
        Ok(())
    }

    fn give_up(&self, lanes: &[usize]) {
        let wish = self.wish();
        let now = Instant::now();
        // When the subscription stops, core says when its handlers have to end.
        let until = now + if wish == Wish::Keep { DRAIN } else { DRAIN * 120 };
        let owned = lock(&self.owned);
        for ownership in lanes.iter().filter_map(|lane| owned.get(lane)) {
            let mut going = ownership.going();
            if going.is_none() {
                *going = Some((now, until));
                ownership.handle.drain(until);
            }
        }
    }

    /// Frees the lanes that were given up and are idle.
    async fn free_what_is_done(&mut self) {
        let grace = if self.wish() == Wish::Drop { Duration::ZERO } else { DRAIN };
        let clock = self.keeper.settler.clock();
        let done: Vec<_> = lock(&self.owned)
            .iter()
            .filter(|(_, ownership)| {
                let idle = ownership.handle.book().is_idle(|token| clock.is_over(token));
                (idle && ownership.is_quiet()) || ownership.is_over(grace)
            })
            .map(|(lane, _)| *lane)
            .collect();
        let (store, records, owned) = (&self.keeper.store, &self.records, &self.owned);
        let frees = done.into_iter().take(AT_ONCE).map(|lane| async move {
            let removed = lock(owned).remove(&lane);
            if let Some(ownership) = removed {
                ownership.handle.lose();
                let last = ownership.handle.book().last_answer();
                store.barrier(last).await;
            }
            let freed = store.own(lane, None, records[lane].sequence).await;
            (lane, freed)
        });
        let freed: Vec<_> = join_all(frees).await;
        for (lane, freed) in freed {
            if let Ok(sequence) = freed {
                self.records[lane] = Record { sequence, ..Record::default() };
            }
        }
    }

    /// Frees what an earlier try did not.
    async fn free_again(&mut self, lanes: &[usize]) {
        for lane in lanes {
            if lock(&self.owned).contains_key(lane) {
                continue;
            }
            let since = self.records[*lane].sequence;
            if let Ok(sequence) = self.keeper.store.own(*lane, None, since).await {
                self.records[*lane] = Record { sequence, ..Record::default() };
            }
        }
    }

    async fn claim(&mut self, lanes: &[usize], term: u64) {
        let (store, member, records) = (&self.keeper.store, &self.keeper.member, &self.records);
        let claims = lanes.iter().take(AT_ONCE).map(|lane| async move {
            (*lane, store.own(*lane, Some(member), records[*lane].sequence).await)
        });
        let claimed: Vec<_> = join_all(claims).await;
        for (lane, claimed) in claimed {
            // Who was slower learns it from the feed, and so does who got no answer.
            match claimed {
                Ok(sequence) => {
                    let owner = Some(self.keeper.member.clone());
                    self.records[lane] = Record { owner, sequence, claimed: Some(term) };
                }
                Err(error) if error.kind() == ErrorKind::Conflict => self.conflicts += 1,
                Err(_) => {}
            }
        }
    }

    /// The lanes that the records say are ours and that are to be opened, or claimed before: the
    /// answer to a claim may be lost, and after a stall our records may be old.
    fn not_opened(&self, but: &[usize]) -> Vec<usize> {
        let owned = lock(&self.owned);
        let ours = |record: &Record| record.owner.as_deref() == Some(&*self.keeper.member);
        (0..self.records.len())
            .filter(|lane| ours(&self.records[*lane]))
            .filter(|lane| !owned.contains_key(lane) && !but.contains(lane))
            .take(AT_ONCE)
            .collect()
    }

    /// Opens the lanes that were claimed in this term.
    async fn open_what_is_ours(&mut self, but: &[usize], term: u64) -> Result<()> {
        let mut missing = self.not_opened(but);
        missing.retain(|lane| self.records[*lane].claimed == Some(term));
        let opened = join_all(missing.iter().map(|lane| self.open(*lane, term))).await;
        for (lane, opened) in missing.into_iter().zip(opened) {
            let (source, handle) = match opened {
                Ok(opened) => opened,
                Err(error) if error.retry() == posthaste_core::Retry::Transient => continue,
                Err(error) => return Err(error),
            };
            if handle.is_lost() {
                // Opening took longer than the term: somebody may have taken it over.
                continue;
            }
            let ownership = Arc::new(Ownership::new(handle));
            lock(&self.owned).insert(lane, ownership);
            if self.keeper.opened.send(FromKeeper::Opened(Box::new(source))).await.is_err() {
                // The driver is gone; the wish says so too.
                return Ok(());
            }
            self.keeper.signals.driver.wake();
        }
        Ok(())
    }

    async fn open(&self, lane: usize, term: u64) -> Result<(Source, Arc<LaneHandle>)> {
        let Keeper { hub, topic, settler, signals, .. } = &self.keeper;
        let spec = self.keeper.consumers[lane].clone();
        let info = groups::info(hub, &spec.stream, &spec.name).await?;
        let lane = Arc::new(Lane::new(topic.clone(), spec.partition));
        let (validity, signals) = (Arc::clone(&self.validity), Arc::clone(signals));
        let handle = Arc::new(LaneHandle::new(lane, settler.number(), validity, term, signals));
        settler.keep(&handle);
        let mut source =
            Source::open(hub, spec, topic.clone(), Arc::clone(&handle.lane), handle.number, &info)
                .await?;
        source.order_by(Arc::clone(&handle), &info);
        Ok((source, handle))
    }
}
