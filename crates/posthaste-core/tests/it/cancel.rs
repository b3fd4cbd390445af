//! Every public call, dropped at every point where it waits: nothing is lost, nothing is stuck.
//!
//! On the memory broker with virtual time, with and without faults. After each dropped call the
//! same proof of life is asked for: what was confirmed is delivered, everything can be settled,
//! and the end comes in time.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::{FutureExt, maybe_done};
use posthaste_core::*;
use posthaste_memory::{Faults, MemoryBroker};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Where a call is dropped.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// After so many polls, none of which waits for anything.
    Polls(usize),
    /// After that time.
    Time(Duration),
}

const CUTS: [Cut; 10] = [
    Cut::Polls(0),
    Cut::Polls(1),
    Cut::Polls(2),
    Cut::Polls(3),
    Cut::Polls(5),
    Cut::Time(MILLISECOND),
    Cut::Time(Duration::from_millis(7)),
    Cut::Time(Duration::from_millis(25)),
    Cut::Time(Duration::from_millis(60)),
    Cut::Time(SECOND),
];

/// Drops the call there, or returns its outcome if it was done before.
async fn dropped<F: Future>(cut: Cut, call: F) -> Option<F::Output> {
    let mut call = Box::pin(call);
    match cut {
        Cut::Polls(polls) => {
            for _ in 0..polls {
                if let Some(outcome) = call.as_mut().now_or_never() {
                    return Some(outcome);
                }
                tokio::task::yield_now().await;
            }
            None
        }
        Cut::Time(time) => timeout(time, call).await.ok(),
    }
}

/// A topic with a group, two deliveries in hand, and what was confirmed.
struct World {
    broker: MemoryBroker,
    bus: Bus,
    publisher: Publisher,
    inbox: Option<Subscription>,
    held: Vec<Delivery>,
    confirmed: BTreeSet<String>,
    handled: BTreeSet<String>,
}

fn envelope(id: &str) -> Envelope {
    let key = id[..1].to_owned();
    Envelope::builder("test.sent").source("/test").id(id.to_owned()).key(key).build().unwrap()
}

impl World {
    async fn new(ordered: bool, faults: Option<Faults>) -> Self {
        let broker = MemoryBroker::new();
        let builder = Bus::builder(broker.clone()).source("/test").window(4, 1 << 20);
        let bus = builder.drain(5 * SECOND).build().unwrap();
        let topic = TopicConfig::new("orders").group("billing");
        let topic = if ordered { topic.ordered(2) } else { topic };
        bus.ensure(topic).await.unwrap();
        let publisher = bus.publisher("orders").unwrap();
        let mut world = Self {
            broker,
            publisher,
            inbox: None,
            held: Vec::new(),
            confirmed: BTreeSet::new(),
            handled: BTreeSet::new(),
            bus,
        };
        for id in ["a1", "b1", "a2", "b2"] {
            world.publisher.publish_envelope(envelope(id)).await.unwrap();
            world.confirmed.insert(id.to_owned());
        }
        let mut inbox = world.subscribe(ordered).start().await.unwrap();
        for _ in 0..2 {
            world.held.push(inbox.next().await.unwrap().unwrap());
        }
        world.inbox = Some(inbox);
        if let Some(faults) = faults {
            world.broker.inject(faults);
        }
        world
    }

    fn subscribe(&self, ordered: bool) -> SubscribeBuilder {
        let builder = self.bus.subscribe("orders").group("billing").prefetch(4).lease(2 * SECOND);
        if ordered { builder.order(Order::PerKey) } else { builder }
    }

