//! A member of a group: it takes what comes, makes of it what the seed says, and tells the books.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Delivery, ErrorKind, Nack, Result, Subscription, SubscriptionEvent};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::audit::{Audit, Ending, Held, Wrong};
use super::fate::{Fate, Fates};

/// How many deliveries are taken at once, at most. They are all in hand at the same time.
const AT_ONCE: usize = 64;

/// By which attempt a failed message becomes a dead letter. Deliveries that an outage took away
/// count too, so that nothing fails at its last one: whatever else is given up is a finding.
pub(super) const MAX_ATTEMPTS: u32 = 5;

/// A member's part.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) audit: Arc<Audit>,
    pub(super) fates: Fates,
    pub(super) group: usize,
    pub(super) member: usize,
}

/// Works until it is told to stop; then it takes nothing new, and finishes what is in hand. When
/// aborted, everything in hand is dropped. What ends it otherwise is a finding.
pub(super) async fn work(
    part: Part,
    mut inbox: Subscription,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let (mut events, stopper) = (inbox.events(), inbox.stopper());
    let mut handlers = JoinSet::new();
    loop {
        tokio::select! {
            // Once; after it the sender may be gone.
            Ok(()) = stop.changed() => stopper.stop(),
            batch = inbox.next_batch(AT_ONCE) => match batch {
                Some(Ok(batch)) => part.take(batch, &mut handlers).await,
                Some(Err(error)) => {
                    let what = format!("a subscription of group {} ended: {error:?}", part.group);
                    part.audit.find(Wrong::Failed, what);
                    return;
                }
                None => break,
            },
            Some(ended) = handlers.join_next(), if !handlers.is_empty() => part.joined(ended),
            Some(event) = events.next() => part.heard(&event),
        }
    }
    while let Some(ended) = handlers.join_next().await {
        part.joined(ended);
    }
    if let Err(error) = inbox.stop(drain).await {
        part.audit.find(Wrong::Failed, format!("a stop with nothing in hand: {error:?}"));
    }
}

impl Part {
    /// Quick ones are settled together when all of them are in hand; the others in tasks.
    async fn take(&self, batch: Vec<Delivery>, handlers: &mut JoinSet<()>) {
        let mut quick = Vec::with_capacity(batch.len());
        for delivery in batch {
            let delivery = Arc::new(delivery);
            let Some(held) = self.audit.begin(self.group, self.member, &delivery) else {
                // Somebody else has it, or it is none of ours. Either way it is out of the way.
                if let Some(delivery) = Arc::into_inner(delivery).filter(|one| !one.is_lost()) {
                    self.check(delivery.ack().await);
                }
                continue;
            };
            let may_fail = held.is_first() && delivery.attempt() < MAX_ATTEMPTS;
            let fate = self.fates.of(self.group, held.tag(), may_fail);
            if fate == Fate::Quick {
                quick.push((held, delivery));
            } else {
                handlers.spawn(self.clone().handle(held, delivery, fate));
            }
        }
        tokio::task::yield_now().await;
        for (held, delivery) in quick {
            self.finish(held, delivery, Fate::Quick).await;
        }
    }

    async fn handle(self, held: Held, delivery: Arc<Delivery>, fate: Fate) {
        if let Fate::Slow(takes) | Fate::SlowerThanTheLease(takes) = fate {
            // The work: it takes some time, and stops when the delivery is taken away.
            tokio::select! {
                biased;
                () = delivery.lost() => return,
                () = tokio::time::sleep(takes) => {}
            }
        }
        self.finish(held, delivery, fate).await;
    }

    /// First the books, then the broker: what comes next of a key may begin at once.
    async fn finish(&self, held: Held, delivery: Arc<Delivery>, fate: Fate) {
        if delivery.is_lost() {
            return;
        }
        let tag = held.tag();
        let ending = match fate {
            Fate::Quick | Fate::Slow(_) | Fate::SlowerThanTheLease(_) | Fate::Confirmed => {
                Ending::Acknowledged
            }
            Fate::DeadLetter => Ending::DeadLettered,
            Fate::Requeue | Fate::Later(_) | Fate::Release | Fate::Drop => Ending::Undone,
        };
        held.end(ending);
        // The books have let go of it.
        let Some(delivery) = Arc::into_inner(delivery) else { return };
        let settled = match fate {
            Fate::Quick | Fate::Slow(_) | Fate::SlowerThanTheLease(_) => delivery.ack().await,
            Fate::Confirmed => delivery.ack_confirmed().await,
            Fate::DeadLetter => delivery.nack(Nack::dead_letter(Rejected)).await,
            Fate::Requeue => delivery.nack(Nack::requeue()).await,
            Fate::Later(delay) => delivery.nack(Nack::after(delay)).await,
            Fate::Release => delivery.release().await,
            Fate::Drop => return,
        };
        if settled.is_err() {
            self.audit.refused(self.group, tag, ending);
        }
        self.check(settled);
    }

    /// A settlement may come too late or not get through; nothing else.
    fn check(&self, settled: Result<()>) {
        let expected = [ErrorKind::LeaseLost, ErrorKind::Connection, ErrorKind::Timeout];
        if let Err(error) = settled
            && !expected.contains(&error.kind())
        {
            self.audit.find(Wrong::Failed, format!("a settlement: {error:?}"));
        }
    }

    fn joined(&self, ended: std::result::Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            self.audit.find(Wrong::Failed, format!("a handler: {error}"));
        }
    }

    fn heard(&self, event: &SubscriptionEvent) {
        match event {
            SubscriptionEvent::Disconnected { reason } => {
                self.audit.heard(self.member, &format!("disconnected ({reason})"));
            }
            SubscriptionEvent::Reconnected => {
                self.audit.heard(self.member, "reconnected");
            }
            SubscriptionEvent::LaneAssigned { partition, .. } => {
                self.audit.lane(self.member, *partition, true);
            }
            SubscriptionEvent::LaneRevoked { partition, .. } => {
                self.audit.lane(self.member, *partition, false);
            }
            SubscriptionEvent::Lost { .. } | SubscriptionEvent::Discarded { .. } => {
                self.audit.find(Wrong::Failed, format!("{event:?}"));
            }
            _ => {}
        }
    }
}

/// Why a message is for the dead letters here.
#[derive(Debug)]
struct Rejected;

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the seed rejects it")
    }
}

impl std::error::Error for Rejected {}
