//! A message that is to come later is copied and then settled. The connection is lost between the
//! two: it is never lost, never given up, and has no more than one copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthaste_core::{Nack, TopicConfig};
use posthaste_rabbitmq::RabbitmqConfig;
use tokio::time::{Instant, timeout};

use crate::adapter::{name, numbered};
use crate::member::{bus, join, next, number, silent};
use crate::raw::Raw;
use crate::relay::Relay;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_cut_between_copy_and_settlement_loses_and_doubles_nothing", cuts);
}

const ROUNDS: u32 = 25;
const EACH: u32 = 8;
/// Longer than all rounds take, so that copies are told from originals by when they come.
const LATER: Duration = Duration::from_secs(60);

async fn cuts(server: Server) {
    let relay = Relay::to(server.address()).await;
    let through = format!("amqp://guest:guest@{}/%2f", relay.addr());
    let topic = name("cuts");
    let direct = bus(server.config()).await;
    direct.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let publisher = direct.publisher(&topic).unwrap();
    let member = bus(RabbitmqConfig::from_url(&through).unwrap()).await;
    let mut inbox = join(&member, &topic, 50).await;
    let begun = Instant::now();
    let mut returned = BTreeSet::new();
    for round in 0..ROUNDS {
        let numbers = round * EACH..(round + 1) * EACH;
        publisher
            .publish_all_envelopes(numbers.clone().map(numbered).collect())
            .await
            .into_result()
            .unwrap();
        let mut fresh = Vec::new();
        while fresh.len() < EACH as usize {
            let delivery = next(&mut inbox).await;
            if numbers.contains(&number(&delivery)) {
                fresh.push(delivery);
            } else {
                // Its settlement was lost in an earlier round: the original came back.
                returned.insert(number(&delivery));
                delivery.ack().await.unwrap();
            }
        }
        for delivery in fresh {
            delivery.nack(Nack::after(LATER)).await.unwrap();
        }
        // Copies and settlements are under way while somebody waits for the next delivery.
        let moment = Duration::from_micros(fastrand::u64(0..12_000));
        if let Ok(Some(Ok(delivery))) = timeout(moment, inbox.next()).await {
            returned.insert(number(&delivery));
            delivery.ack().await.unwrap();
        }
        relay.cut();
    }
    // The rest of the originals that come back.
    while let Ok(Some(delivery)) = timeout(Duration::from_secs(5), inbox.next()).await {
        let delivery = delivery.unwrap();
        returned.insert(number(&delivery));
        delivery.ack().await.unwrap();
    }
    let took = begun.elapsed();
    assert!(took < LATER, "the machine is too slow for this: {took:?}");

    let mut copies = BTreeMap::<u32, u32>::new();
    let all = ROUNDS * EACH;
    let until = begun + took + LATER + Duration::from_secs(15);
    while let Ok(Some(delivery)) = tokio::time::timeout_at(until, inbox.next()).await {
        let delivery = delivery.unwrap();
        *copies.entry(number(&delivery)).or_default() += 1;
        delivery.ack().await.unwrap();
        if copies.len() == all as usize {
            break;
        }
    }
    silent(&mut inbox, Duration::from_secs(3)).await;
    println!("{all} delayed, {} came back, {} copies came", returned.len(), copies.len());
    let doubled: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "more than one copy: {doubled:?}");
    // Whose copy was not made came back as the original, and was handled then.
    let came = |number: &u32| copies.contains_key(number) || returned.contains(number);
    let lost: Vec<_> = (0..all).filter(|number| !came(number)).collect();
    assert!(lost.is_empty(), "neither the copy nor the original: {lost:?}");
    let raw = Raw::connect(&server.url).await;
    assert_eq!(raw.ready(&format!("{topic}__g__dlq")).await, 0, "dead letters");
    raw.close().await;
    inbox.stop(Duration::from_secs(10)).await.unwrap();
}
