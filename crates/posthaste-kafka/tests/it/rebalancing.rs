//! Members that come and go: partitions move, and nothing is lost with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{Bus, Layout, Subscription};
use tokio::time::Instant;

use crate::adapter::{Adapter, fresh, native};
use crate::member::{bus, bus_of, join, next, number, silent};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;
use posthaste_kafka::{GroupProtocol, KafkaConfig};

pub(crate) fn add(suite: &mut Suite) {
    suite.add("members_come_and_go_under_load", under_load);
    suite.add("a_member_that_stops_gives_up_its_partitions_at_once", handover);
    suite.add("what_is_held_is_waited_for_before_its_partition_moves", held);
    suite.add("partitions_move_by_the_newer_protocol_too", newer_protocol);
    suite.add("a_member_that_is_dropped_gives_back_what_it_held", dropped);
}

type Seen = Arc<Mutex<BTreeMap<u32, u32>>>;

/// Publishes so many in each of the rounds, at that pace.
async fn publish_at(
    adapter: &Adapter,
    to: &Destination,
    pace: Duration,
    (rounds, each): (u32, u32),
) {
    let mut beat = tokio::time::interval(pace);
    for round in 0..rounds {
        beat.tick().await;
        adapter.store_numbers(to, round * each..(round + 1) * each).await;
    }
}

