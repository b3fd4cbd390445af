//! A member that is killed between a copy and the settlement of its original: nothing is lost,
//! nothing is both given up and tried again, and each message is there at most once more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

use posthaste_core::{Bus, Nack, Subscription, TopicConfig};
use posthaste_rabbitmq::RabbitmqConfig;
use tokio::time::{Instant, timeout};

use crate::adapter::{RabbitmqBroker, name, numbered};
use crate::member::{bus, join, next, number};
use crate::raw::Raw;
use crate::relay::Relay;
use crate::server::Server;
use crate::suite::Suite;

/// How often a member is killed, if not eight times.
const KILLS: &str = "POSTHASTE_IT_MEMBER_KILLS";
/// Names a process that is only a member: see [`child`].
const CHILD: &str = "POSTHASTE_IT_MEMBER";
/// How many messages such a member has in hand.
const EACH: u32 = 6;
/// One level of delay, which no other test uses: copies are looked at where they wait.
const LATER: Duration = Duration::from_millis(250 << 17);
const LEVEL: &str = "posthaste__delay_17";
/// Nothing comes that long: what is out is all there is.
const QUIET: Duration = Duration::from_millis(300);
/// What a step may take on a machine that is busy.
const STEP: Duration = Duration::from_secs(60);

pub(crate) fn add(suite: &mut Suite) {
    let name = "a_member_that_is_killed_between_copy_and_settlement_loses_and_doubles_nothing";
    // Each kill takes some seconds, with the start of the next member.
    suite.longer(Duration::from_secs(20) * kills(), name, killed);
}

fn kills() -> u32 {
    let given = std::env::var(KILLS).ok();
    given.map_or(8, |given| given.parse().expect("a number of kills"))
}

/// Whether this process was started to be killed: then it takes some messages, says so, and delays
/// all of them as soon as it is told to.
pub(crate) fn child() -> bool {
    let Ok(job) = std::env::var(CHILD) else { return false };
    let [url, topic] = job.split(' ').collect::<Vec<_>>()[..] else { unreachable!("{job}") };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = RabbitmqConfig::from_url(url).expect("a URL");
        let bus = Bus::new(RabbitmqBroker::connect(config).await.expect("the broker is there"));
        let mut inbox = join(&bus, topic, EACH as usize).await;
        let mut held = Vec::new();
        while held.len() < EACH as usize {
            held.push(next(&mut inbox).await);
        }
        println!("{}", held.len());
        let mut word = String::new();
        std::io::stdin().read_line(&mut word).expect("a word");
        if word.is_empty() {
            // Who started it is gone.
            std::process::exit(1);
        }
        for delivery in held {
            delivery.nack(Nack::after(LATER)).await.expect("booked");
        }
        // Whoever waits for the next one settles what he had.
        let _ = inbox.next().await;
        unreachable!("it is killed before");
    });
    true
}

/// What came of all kills.
#[derive(Default)]
struct Seen {
    /// How often each original came back.
    returned: BTreeMap<u32, u32>,
    /// Whose copy was confirmed, and whose original was not settled.
    between: u32,
}

async fn killed(server: Server) {
    let kills = kills();
    let topic = name("killed");
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let raw = Raw::connect(&server.url).await;
    let mut seen = Seen::default();
    let key = format!(".{topic}__g");
    for round in 0..kills {
        let numbers = round * EACH..(round + 1) * EACH;
        let publisher = bus.publisher(&topic).unwrap();
        let published = publisher.publish_all_envelopes(numbers.clone().map(numbered).collect());
        published.await.into_result().unwrap();
        let before = raw.ready(LEVEL).await;
        // By turns: surely in between, or at any moment.
        kill_one(&server, &raw, &topic, before, round % 2 == 0).await;
        let mut inbox = join(&bus, &topic, 50).await;
        let back = come_back(&mut inbox, &raw, before).await;
        inbox.stop(Duration::from_secs(10)).await.unwrap();
        let copies = raw.ready(LEVEL).await - before;
        if round % 2 == 0 {
            assert_eq!((back.len(), copies), (EACH as usize, EACH), "all were in between");
        }
        seen.between += copies + u32::try_from(back.len()).unwrap() - EACH;
        for number in back {
            *seen.returned.entry(number).or_default() += 1;
        }
    }
    let mut copies = BTreeMap::<u32, u32>::new();
    for payload in raw.look(LEVEL, |routing_key| routing_key.ends_with(&key)).await {
        let number: u32 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
        *copies.entry(number).or_default() += 1;
    }
    let all = kills * EACH;
    let (came, wait, between) = (seen.returned.len(), copies.len(), seen.between);
    println!("{kills} kills: {all} delayed, {came} came back, {wait} wait, {between} do both");
    for (what, counts) in [("originals", &seen.returned), ("copies", &copies)] {
        let more: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(more.is_empty(), "more than one of the {what}: {more:?}");
    }
    let there: BTreeSet<_> = seen.returned.keys().chain(copies.keys()).copied().collect();
    assert_eq!(there, (0..all).collect(), "neither the copy nor the original");
    assert_eq!(raw.ready(&format!("{topic}__g__dlq")).await, 0, "given up, and tried again");
    raw.close().await;
    bus.admin().delete_topic(&topic).await.unwrap();
    bus.close(Duration::from_secs(10)).await.unwrap();
}

/// Starts a member, has it delay what it holds, and kills it: once all copies are confirmed and no
/// settlement has left, or at any moment.
async fn kill_one(server: &Server, raw: &Raw, topic: &str, before: u32, between: bool) {
    let relay = Relay::to(server.address()).await;
    let job = format!("amqp://guest:guest@{}/%2f {topic}", relay.addr());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .env(CHILD, job)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (output, mut input) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let mut line = String::new();
    let read = tokio::task::spawn_blocking(move || {
        BufReader::new(output).read_line(&mut line).expect("a line");
        line
    });
    let line = timeout(STEP, read).await;
    if line.is_err() {
        child.kill().unwrap();
    }
    assert_eq!(line.expect("it has them in time").unwrap().trim(), EACH.to_string());
    if between {
        relay.hold("consume");
    }
    input.write_all(b"go\n").unwrap();
    if between {
        let until = Instant::now() + STEP;
        while raw.ready(LEVEL).await < before + EACH {
            assert!(Instant::now() < until, "the copies do not come");
            tokio::task::yield_now().await;
        }
    } else {
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..80_000))).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    relay.cut();
}

/// Acknowledges what comes back, until all messages are there, as originals or as copies.
async fn come_back(inbox: &mut Subscription, raw: &Raw, before: u32) -> Vec<u32> {
    let (mut back, until) = (Vec::new(), Instant::now() + STEP);
    loop {
        while let Ok(delivery) = timeout(QUIET, inbox.next()).await {
            let delivery = delivery.expect("not the end").expect("no error");
            back.push(number(&delivery));
            delivery.ack_confirmed().await.unwrap();
        }
        let copies = (raw.ready(LEVEL).await - before) as usize;
        if back.len() + copies >= EACH as usize {
            return back;
        }
        assert!(Instant::now() < until, "{back:?} came back, and there are {copies} copies");
    }
}