    /// What was confirmed is delivered and can be settled, the rest is resolved, the end comes.
    async fn proves_alive(mut self, ordered: bool) {
        self.broker.heal();
        for delivery in std::mem::take(&mut self.held) {
            self.handled.insert(delivery.id().to_owned());
            let _ = delivery.ack().await;
        }
        timeout(40 * SECOND, self.publisher.flush()).await.expect("something is unresolved");
        let last = ["a9", "b9"];
        for id in last {
            let sent = self.publisher.publish_envelope(envelope(id));
            timeout(SECOND, sent).await.expect("no room").unwrap();
            self.confirmed.insert(id.to_owned());
        }
        let mut inbox = match self.inbox.take() {
            Some(inbox) => inbox,
            None => self.subscribe(ordered).start().await.unwrap(),
        };
        while !self.handled.is_superset(&self.confirmed) {
            let next = timeout(60 * SECOND, inbox.next()).await;
            let missing: Vec<_> = self.confirmed.difference(&self.handled).collect();
            let next = next.unwrap_or_else(|_| panic!("never delivered: {missing:?}"));
            match next {
                Some(delivery) => {
                    let delivery = delivery.unwrap();
                    self.handled.insert(delivery.id().to_owned());
                    let _ = delivery.ack().await;
                }
                // It was stopped by the call under test.
                None => inbox = self.subscribe(ordered).start().await.unwrap(),
            }
        }
        // Copies that are still under way are settled, too.
        while let Ok(Some(delivery)) = timeout(40 * SECOND, inbox.next()).await {
            delivery.unwrap().ack().await.unwrap();
        }
        timeout(8 * SECOND, inbox.stop(5 * SECOND)).await.expect("stop hangs").unwrap();
        let lag = self.bus.admin().lag("orders", "billing").await.unwrap();
        assert_eq!((lag.total(), lag.in_flight), (0, Some(0)), "{lag:?}");
        let closed = timeout(8 * SECOND, self.bus.close(5 * SECOND)).await;
        closed.expect("close hangs").unwrap();
    }
}

type Call = for<'a> fn(&'a mut World, Cut) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! calls {
    ($(($name:literal, |$world:ident, $cut:ident| $body:expr)),* $(,)?) => {
        [$(($name, {
            let call: Call = |$world, $cut| Box::pin(async move { $body });
            call
        })),*]
    };
}

/// A confirmation of a dropped call's message counts like any other.
fn confirm(world: &mut World, outcome: Option<Result<Confirmed>>) {
    if let Some(Ok(confirmed)) = outcome {
        world.confirmed.insert(confirmed.id().to_owned());
    }
}

