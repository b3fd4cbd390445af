//! Ordered groups: one owner for each lane, and an order that holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthaste_core::TopicConfig;
use posthaste_core::broker::{
    Broker as _, Confirmation, DriverEvent, LaneState, Order, Received, SettleOutcome, Settlement,
    SubscribeRequest, Verdict,
};
use posthaste_nats::NatsBroker;
use tokio::time::Instant;

use crate::drive::{
    Reader, ensure, fresh, group, keyed, parcel, publish_one, request, text, topic,
};
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.both("one_member_has_all_lanes_and_keeps_their_order", one_member);
    suite.both("members_share_the_lanes_and_move_only_what_they_must", share);
    suite.both("a_member_that_stops_hands_over_at_once", handover);
    suite.both("a_member_that_dies_is_followed_in_order", death);
    suite.both("a_member_that_stalls_finds_its_lanes_gone", stall);
    suite.both("what_was_given_back_comes_before_what_is_newer", given_back);
    suite.both("without_a_group_the_order_holds_too", without_group);
    suite.both("what_is_beside_the_partitions_is_read_too", beside);
    suite.private("order_holds_over_kills_of_the_server", kills);
}

const KEYS: usize = 11;

fn ordered(name: &str, group: Option<&str>) -> SubscribeRequest {
    let mut ask = request(&[name], group);
    ask.order = Order::PerKey;
    ask.lease = Duration::from_secs(3);
    ask
}

async fn publish(
    broker: &NatsBroker,
    to: &posthaste_core::broker::Destination,
    n: std::ops::Range<usize>,
) {
    for number in n {
        let key = format!("key-{}", number % KEYS);
        loop {
            let one = keyed(&key, number.to_string());
            match publish_one(broker, to, one).await {
                Ok(_) => break,
                // What may be stored is published under another id here: only once, then.
                Err(error) => assert!(!error.may_be_stored(), "{error}"),
            }
        }
    }
}

/// What was handled, by key, in order.
#[derive(Default)]
struct Handled {
    by_key: BTreeMap<Vec<u8>, Vec<usize>>,
    all: BTreeSet<usize>,
}

impl Handled {
    /// Notes a message; it must not be older than what was handled of its key.
    fn note(&mut self, received: &Received) {
        let number: usize = text(received).parse().unwrap();
        let key = received.envelope.key().unwrap().to_vec();
        let before = self.by_key.entry(key.clone()).or_default();
        let backwards = before.last().is_some_and(|last| *last > number);
        assert!(!backwards, "{number} of {} after {before:?}", String::from_utf8_lossy(&key));
        before.push(number);
        self.all.insert(number);
    }
}

async fn one_member(server: Server) {
    let broker = server.connect().await;
    let name = fresh("one");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(4).group("g")).await;
    let mut reader = Reader::start(&broker, ordered(&name, Some("g"))).await;
    publish(&broker, &to, 0..300).await;
    let mut handled = Handled::default();
    while handled.all.len() < 300 {
        let batch = reader.next().await.unwrap();
        batch.iter().for_each(|received| handled.note(received));
        assert!(batch.iter().all(|received| received.position.partition.unwrap() < 4));
        reader.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
    let assigned = assigned(&reader.events);
    // Four partitions, what is beside them, and the private channel.
    assert_eq!(assigned.len(), 6, "{:?}", reader.events);
    reader.stop().await;
    let lag = broker.admin().lag(&topic(&name), &group("g")).await.unwrap();
    assert_eq!(lag.total(), 0);
}

fn assigned(events: &[DriverEvent]) -> Vec<Option<u32>> {
    let mut lanes = Vec::new();
    for event in events {
        match event {
            DriverEvent::LaneAssigned(lane) => lanes.push(lane.partition()),
            DriverEvent::LaneRevoked(lane) => {
                let at = lanes.iter().position(|partition| *partition == lane.partition());
                lanes.remove(at.expect("revoked after it was assigned"));
            }
            _ => {}
        }
    }
    lanes
}

