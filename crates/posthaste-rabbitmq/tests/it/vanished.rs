//! What no queue takes is never confirmed: with one message, in a batch, beside others, after a
//! binding was removed and after a queue was deleted.

use std::collections::BTreeSet;
use std::sync::Arc;

use lapin::ExchangeKind;
use lapin::types::AMQPValue;
use posthaste_core::broker::Destination;
use posthaste_core::{ErrorKind, Retry, TopicConfig};
use posthaste_rabbitmq::ExchangeType;
use tokio::task::JoinSet;

use crate::adapter::{Adapter, Binding, name, numbered, plain};
use crate::member::bus;
use crate::raw::Raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("what_no_queue_takes_is_unroutable", unroutable);
    suite.add("one_of_seven_that_no_queue_takes_fails_and_no_other", one_of_seven);
    suite.add("one_of_seven_of_a_pipelined_two_thousand_fails_and_no_other", pipelined);
    suite.add("a_queue_that_was_deleted_takes_nothing", queue_gone);
    suite.add("what_a_full_queue_rejects_is_told_from_what_it_takes", full);
    suite.add("what_lost_its_queue_is_kept_for_the_next_group", kept);
}

/// An exchange with one queue, of another program, and a topic that is bound to them.
async fn bound(raw: &Raw, part: &str, arguments: &[(&str, AMQPValue)]) -> (String, Binding) {
    let native = format!("Legacy.{}", name(part));
    raw.exchange(&native, ExchangeKind::Direct).await;
    raw.queue(&native, false, arguments).await;
    raw.bind(&native, &native, "created").await;
    let binding = Binding::exchange(&native).routing_key("created").queue("g", &native);
    (native, binding)
}

async fn all_are(adapter: &Adapter, to: &Destination, count: u32, stored: bool) {
    let batch: Vec<_> = (0..count).map(numbered).collect();
    for outcome in adapter.publish(to, &batch).await.expect("sent") {
        match outcome {
            Ok(_) => assert!(stored, "it was confirmed, and no queue took it"),
            Err(error) => {
                assert!(!stored, "{error:?}");
                assert_eq!(error.kind(), ErrorKind::Unroutable, "{error:?}");
                assert!(!error.may_be_stored(), "{error:?}");
            }
        }
    }
}

async fn unroutable(server: Server) {
    let raw = Raw::connect(&server.url).await;
    let (native, binding) = bound(&raw, "unroutable", &[]).await;
    let to = plain(&name("unroutable"));
    let config = server.config().bind(to.topic.as_str(), binding);
    let adapter = Adapter::connect(config).await.unwrap();
    adapter.ensure(TopicConfig::new(to.topic.as_str())).await;
    for count in [1, 100] {
        all_are(&adapter, &to, count, true).await;
        raw.unbind(&native, &native, "created").await;
        all_are(&adapter, &to, count, false).await;
        raw.bind(&native, &native, "created").await;
        all_are(&adapter, &to, count, true).await;
    }
    assert_eq!(raw.ready(&native).await, 202);
    raw.delete_queue(&native).await;
    for count in [1, 100] {
        all_are(&adapter, &to, count, false).await;
    }
    raw.close().await;
}

