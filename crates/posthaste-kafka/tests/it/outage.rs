//! A broker that is killed and comes back: publishing goes on by itself, and nothing is lost.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{ErrorKind, Health, Layout, Retry};
use tokio::time::Instant;

use crate::adapter::{Adapter, fresh, keyed, native};
use crate::raw::{self, Raw};
use crate::server::Private;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.private("nothing_confirmed_is_lost_over_kills", kills);
    suite.private("a_publish_to_an_absent_broker_ends_in_time", absent);
}

/// How often messages are published: more would only make the reading long.
const BEAT: Duration = Duration::from_millis(5);
/// How many have to be confirmed before the broker is killed, and after it is back.
const SOME: usize = 500;

/// Publishes some messages as core does: no two of a key at once, and what failed in passing is
/// published again. Says how long it took.
async fn publish(adapter: &Adapter, to: &Destination, numbers: Range<usize>) -> Duration {
    let start = Instant::now();
    let mut open: Vec<_> = numbers.map(|n| keyed(&(n % 20).to_string(), n.to_string())).collect();
    while !open.is_empty() {
        let call = Instant::now();
        let outcomes = adapter.publish(to, &open).await.expect("open");
        assert!(call.elapsed() < Duration::from_secs(22), "{:?}", call.elapsed());
        let mut failed = Vec::new();
        for (outcome, envelope) in outcomes.into_iter().zip(open) {
            if let Err(error) = outcome {
                assert_eq!(error.retry(), Retry::Transient, "{error:?}");
                failed.push(envelope);
            }
        }
        open = failed;
    }
    start.elapsed()
}

async fn kills(mut private: Private) {
    let (server, to) = (private.server(), fresh("kills", Layout::Ordered(3)));
    raw::create(&server, &native(&to), 3, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let (stopped, published) = (Cell::new(false), Cell::new(0));
    let publishing = async {
        let (mut longest, mut beat) = (Duration::ZERO, tokio::time::interval(BEAT));
        while !stopped.get() {
            beat.tick().await;
            let next = published.get();
            longest = longest.max(publish(&adapter, &to, next..next + 20).await);
            published.set(next + 20);
        }
        longest
    };
    // Passes when so many more are confirmed.
    let goes_on = async || {
        let (wanted, until) = (published.get() + SOME, Instant::now() + Duration::from_secs(40));
        while published.get() < wanted {
            assert!(Instant::now() < until, "nothing is confirmed");
            tokio::time::sleep(BEAT).await;
        }
    };
    let killing = async {
        for _ in 0..2 {
            goes_on().await;
            private.kill().await;
            // The outage, besides the time that a start takes.
            tokio::time::sleep(Duration::from_millis(500)).await;
            private.up().await;
        }
        goes_on().await;
        stopped.set(true);
    };
    let (longest, ()) = tokio::join!(publishing, killing);
    let confirmed = published.get();
    let found = raw::read_all(&server, &native(&to)).await;
    let mut times = BTreeMap::<usize, usize>::new();
    for raw in &found {
        *times.entry(raw.text().parse().unwrap()).or_default() += 1;
    }
    println!("{confirmed} confirmed, {} stored, longest publish {longest:?}", found.len());
    let lost: Vec<_> = (0..confirmed).filter(|n| !times.contains_key(n)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    in_order(&found);
}

/// The first copies of a key's messages are in the order of their numbers.
fn in_order(found: &[Raw]) {
    let mut last = BTreeMap::<Vec<u8>, usize>::new();
    let mut seen = BTreeSet::new();
    for raw in found {
        let number: usize = raw.text().parse().unwrap();
        if seen.insert(number) {
            let before = last.insert(raw.key.clone().unwrap(), number);
            assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
        }
    }
}

async fn absent(mut private: Private) {
    let (server, to) = (private.server(), fresh("absent", Layout::Plain));
    raw::create(&server, &native(&to), 1, &[]).await;
    let config = server.config().request_timeout(Duration::from_secs(2));
    let adapter = Adapter::connect(config).await.unwrap();
    adapter.store(&to, &[keyed("k", "a")]).await;
    private.kill().await;
    let other = fresh("other", Layout::Plain);
    for to in [&to, &other] {
        let start = Instant::now();
        let outcomes = adapter.publish(to, &[keyed("k", "b"), keyed("k", "c")]).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connection),
                "{error:?}"
            );
            assert_eq!(error.retry(), Retry::Transient, "{error:?}");
            assert!(error.to_string().contains(server.address()), "the cause is named: {error}");
        }
    }
    let start = Instant::now();
    let health = adapter.health().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let Health::Down(why) = health else { unreachable!("{health}") };
    assert!(why.contains(server.address()), "the cause is named: {why}");
    let start = Instant::now();
    let error = adapter.admin().describe(&to.topic).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connection), "{error:?}");
    private.up().await;
    adapter.lives(Instant::now() + Duration::from_secs(20)).await;
    adapter.store(&to, &[keyed("k", "d")]).await;
}