async fn share(server: Server) {
    let broker = server.connect().await;
    let name = fresh("share");
    ensure(&broker, TopicConfig::new(&name).ordered(6).group("g")).await;
    let mut one = Reader::start(&broker, ordered(&name, Some("g"))).await;
    one.until(|events| assigned(events).len() == 8).await;
    let before = one.events.len();
    let mut two = Reader::start(&broker, ordered(&name, Some("g"))).await;
    let halves = async {
        tokio::join!(
            one.until(|events| assigned(events).len() == 4),
            two.until(|events| assigned(events).len() == 4),
        )
    };
    let start = Instant::now();
    halves.await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(one.events.len() - before, 4, "only what must move moves: {:?}", one.events);
    let start = Instant::now();
    one.stop().await;
    two.until(|events| assigned(events).len() == 8).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

async fn handover(server: Server) {
    let broker = server.connect().await;
    let name = fresh("handover");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(3).group("g")).await;
    let mut one = Reader::start(&broker, ordered(&name, Some("g"))).await;
    publish(&broker, &to, 0..400).await;
    let mut handled = Handled::default();
    while handled.all.len() < 100 {
        let batch = one.next().await.unwrap();
        batch.iter().for_each(|received| handled.note(received));
        one.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
    // What it holds it gives back.
    let held = one.next().await.unwrap();
    one.settle(held.iter().map(|r| (r, Verdict::Release(parcel(r))))).await;
    one.stop().await;
    let stopped = Instant::now();
    let mut two = Reader::start(&broker, ordered(&name, Some("g"))).await;
    let mut first = None;
    while handled.all.len() < 400 {
        let batch = two.next().await.unwrap();
        first.get_or_insert(stopped.elapsed());
        batch.iter().for_each(|received| handled.note(received));
        two.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
    assert!(first.unwrap() < Duration::from_secs(2), "{first:?}");
}

async fn death(server: Server) {
    let broker = server.connect().await;
    let name = fresh("death");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(3).group("g")).await;
    publish(&broker, &to, 0..300).await;
    // A runtime of its own dies with all of its tasks, as a process does.
    let dying =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (other, request) = (server.clone(), ordered(&name, Some("g")));
    let settled = dying.spawn(async move {
        let broker = other.connect().await;
        let mut one = Reader::start(&broker, request).await;
        let mut settled = BTreeSet::new();
        let (mut handled, mut batches) = (Handled::default(), 0);
        while batches < 3 || handled.all.len() < 60 {
            let batch = one.next().await.unwrap();
            batches += 1;
            batch.iter().for_each(|received| handled.note(received));
            // Every third is acknowledged, out of order; the others die with it.
            let number = |received: &Received| text(received).parse::<usize>().unwrap();
            let done: Vec<_> = batch.iter().filter(|r| number(r) % 3 == 0).collect();
            settled.extend(done.iter().map(|received| number(received)));
            one.settle_confirmed(done.into_iter().map(|r| (r, Verdict::Ack))).await;
        }
        // Nothing of it says goodbye.
        std::mem::forget((one, broker));
        settled
    });
    let settled = settled.await.unwrap();
    dying.shutdown_background();
    let start = Instant::now();
    let mut two = Reader::start(&broker, ordered(&name, Some("g"))).await;
    let mut after = Handled::default();
    while settled.len() + after.all.len() < 300 {
        let batch = two.next().await.unwrap();
        for received in &batch {
            after.note(received);
            let number: usize = text(received).parse().unwrap();
            assert!(!settled.contains(&number), "{number} was settled before");
        }
        two.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

/// A member whose process stands still, with its connection and its deliveries, until others have
/// taken its lanes over.
async fn stall(server: Server) {
    let broker = server.connect().await;
    let name = fresh("stall");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(3).group("g")).await;
    publish(&broker, &to, 0..200).await;
    let (stalls, stalled) = tokio::sync::oneshot::channel();
    let (resume, resumes) = std::sync::mpsc::sync_channel::<()>(1);
    let (other, request) = (server.clone(), ordered(&name, Some("g")));
    let member = std::thread::spawn(move || {
        // One thread: nothing of the member runs while it stands still.
        let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        one.block_on(async {
            let broker = other.connect().await;
            let mut one = Reader::start(&broker, request).await;
            let mut handled = Handled::default();
            while handled.all.len() < 60 {
                let batch = one.next().await.unwrap();
                batch.iter().for_each(|received| handled.note(received));
                one.settle_confirmed(batch.iter().map(|r| (r, Verdict::Ack))).await;
            }
            let held = one.next().await.unwrap();
            stalls.send(handled.all).unwrap();
            resumes.recv().unwrap();
            // Nothing of what it says now touches what is somebody else's.
            let back = |r: &Received| Verdict::Requeue(parcel(r));
            let late: Vec<_> =
                held.iter().map(|r| Settlement::new(r.token.clone(), back(r))).collect();
            let report = one.settler().settle(&late, Confirmation::Sent).await.unwrap();
            let lost =
                |(_, outcome): &(_, SettleOutcome)| matches!(outcome, SettleOutcome::LeaseLost);
            assert_eq!(report.into_exceptions().into_iter().filter(lost).count(), held.len());
            one.unsettled = 0;
            // What comes to it from now on is of lanes that it was given anew.
            let gone = |events: &[DriverEvent]| {
                events.iter().filter(|e| matches!(e, DriverEvent::LaneRevoked(_))).count() >= 5
            };
            let told = tokio::time::timeout(Duration::from_secs(10), one.until(gone)).await;
            assert!(told.is_ok(), "{:?}", one.events);
            assert!(held.iter().all(|received| received.lane.state() == LaneState::Lost));
            // It opened nothing on the strength of what it knew before.
            let anew = one.events.iter().filter_map(|event| match event {
                DriverEvent::LaneAssigned(lane) => Some(lane.state()),
                _ => None,
            });
            assert!(anew.skip(5).all(|state| state == LaneState::Live), "{:?}", one.events);
            one.stop().await
        })
    });
    let settled = stalled.await.unwrap();
    let mut two = Reader::start(&broker, ordered(&name, Some("g"))).await;
    let (mut after, start) = (Handled::default(), Instant::now());
    while settled.len() + after.all.len() < 200 {
        for received in two.next().await.unwrap() {
            after.note(&received);
            let number: usize = text(&received).parse().unwrap();
            assert!(!settled.contains(&number), "{number} was settled before");
            two.settle_confirmed(std::iter::once((&received, Verdict::Ack))).await;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    resume.send(()).unwrap();
    let joined = tokio::task::spawn_blocking(|| member.join().unwrap());
    tokio::select! {
        given_back = joined => assert_eq!(given_back.unwrap(), 0),
        again = two.next() => panic!("delivered again: {again:?}"),
    }
    assert_eq!(broker.admin().lag(&topic(&name), &group("g")).await.unwrap().total(), 0);
}

async fn given_back(server: Server) {
    let broker = server.connect().await;
    let name = fresh("back");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(1).group("g")).await;
    let mut ask = ordered(&name, Some("g"));
    ask.prefetch.count = 8;
    let mut one = Reader::start(&broker, ask.clone()).await;
    publish(&broker, &to, 0..40).await;
    let mut held = Vec::new();
    while held.len() < 8 {
        held.extend(one.next().await.unwrap());
    }
    // The first is handled, the others go back, the last first.
    one.settle([(&held[0], Verdict::Ack)].into_iter()).await;
    let back = held[1..].iter().rev().map(|r| (r, Verdict::Release(parcel(r))));
    one.settle(back).await;
    one.stop().await;
    let mut two = Reader::start(&broker, ask).await;
    let got = two.drain(39).await;
    let expected: Vec<_> = (1..40).map(|number| number.to_string()).collect();
    assert_eq!(got, expected);
}

async fn without_group(server: Server) {
    let broker = server.connect().await;
    let name = fresh("ephemeral");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(4)).await;
    let mut reader = Reader::start(&broker, ordered(&name, None)).await;
    publish(&broker, &to, 0..60).await;
    let mut handled = Handled::default();
    while handled.all.len() < 60 {
        let batch = reader.next().await.unwrap();
        batch.iter().for_each(|received| handled.note(received));
        reader.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
}

async fn beside(server: Server) {
    let broker = server.connect().await;
    let name = fresh("beside");
    ensure(&broker, TopicConfig::new(&name).ordered(4).group("g")).await;
    let mut reader = Reader::start(&broker, ordered(&name, Some("g"))).await;
    let context = async_nats::jetstream::new(server.native().await);
    for subject in ["elsewhere", "p.2"] {
        let subject = format!("{name}.__of4.{subject}");
        context.publish(subject, "foreign".into()).await.unwrap().await.unwrap();
    }
    let mut partitions = Vec::new();
    while partitions.len() < 2 {
        let batch = reader.next().await.unwrap();
        assert!(batch.iter().all(|received| received.envelope.is_foreign()));
        partitions.extend(batch.iter().map(|received| received.position.partition));
        reader.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
    partitions.sort();
    assert_eq!(partitions, [None, Some(2)]);
    // What nobody would read is not taken.
    let nowhere = context.publish(format!("{name}.__of4.p.9"), "x".into()).await.unwrap().await;
    assert!(nowhere.is_err());
}

async fn kills(mut private: Private) {
    let broker = private.server().connect().await;
    let name = fresh("kills");
    let to = ensure(&broker, TopicConfig::new(&name).ordered(3).group("g")).await;
    let mut reader = Reader::start(&broker, ordered(&name, Some("g"))).await;
    publish(&broker, &to, 0..500).await;
    let mut handled = Handled::default();
    let mut longest = Duration::ZERO;
    for stage in 1..=4 {
        let mut last = Instant::now();
        while handled.all.len() < stage * 100 {
            let batch = reader.next().await.unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
            batch.iter().for_each(|received| handled.note(received));
            reader.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
        }
        // In the middle of things: what is on its way is lost.
        private.kill().await;
        private.up().await;
    }
    while handled.all.len() < 500 {
        let batch = reader.next().await.unwrap();
        batch.iter().for_each(|received| handled.note(received));
        reader.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
    }
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}