/// Passes when as many different messages were seen.
async fn come_to(seen: &Seen, count: usize) {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let have = seen.lock().expect("sound").len();
        if have >= count {
            return;
        }
        assert!(Instant::now() < until, "{have} of {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Handles what comes until the subscription ends.
async fn handle(mut inbox: Subscription, seen: Seen) -> usize {
    let mut handled = 0;
    while let Some(delivery) = inbox.next().await {
        let delivery = delivery.expect("no error");
        *seen.lock().expect("sound").entry(number(&delivery)).or_default() += 1;
        // The work.
        tokio::time::sleep(Duration::from_millis(1)).await;
        delivery.ack().await.expect("booked");
        handled += 1;
    }
    handled
}

async fn under_load(server: Server) {
    let to = fresh("load", Layout::Plain);
    raw::create(&server, &native(&to), 4, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let buses: Vec<Bus> = vec![bus(&server).await, bus(&server).await, bus(&server).await];
    let seen = Seen::default();
    let first = join(&buses[0], &to.topic, 20).await;
    let second = join(&buses[1], &to.topic, 20).await;
    let stops = [first.stopper(), second.stopper()];
    let publish = publish_at(&adapter, &to, Duration::from_millis(150), (80, 50));
    let third = async {
        come_to(&seen, 1_000).await;
        let third = join(&buses[2], &to.topic, 20).await;
        let (stop, own) = (third.stopper(), Seen::default());
        let leave = async {
            come_to(&own, 100).await;
            stop.stop();
            assert_eq!(stop.stopped().await, 0);
        };
        let (handled, ()) = tokio::join!(handle(third, Arc::clone(&own)), leave);
        for (number, times) in own.lock().expect("sound").iter() {
            *seen.lock().expect("sound").entry(*number).or_default() += times;
        }
        handled
    };
    let end = async {
        tokio::join!(publish, come_to(&seen, 4_000));
        stops.iter().for_each(posthaste_core::Stopper::stop);
    };
    let (one, two, three, ()) = tokio::join!(
        handle(first, Arc::clone(&seen)),
        handle(second, Arc::clone(&seen)),
        third,
        end
    );
    let seen = seen.lock().expect("sound").clone();
    let more = seen.values().filter(|times| **times > 1).count();
    println!("handled {one}, {two} and {three}; {more} more than once");
    assert_eq!(seen.len(), 4_000);
    assert!(one > 0 && two > 0 && three > 0, "{one} {two} {three}");
    assert_eq!(more, 0, "every partition was handed over in order");
    for bus in buses {
        bus.close(Duration::from_secs(10)).await.unwrap();
    }
}

async fn handover(server: Server) {
    let to = fresh("handover", Layout::Plain);
    raw::create(&server, &native(&to), 2, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let (one, two) = (bus(&server).await, bus(&server).await);
    let mut first = join(&one, &to.topic, 10).await;
    adapter.store_numbers(&to, 0..10).await;
    for _ in 0..10 {
        next(&mut first).await.ack().await.unwrap();
    }
    let mut second = join(&two, &to.topic, 10).await;
    let stopping = Instant::now();
    first.stop(Duration::from_secs(10)).await.unwrap();
    let stopped = Instant::now();
    adapter.store_numbers(&to, 10..20).await;
    for _ in 0..10 {
        let delivery = next(&mut second).await;
        assert_eq!(delivery.attempt(), 1);
        assert!(number(&delivery) >= 10);
        delivery.ack().await.unwrap();
    }
    println!("stopped in {:?}, taken over in {:?}", stopped - stopping, stopped.elapsed());
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    one.close(Duration::from_secs(10)).await.unwrap();
    two.close(Duration::from_secs(10)).await.unwrap();
}

async fn dropped(server: Server) {
    let to = fresh("dropped", Layout::Plain);
    raw::create(&server, &native(&to), 2, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let (one, two) = (bus(&server).await, bus(&server).await);
    let mut first = join(&one, &to.topic, 10).await;
    adapter.store_numbers(&to, 0..10).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut first).await);
    }
    drop(held);
    drop(first);
    let mut second = join(&two, &to.topic, 10).await;
    let mut seen = Vec::new();
    for _ in 0..10 {
        let delivery = next(&mut second).await;
        seen.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    one.close(Duration::from_secs(10)).await.unwrap();
    two.close(Duration::from_secs(10)).await.unwrap();
}

async fn held(server: Server) {
    let to = fresh("held", Layout::Plain);
    raw::create(&server, &native(&to), 2, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let (one, two) = (bus(&server).await, bus(&server).await);
    let mut first = join(&one, &to.topic, 40).await;
    adapter.store_numbers(&to, 0..40).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(next(&mut first).await);
    }
    let mut second = join(&two, &to.topic, 40).await;
    // While the partition is asked back; the first member is polled meanwhile.
    let polled = async { silent(&mut first, Duration::from_secs(2)).await };
    tokio::join!(polled, silent(&mut second, Duration::from_secs(2)));
    for delivery in held {
        assert!(!delivery.is_lost());
        delivery.ack().await.unwrap();
    }
    let polled = async { silent(&mut first, Duration::from_secs(6)).await };
    tokio::join!(polled, silent(&mut second, Duration::from_secs(6)));
    one.close(Duration::from_secs(10)).await.unwrap();
    two.close(Duration::from_secs(10)).await.unwrap();
}

async fn newer_protocol(server: Server) {
    let to = fresh("newer", Layout::Plain);
    raw::create(&server, &native(&to), 2, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let config = || {
        let config = KafkaConfig::from_url(&server.url).unwrap();
        config.group_protocol(GroupProtocol::Consumer)
    };
    let (one, two) = (bus_of(config()).await, bus_of(config()).await);
    let seen = Seen::default();
    let first = join(&one, &to.topic, 10).await;
    let second = join(&two, &to.topic, 10).await;
    let stops = [first.stopper(), second.stopper()];
    let publish = async {
        publish_at(&adapter, &to, Duration::from_millis(200), (40, 10)).await;
        come_to(&seen, 400).await;
        stops.iter().for_each(posthaste_core::Stopper::stop);
    };
    let (one_had, two_had, ()) =
        tokio::join!(handle(first, Arc::clone(&seen)), handle(second, Arc::clone(&seen)), publish);
    println!("newer protocol: handled {one_had} and {two_had}");
    let seen = seen.lock().expect("sound").clone();
    assert_eq!(seen.len(), 400);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    assert!(one_had > 0 && two_had > 0);
    one.close(Duration::from_secs(10)).await.unwrap();
    two.close(Duration::from_secs(10)).await.unwrap();
}
