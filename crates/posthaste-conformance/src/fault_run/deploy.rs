//! Rolling deploys: the members of a group are stopped, dropped, killed and started anew, one
//! after the other, while messages come.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use posthaste_core::{Order, Result, Subscription};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::audit::{Audit, Wrong};
use super::fate::Fates;
use super::member::{MAX_ATTEMPTS, Part, work};
use super::plan::Plan;
use super::stage::{Connected, Stage, Way};
use crate::child;

/// How many members a group has most of the time.
const MEMBERS: usize = 3;
/// How long a stop may wait for what is in hand, beyond the longest handler.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a bus may take to close.
const CLOSE: Duration = Duration::from_secs(10);
/// How many deliveries a process holds when it is killed.
const HELD: usize = 32;
/// How long a process may take to get them.
const HOLDING: Duration = Duration::from_secs(10);
/// Between two tries to start a member.
const AGAIN: Duration = Duration::from_millis(200);

/// Whoever deploys a group.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) stage: Arc<Stage>,
    pub(super) audit: Arc<Audit>,
    pub(super) plan: Plan,
    pub(super) group: usize,
    pub(super) fates: Fates,
    /// Whether processes can be killed here.
    pub(super) has_children: bool,
}

/// A member at work.
#[derive(Debug)]
struct Working {
    number: usize,
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
    // Dropped last: what the member still has to say goes over it.
    connected: Connected,
}

impl Crew {
    /// Starts the members, changes them until it is told to end, and stops all of them in good
    /// order.
    pub(super) async fn run(self, mut end: watch::Receiver<bool>) {
        let mut chance = Rng::with_seed(self.plan.seed ^ (self.group as u64 + 1).rotate_left(40));
        let mut working = Vec::new();
        for turn in 0..MEMBERS {
            working.extend(self.start(way(turn)).await);
        }
        let mut turn = MEMBERS;
        loop {
            let (shortest, longest) = self.plan.gap;
            let pause = shortest + (longest * 2 - shortest).mul_f64(chance.f64());
            let (action, who) = (chance.u32(..10), chance.usize(..));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = end.wait_for(|end| *end) => break,
            }
            turn += 1;
            let leaving = (!working.is_empty()).then(|| working.swap_remove(who % working.len()));
            match action {
                // Out with the old one first, or in with the new one first.
                0..3 => {
                    self.stop(leaving).await;
                    working.extend(self.start(way(turn)).await);
                }
                3..5 => {
                    working.extend(self.start(way(turn)).await);
                    self.stop(leaving).await;
                }
                5..8 => {
                    self.abandon(leaving).await;
                    working.extend(self.start(way(turn)).await);
                }
                _ => {
                    working.extend(leaving);
                    self.kill_a_process().await;
                }
            }
        }
        for one in working {
            self.stop(Some(one)).await;
        }
    }

    /// A new member, as soon as that is possible.
    async fn start(&self, way: Way) -> Option<Working> {
        let begun = Instant::now();
        loop {
            let tried = self.try_start(way).await;
            // Whoever cannot start while nothing is broken is stuck.
            let well =
                self.audit.well_for().map_or(Duration::ZERO, |well| well.min(begun.elapsed()));
            if well > self.plan.stall {
                let found = match &tried {
                    Ok(_) => "only now".to_owned(),
                    Err(error) => format!("not yet: {error:?}"),
                };
                let group = &self.stage.groups[self.group].name;
                let words =
                    format!("a member of {group} took {:?} to start, {found}", begun.elapsed());
                self.audit.find(Wrong::Stalled, words);
                return tried.ok();
            }
            match tried {
                Ok(working) => return Some(working),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn try_start(&self, way: Way) -> Result<Working> {
        let connected = self.stage.bus(way, self.plan.patience()).await?;
        let inbox = self.subscribe(&connected).await?;
        let audit = Arc::clone(&self.audit);
        let number = audit.join(self.group, format!("{} ({way:?})", inbox.member()));
        let part = Part { audit, fates: self.fates, group: self.group, member: number };
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(work(part, inbox, stopped, DRAIN));
        Ok(Working { number, stop, task, connected })
    }

    async fn subscribe(&self, connected: &Connected) -> Result<Subscription> {
        let group = &self.stage.groups[self.group];
        let topic = &self.stage.topics[group.topic];
        let order = if topic.ordered { Order::PerKey } else { Order::None };
        let member = connected.bus.subscribe(&topic.name).group(&group.name);
        member.order(order).lease(self.plan.lease).max_attempts(MAX_ATTEMPTS).start().await
    }

    /// In good order.
    async fn stop(&self, leaving: Option<Working>) {
        let Some(mut one) = leaving else { return };
        one.stop.send_replace(true);
        let within = DRAIN + self.plan.lease * 3;
        if timeout(within, one.task.join_next()).await.is_err() {
            let number = one.number;
            self.audit
                .find(Wrong::Stalled, format!("member {number} has not stopped in {within:?}"));
        }
        self.audit.leave(one.number, false);
        // While something is broken it may not close in time.
        let _ = one.connected.bus.close(CLOSE).await;
    }

    /// With everything in hand, and without a goodbye.
    async fn abandon(&self, leaving: Option<Working>) {
        let Some(Working { number, mut task, connected, .. }) = leaving else { return };
        self.audit.leave(number, true);
        task.shutdown().await;
        drop(connected);
    }

    /// A process that is killed with deliveries in hand.
    async fn kill_a_process(&self) {
        let group = &self.stage.groups[self.group];
        let topic = &self.stage.topics[group.topic];
        // It asks for no order, and so gets nothing of an ordered topic.
        if !self.has_children || topic.ordered {
            return;
        }
        let (instance, lease) = (&*self.stage.instance, self.plan.lease);
        let spawned = child::consumer(instance, &topic.name, &group.name, HELD, lease);
        let mut process = match spawned {
            Ok(process) => process,
            Err(error) => return self.audit.find(Wrong::Failed, format!("no process: {error:?}")),
        };
        let holding = async {
            let wanted = child::holding(HELD);
            // It ends by itself where the broker is away.
            while let Ok(Some(line)) = process.next_line(HOLDING).await {
                if line == wanted {
                    return true;
                }
            }
            false
        };
        let held = timeout(HOLDING, holding).await.unwrap_or(false);
        if let Err(error) = process.kill().await {
            self.audit.find(Wrong::Failed, format!("a process was not killed: {error:?}"));
        }
        self.audit.killed_a_process(held);
    }
}

/// By turns.
const fn way(turn: usize) -> Way {
    if turn.is_multiple_of(2) { Way::Direct } else { Way::Linked }
}
