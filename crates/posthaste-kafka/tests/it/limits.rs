//! What bounds a subscription: unsettled messages, slow handlers, members without work.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{Bus, Health, Layout, Nack, SubscriptionEvent};
use tokio::time::Instant;

use crate::adapter::{Adapter, envelope, fresh, native};
use crate::member::{bus, bus_with, join, next, number, silent};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_partition_of_which_too_much_is_unsettled_stands_still_until_it_is_less", cap);
    suite.add("a_handler_may_take_longer_than_the_poll_interval", slow_handler);
    suite.add("a_member_without_work_says_so_until_it_gets_some", idle);
    suite.add("what_has_no_key_is_spread_over_all_partitions", spread);
}

async fn made(server: &Server, part: &str, partitions: u16) -> (Destination, Adapter) {
    let to = fresh(part, Layout::Plain);
    raw::create(server, &native(&to), partitions, &[]).await;
    (to, Adapter::connect(server.config()).await.expect("the broker is there"))
}

/// Waits until the health of the bus is that.
async fn becomes(bus: &Bus, within: Duration, is: impl Fn(&Health) -> bool) {
    let until = Instant::now() + within;
    loop {
        let health = bus.health().await.expect("open");
        if is(&health) {
            return;
        }
        assert!(Instant::now() < until, "{health}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn says<'a>(words: &'a [&'a str]) -> impl Fn(&Health) -> bool {
    move |health| match health {
        Health::Degraded(why) => words.iter().all(|word| why.contains(word)),
        _ => false,
    }
}

async fn cap(server: Server) {
    const ALL: u32 = 12_000;
    /// In memory, and longer than it takes until ten thousand have failed.
    const DELAY: Duration = Duration::from_secs(28);
    let (to, adapter) = made(&server, "cap", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 500).await;
    for chunk in 0..ALL / 1_000 {
        adapter.store_numbers(&to, chunk * 1_000..(chunk + 1) * 1_000).await;
    }
    let (start, mut failed) = (Instant::now(), 0);
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(3), inbox.next()).await {
        next.unwrap().unwrap().nack(Nack::after(DELAY)).await.unwrap();
        failed += 1;
    }
    println!("{failed} failed within {:?}", start.elapsed());
    assert!(start.elapsed() < DELAY, "they come again before it stands still");
    // What was read in one go with the last one comes on top.
    assert!((10_000..10_300).contains(&failed), "{failed}");
    assert!(says(&[to.topic.as_str(), "read no further"])(&bus.health().await.unwrap()));
    let mut seen = BTreeSet::new();
    while seen.len() < ALL as usize {
        let delivery = next_within(&mut inbox, DELAY).await;
        seen.insert(number(&delivery));
        delivery.ack().await.unwrap();
    }
    becomes(&bus, Duration::from_secs(5), Health::is_live).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn next_within(
    inbox: &mut posthaste_core::Subscription,
    limit: Duration,
) -> posthaste_core::Delivery {
    let next = tokio::time::timeout(limit, inbox.next()).await;
    next.expect("a delivery in time").expect("a delivery").expect("no error")
}

async fn slow_handler(server: Server) {
    const POLL_INTERVAL: &str = "6000";
    let (to, adapter) = made(&server, "slow", 2).await;
    let properties = [("max.poll.interval.ms", POLL_INTERVAL), ("session.timeout.ms", "6000")];
    let (one, other) = (bus_with(&server, &properties).await, bus_with(&server, &properties).await);
    let (mut slow, mut quick) = (join(&one, &to.topic, 1).await, join(&other, &to.topic, 1).await);
    let mut events = slow.events();
    adapter.store_numbers(&to, 0..60).await;
    // Each has its partition.
    next(&mut quick).await.ack().await.unwrap();
    let held = next(&mut slow).await;
    // The handler works for as long as that, and nobody asks for more meanwhile.
    let work = tokio::time::sleep(Duration::from_secs(15));
    let others = async {
        loop {
            next_within(&mut quick, Duration::from_secs(60)).await.ack().await.unwrap();
        }
    };
    tokio::select! {
        () = work => {}
        () = others => {}
    }
    assert!(!held.is_lost());
    held.ack_confirmed().await.unwrap();
    // It is the next, and not one that somebody else had.
    let following = next(&mut slow).await;
    assert_eq!(following.attempt(), 1);
    following.ack().await.unwrap();
    let mut revoked = 0;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        let partition = match event {
            SubscriptionEvent::LaneRevoked { partition, .. } => partition,
            _ => None,
        };
        revoked += u32::from(partition.is_some());
    }
    // One partition went to the other member when that joined; the other one stayed.
    assert!(revoked <= 1, "{revoked}");
    drop((slow, quick));
    one.close(Duration::from_secs(20)).await.unwrap();
    other.close(Duration::from_secs(20)).await.unwrap();
}

async fn idle(server: Server) {
    let (to, adapter) = made(&server, "idle", 1).await;
    let (one, two) = (bus(&server).await, bus(&server).await);
    let mut first = join(&one, &to.topic, 10).await;
    adapter.store_numbers(&to, 0..1).await;
    next(&mut first).await.ack().await.unwrap();
    let mut second = join(&two, &to.topic, 10).await;
    let words = ["more members than partitions", to.topic.as_str(), "1 partitions and 2 members"];
    // The first is polled meanwhile, as by an application.
    let told = becomes(&two, Duration::from_secs(40), says(&words));
    tokio::select! {
        () = told => {}
        () = silent(&mut first, Duration::from_secs(60)) => unreachable!("it was not told"),
    }
    assert_eq!(one.health().await.unwrap(), Health::Live);
    first.stop(Duration::from_secs(10)).await.unwrap();
    adapter.store_numbers(&to, 1..2).await;
    assert_eq!(number(&next(&mut second).await), 1);
    becomes(&two, Duration::from_secs(5), Health::is_live).await;
    one.close(Duration::from_secs(10)).await.unwrap();
    two.close(Duration::from_secs(10)).await.unwrap();
}

async fn spread(server: Server) {
    const PARTITIONS: u16 = 6;
    for linger in [Duration::ZERO, Duration::from_millis(20)] {
        let to = fresh("spread", Layout::Plain);
        raw::create(&server, &native(&to), PARTITIONS, &[]).await;
        let adapter = Adapter::connect(server.config().linger(linger)).await.unwrap();
        // One burst, as by `publish_all`.
        let batch: Vec<_> = (0..600).map(|n: u32| envelope(n.to_string())).collect();
        adapter.store(&to, &batch).await;
        let mut shares = vec![0; usize::from(PARTITIONS)];
        for raw in raw::read_all(&server, &native(&to)).await {
            shares[usize::try_from(raw.partition).unwrap()] += 1;
        }
        println!("{shares:?}");
        // A hundred each; chance does not get as far from it in a million runs.
        assert!(shares.iter().all(|share| (50..=150).contains(share)), "{linger:?}: {shares:?}");
    }
}
