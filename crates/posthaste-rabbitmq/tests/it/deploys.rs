//! Members come and go under load, as deploys do it: no message that nobody failed is given up.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::TopicConfig;
use tokio::time::timeout;

use crate::adapter::{name, numbered};
use crate::member::{bus, next, number};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("fifty_deploys_give_up_no_message", deploys);
}

const DEPLOYS: u32 = 50;
const EACH: u32 = 40;

async fn deploys(server: Server) {
    let topic = name("deploys");
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let publisher = bus.publisher(&topic).unwrap();
    let start = || bus.subscribe(&topic).group("g").prefetch(100).max_attempts(2).start();
    let mut handled = BTreeSet::new();
    for deploy in 0..DEPLOYS {
        let numbers = deploy * EACH..(deploy + 1) * EACH;
        let published = publisher.publish_all_envelopes(numbers.map(numbered).collect());
        let (mut inbox, published) = (start().await.unwrap(), published.await);
        published.into_result().unwrap();
        let mut held = Vec::new();
        for _ in 0..10 {
            let delivery = next(&mut inbox).await;
            if held.len() < 5 {
                held.push(delivery);
            } else {
                handled.insert(number(&delivery));
                delivery.ack().await.unwrap();
            }
        }
        // By turns: stopped with deliveries in hand, dropped, and stopped after giving them back.
        match deploy % 3 {
            0 => {
                let stopped = inbox.stop(Duration::from_millis(20)).await;
                assert!(stopped.is_err(), "it took deliveries back, and says so");
            }
            1 => drop(inbox),
            _ => {
                for delivery in held.drain(..) {
                    delivery.release().await.unwrap();
                }
                inbox.stop(Duration::from_secs(10)).await.unwrap();
            }
        }
        drop(held);
    }
    let mut inbox = start().await.unwrap();
    let all = (DEPLOYS * EACH) as usize;
    while handled.len() < all {
        let next = timeout(Duration::from_secs(20), inbox.next()).await;
        let missing = || (0..DEPLOYS * EACH).filter(|n| !handled.contains(n)).take(10);
        let delivery = next.unwrap_or_else(|_| unreachable!("{:?}", missing().collect::<Vec<_>>()));
        let delivery = delivery.expect("a delivery").expect("no error");
        handled.insert(number(&delivery));
        delivery.ack().await.unwrap();
    }
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let letters = bus.admin().dead_letters(&topic, "g", 10).await.unwrap().letters;
    assert!(letters.is_empty(), "{letters:?}");
    bus.admin().delete_topic(&topic).await.unwrap();
    bus.close(Duration::from_secs(10)).await.unwrap();
}