/// Eight tasks, two thousand messages, and each seventh to where no queue is.
async fn one_of_seven(server: Server) {
    let raw = Raw::connect(&server.url).await;
    let (native, binding) = bound(&raw, "seven", &[]).await;
    let (there, gone) = (plain(&name("there")), plain(&name("gone")));
    let config = server.config().bind(there.topic.as_str(), binding);
    // The same exchange, by a key that leads nowhere.
    let config =
        config.bind(gone.topic.as_str(), Binding::exchange(&native).routing_key("nowhere"));
    let adapter = Arc::new(Adapter::connect(config).await.unwrap());
    for to in [&there, &gone] {
        adapter.ensure(TopicConfig::new(to.topic.as_str())).await;
    }
    let mut tasks = JoinSet::new();
    for task in 0..8_u32 {
        let (adapter, there, gone) = (Arc::clone(&adapter), there.clone(), gone.clone());
        tasks.spawn(async move {
            for number in (task..2_000).step_by(8) {
                let lost = number % 7 == 0;
                let to = if lost { &gone } else { &there };
                let sent = adapter.publish(to, &[numbered(number)]).await.expect("sent");
                let outcome = sent.into_iter().next().expect("an outcome");
                match outcome {
                    Ok(_) => assert!(!lost, "{number} was confirmed, and no queue took it"),
                    Err(error) => {
                        assert!(lost, "{number}: {error:?}");
                        assert_eq!(error.kind(), ErrorKind::Unroutable, "{error:?}");
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a task ended well");
    }
    let stored = (0..2_000).filter(|n| n % 7 != 0).count();
    assert_eq!(usize::try_from(raw.ready(&native).await), Ok(stored));
    raw.close().await;
}

/// One exchange, in batches on several channels at once: by its headers a message finds a queue or
/// not.
async fn pipelined(server: Server) {
    const ALL: u32 = 2_000;
    let (raw, topic) = (Raw::connect(&server.url).await, name("pipelined"));
    let binding = Binding::exchange(format!("Made.{}", name("pipelined")));
    let binding = binding.kind(ExchangeType::Headers).header("for", "g");
    let bus = bus(server.config().bind(&topic, binding)).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let batch: Vec<_> = (0..ALL)
        .map(|number| {
            let to = if number % 7 == 0 { "nobody" } else { "g" };
            numbered(number).to_builder().header("for", to).build().unwrap()
        })
        .collect();
    let report = bus.publisher(&topic).unwrap().publish_all_envelopes(batch).await;
    for (number, outcome) in (0..).zip(report.into_outcomes()) {
        match outcome {
            Ok(_) => assert_ne!(number % 7, 0, "{number} was confirmed, and no queue took it"),
            Err(error) => {
                assert_eq!((error.kind(), number % 7), (ErrorKind::Unroutable, 0), "{error:?}");
            }
        }
    }
    let stored = (0..ALL).filter(|number| number % 7 != 0).count();
    assert_eq!(usize::try_from(raw.ready(&format!("{topic}__g")).await), Ok(stored));
    raw.close().await;
}

/// One that is addressed by its name, and was there a moment ago.
async fn queue_gone(server: Server) {
    let (raw, queue) = (Raw::connect(&server.url).await, name("queue-gone"));
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let to = adapter.ensure(TopicConfig::queue(&queue)).await;
    adapter.store(&to, &[numbered(0)]).await;
    raw.delete_queue(&queue).await;
    for count in [1, 50] {
        let batch: Vec<_> = (0..count).map(numbered).collect();
        for outcome in adapter.publish(&to, &batch).await.expect("sent") {
            let error = outcome.expect_err("no queue took it");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
            assert!(!error.may_be_stored(), "{error:?}");
        }
    }
    raw.close().await;
}

/// Eight tasks share a connection, half of their messages go to a queue that rejects what it has no
/// room for. What is confirmed is there, and nothing else.
async fn full(server: Server) {
    let raw = Raw::connect(&server.url).await;
    let limits = [
        ("x-queue-type", AMQPValue::LongString("quorum".into())),
        ("x-max-length", AMQPValue::LongLongInt(20)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    let (narrow, first) = bound(&raw, "narrow", &limits).await;
    let (wide, second) = bound(&raw, "wide", &[]).await;
    let (full, roomy) = (plain(&name("full")), plain(&name("roomy")));
    let config = server.config().bind(full.topic.as_str(), first);
    let config = config.bind(roomy.topic.as_str(), second);
    let adapter = Arc::new(Adapter::connect(config).await.unwrap());
    for to in [&full, &roomy] {
        adapter.ensure(TopicConfig::new(to.topic.as_str())).await;
    }
    let mut tasks = JoinSet::new();
    for task in 0..8_u32 {
        let (adapter, full, roomy) = (Arc::clone(&adapter), full.clone(), roomy.clone());
        tasks.spawn(async move {
            let mut taken = BTreeSet::new();
            for number in (task..1_600).step_by(8) {
                let to = if number / 8 % 2 == 0 { &full } else { &roomy };
                let sent = adapter.publish(to, &[numbered(number)]).await.expect("sent");
                match sent.into_iter().next().expect("an outcome") {
                    Ok(_) => {
                        taken.insert(number);
                    }
                    Err(error) => {
                        assert_eq!(to, &full, "{number} was rejected: {error:?}");
                        assert_eq!(error.kind(), ErrorKind::Backpressure, "{error:?}");
                        // Another queue of the same exchange could have taken it: it is published
                        // again, with its id.
                        assert_eq!(error.retry(), Retry::Transient, "{error:?}");
                    }
                }
            }
            taken
        });
    }
    let mut taken = BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        taken.extend(done.expect("a task ended well"));
    }
    let mut found = BTreeSet::new();
    for queue in [&narrow, &wide] {
        while let Some(payload) = raw.get(queue).await {
            let number: u32 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            assert!(found.insert(number), "{number} is there twice");
        }
    }
    let wrong: Vec<_> = taken.symmetric_difference(&found).collect();
    assert!(wrong.is_empty(), "confirmed and not there, or there and not confirmed: {wrong:?}");
    assert!(taken.len() > 800 && taken.len() < 1_600, "{} were taken", taken.len());
    raw.close().await;
}

/// The queue of the only group is deleted by somebody else. What is confirmed then is not gone.
async fn kept(server: Server) {
    let raw = Raw::connect(&server.url).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let topic = name("kept");
    let to = adapter.ensure(TopicConfig::new(&topic).group("g")).await;
    adapter.store(&to, &[numbered(0)]).await;
    let queue = format!("{topic}__g");
    assert_eq!(raw.ready(&queue).await, 1);
    raw.delete_queue(&queue).await;
    let batch: Vec<_> = (1..=50).map(numbered).collect();
    let outcomes = adapter.publish(&to, &batch).await.expect("sent");
    let confirmed = outcomes.into_iter().filter(Result::is_ok).count();
    let unrouted = raw.ready(&format!("{topic}__unrouted")).await;
    assert_eq!(usize::try_from(unrouted), Ok(confirmed));
    raw.close().await;
}
