//! A message that ends whoever handles it: after three owners have ended at one place, messages
//! are handed out one at a time there, until the one is known.

use std::process::Stdio;
use std::time::Duration;

use posthaste_core::{Bus, Cause, Nack, TopicConfig};

use crate::adapter::{Adapter, KafkaBroker, KafkaConfig, name};
use crate::member::{bus_with, join, next, number, silent};
use crate::server::Server;
use crate::suite::Suite;

/// Names a process that handles messages until one of them ends it: see [`child`].
const CHILD: &str = "POSTHASTE_IT_CRASHES";
/// The message that ends it.
const DEADLY: u32 = 2;
const ALL: u32 = 10;
/// Nothing comes that long: what is out is all there is.
const QUIET: Duration = Duration::from_millis(700);

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_message_that_ends_its_members_is_found_and_dies_alone", found);
}

/// Whether this process is one that a message ends. It says what it has in hand, and acknowledges
/// all of that unless it is ended.
pub(crate) fn child() -> bool {
    let Ok(job) = std::env::var(CHILD) else { return false };
    let [url, topic] = job.split(' ').collect::<Vec<_>>()[..] else { unreachable!("{job}") };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        // A static member takes the place of the one that ended, at once.
        let config = KafkaConfig::from_url(url).expect("a URL");
        let config =
            config.instance_id(format!("{topic}-0")).property("session.timeout.ms", "6000");
        let bus = Bus::new(KafkaBroker::connect(config).await.expect("the broker is there"));
        let inbox = bus.subscribe(topic).group("g").prefetch(ALL as usize);
        let mut inbox = inbox.start().await.expect("a subscription");
        loop {
            let mut held = vec![next(&mut inbox).await];
            while let Ok(next) = tokio::time::timeout(QUIET, inbox.next()).await {
                held.push(next.expect("not the end").expect("no error"));
            }
            let words: Vec<_> =
                held.iter().map(|one| format!("{}/{}", number(one), one.attempt())).collect();
            println!("{}", words.join(" "));
            if held.iter().any(|one| number(one) == DEADLY) {
                std::process::exit(1);
            }
            for delivery in held {
                delivery.ack().await.expect("booked");
            }
        }
    });
    true
}

/// What such a process had in hand, step by step, until it was ended.
async fn handled(server: &Server, topic: &str) -> Vec<Vec<(u32, u32)>> {
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .env(CHILD, format!("{} {topic}", server.url))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), child).await;
    let output = output.expect("an end in time").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    println!("{printed}");
    let pair = |word: &str| {
        let (number, attempt) = word.split_once('/').expect("a pair");
        (number.parse().expect("a number"), attempt.parse().expect("a number"))
    };
    printed.lines().map(|line| line.split(' ').map(pair).collect()).collect()
}

async fn found(server: Server) {
    let topic = name("crashes");
    let adapter = Adapter::connect(server.config().partitions(1)).await.unwrap();
    let to = adapter.ensure(TopicConfig::new(&topic).group("g")).await;
    adapter.store_numbers(&to, 0..ALL).await;
    for owner in 1..=3 {
        let steps = handled(&server, &topic).await;
        // All at once, because nobody is suspected yet; flagged once somebody has ended.
        let all: Vec<_> = (0..ALL).map(|n| (n, owner)).collect();
        assert_eq!(steps, [all], "owner {owner}");
    }
    // Three have ended there: one at a time.
    assert_eq!(handled(&server, &topic).await, [[(0, 4)], [(1, 4)], [(DEADLY, 4)]]);
    // Now it was alone, and whoever comes next knows it.
    assert_eq!(handled(&server, &topic).await, [[(DEADLY, 5)]]);
    let bus = bus_with(&server, &[("session.timeout.ms", "6000")]).await;
    let mut inbox = join(&bus, &to.topic, ALL as usize).await;
    let suspect = next(&mut inbox).await;
    assert_eq!((number(&suspect), suspect.attempt()), (DEADLY, 6));
    silent(&mut inbox, QUIET).await;
    suspect.nack(Nack::dead_letter(Cause::new("it ends its members"))).await.unwrap();
    // The others are in hand together again.
    let mut held = Vec::new();
    for n in DEADLY + 1..ALL {
        held.push(next(&mut inbox).await);
        assert_eq!(held.last().map(number), Some(n));
    }
    for delivery in held {
        delivery.ack_confirmed().await.unwrap();
    }
    bus.close(Duration::from_secs(10)).await.unwrap();
}