fn calls() -> Vec<(&'static str, Call)> {
    let publishing = calls![
        ("publish", |world, cut| {
            let outcome = dropped(cut, world.publisher.publish_envelope(envelope("a3"))).await;
            confirm(world, outcome);
        }),
        ("publish_with", |world, cut| {
            let options = PublishOptions::new().deadline(Duration::from_millis(30)).subject("s");
            let call = world.publisher.publish_envelope_with(envelope("a3"), options);
            let outcome = dropped(cut, call).await;
            confirm(world, outcome);
        }),
        ("enqueue", |world, cut| {
            for id in ["a3", "a4", "b3", "a5", "b4", "a6"] {
                let call = world.publisher.enqueue_envelope(envelope(id));
                if let Some(receipt) = dropped(cut, call).await {
                    let outcome = dropped(cut, receipt.unwrap()).await;
                    confirm(world, outcome);
                }
            }
        }),
        ("publish beside others", |world, cut| {
            let publisher = world.publisher.clone();
            let others = ["a3", "b3", "a4", "b4", "a5"].map(envelope);
            let mut others =
                others.map(|envelope| Box::pin(maybe_done(publisher.publish_envelope(envelope))));
            for other in &mut others {
                let _ = other.now_or_never();
            }
            drop(dropped(cut, publisher.publish_envelope(envelope("a6"))).await);
            for mut other in others {
                timeout(40 * SECOND, &mut other).await.expect("stuck behind a dropped call");
                confirm(world, other.as_mut().take_output());
            }
        }),
        ("publish_all", |world, cut| {
            let batch = ["a3", "b3", "a4", "b4", "a5", "b5", "a6"].map(envelope).to_vec();
            if let Some(report) = dropped(cut, world.publisher.publish_all_envelopes(batch)).await {
                report.into_outcomes().into_iter().for_each(|one| confirm(world, Some(one)));
            }
        }),
        ("flush", |world, cut| {
            let receipt = world.publisher.enqueue_envelope(envelope("a3")).await.unwrap();
            let _ = dropped(cut, world.publisher.flush()).await;
            let outcome = timeout(40 * SECOND, receipt).await.expect("stuck");
            confirm(world, Some(outcome));
        }),
        ("close", |world, cut| {
            // The bus is closed whether or not the call is dropped; another one goes on.
            let held = std::mem::take(&mut world.held);
            drop(world.inbox.take());
            drop(held);
            let _ = dropped(cut, world.bus.close(5 * SECOND)).await;
            let bus = Bus::builder(world.broker.clone()).source("/test").build().unwrap();
            world.publisher = bus.publisher("orders").unwrap();
            world.bus = bus;
        }),
    ];
    let receiving = calls![
        ("start", |world, cut| {
            let call = world.bus.subscribe("orders").group("other").start();
            drop(dropped(cut, call).await);
        }),
        ("next", |world, cut| {
            let inbox = world.inbox.as_mut().unwrap();
            if let Some(Some(Ok(delivery))) = dropped(cut, inbox.next()).await {
                world.held.push(delivery);
            }
        }),
        ("next_batch", |world, cut| {
            let inbox = world.inbox.as_mut().unwrap();
            if let Some(Some(Ok(batch))) = dropped(cut, inbox.next_batch(3)).await {
                world.held.extend(batch);
            }
        }),
        ("events and stopped", |world, cut| {
            let inbox = world.inbox.as_mut().unwrap();
            drop(dropped(cut, inbox.events().next()).await);
            let _ = dropped(cut, inbox.stopper().stopped()).await;
        }),
        ("stop", |world, cut| {
            let inbox = world.inbox.take().unwrap();
            drop(dropped(cut, inbox.stop(5 * SECOND)).await);
        }),
        ("ack", |world, cut| {
            let delivery = world.held.remove(0);
            let id = delivery.id().to_owned();
            if dropped(cut, delivery.ack()).await.is_some() {
                world.handled.insert(id);
            }
        }),
        ("ack_confirmed", |world, cut| {
            let delivery = world.held.remove(0);
            // Polled once, it counts as handled.
            if !matches!(cut, Cut::Polls(0)) {
                world.handled.insert(delivery.id().to_owned());
            }
            drop(dropped(cut, delivery.ack_confirmed()).await);
        }),
        ("nack", |world, cut| {
            let delivery = world.held.remove(0);
            drop(dropped(cut, delivery.nack(Nack::after(SECOND))).await);
        }),
        ("release", |world, cut| {
            let delivery = world.held.remove(0);
            drop(dropped(cut, delivery.release()).await);
        }),
        ("extend and lost", |world, cut| {
            drop(dropped(cut, world.held[0].extend()).await);
            let _ = dropped(cut, world.held[0].lost()).await;
        }),
        ("split", |world, cut| {
            let (_, settle) = world.held.remove(0).split();
            drop(dropped(cut, settle.nack(Nack::requeue())).await);
        }),
    ];
    publishing.into_iter().chain(receiving).collect()
}

async fn every_call_at_every_cut(faults: impl Fn(u64) -> Option<Faults>, seeds: u64) {
    for ordered in [false, true] {
        for (name, call) in calls() {
            for cut in CUTS {
                for seed in 0..seeds {
                    let proof = async {
                        let mut world = World::new(ordered, faults(seed)).await;
                        call(&mut world, cut).await;
                        world.proves_alive(ordered).await;
                    };
                    let proof = std::panic::AssertUnwindSafe(timeout(1_000 * SECOND, proof));
                    let proven = proof.catch_unwind().await;
                    assert!(
                        matches!(proven, Ok(Ok(()))),
                        "{name} dropped at {cut:?}, ordered: {ordered}, seed: {seed}"
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_broker_that_works() {
    every_call_at_every_cut(|_| None, 1).await;
}

#[tokio::test(start_paused = true)]
async fn on_a_broker_whose_publishes_fail() {
    let faults = |seed| {
        let faults = Faults::seeded(seed).fail_publish(0.3).lose_reply(0.3);
        Some(faults.delay(0.5, Duration::from_millis(40)))
    };
    every_call_at_every_cut(faults, 3).await;
}

#[tokio::test(start_paused = true)]
async fn on_a_broker_whose_connections_break() {
    let faults =
        |seed| Some(Faults::seeded(seed).disconnect(0.5, Duration::from_millis(20)).duplicate(0.3));
    every_call_at_every_cut(faults, 3).await;
}
