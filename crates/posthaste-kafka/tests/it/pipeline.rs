//! Pipelines: what was read once is published once, whatever happens in between.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{Cause, ErrorKind, TopicConfig};
use posthaste_kafka::{Handling, Input, KafkaPipeline, PipelineStopper, Transaction};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::adapter::{Adapter, KafkaConfig, failed, keyed, name, native};
use crate::member::{bus, join};
use crate::raw;
use crate::server::{Private, Server};
use crate::suite::Suite;

/// How often a pipeline is killed in the test of that, if not ten times.
const KILLS: &str = "POSTHASTE_IT_PIPELINE_KILLS";
/// Names a process that is only a pipeline: see [`child`].
const CHILD: &str = "POSTHASTE_IT_PIPELINE";
const PARTITIONS: u16 = 4;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_pipeline_brings_everything_over_once_and_in_order", everything);
    suite.add("a_pipeline_whose_handler_fails_half_the_time_loses_and_doubles_nothing", half);
    suite.add("what_a_pipeline_takes_back_is_never_visible", taken_back);
    suite.add("a_second_pipeline_with_the_same_id_ends_the_first", fenced);
    suite.add("pipelines_of_a_group_share_it_and_hand_over_once_each", handed_over);
    suite.add("a_pipeline_does_not_wait_for_a_handler_whose_partitions_go", too_slow);
    suite.private("a_pipeline_goes_on_when_the_broker_has_restarted", restarted);
    suite.add("what_a_pipeline_gives_up_is_a_dead_letter_once", dead_letters);
    suite.add("a_pipeline_does_not_join_a_group_of_subscriptions", other_members);
    let name = "a_pipeline_that_is_killed_time_and_again_brings_everything_over_once";
    // Each kill takes some seconds, with the start that follows it.
    suite.longer(Duration::from_secs(10) * kills(), name, killed);
}

/// Where it is read, and where it is written to.
struct Places {
    adapter: Adapter,
    from: Destination,
    to: Destination,
}

async fn places(server: &Server, part: &str) -> Places {
    let adapter = Adapter::connect(server.config()).await.expect("the broker is there");
    let from = TopicConfig::new(name(part)).ordered(PARTITIONS).group("g");
    let (from, to) = (adapter.ensure(from).await, TopicConfig::new(name(part)).ordered(2));
    Places { to: adapter.ensure(to).await, from, adapter }
}

impl Places {
    async fn publish(&self, numbers: std::ops::Range<u32>) {
        let batch: Vec<_> =
            numbers.map(|n| keyed(&format!("k{}", n % 50), n.to_string())).collect();
        self.adapter.store(&self.from, &batch).await;
    }

    /// Publishes on from that number until it is done. Returns the next number too.
    async fn publish_until<T>(&self, mut next: u32, done: impl Future<Output = T>) -> (T, u32) {
        let is_done = AtomicBool::new(false);
        let done = async {
            let done = done.await;
            is_done.store(true, Ordering::Relaxed);
            done
        };
        let publish = async {
            while !is_done.load(Ordering::Relaxed) {
                self.publish(next..next + 20).await;
                next += 20;
                // More would only make the reading long.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (done, ()) = tokio::join!(done, publish);
        (done, next)
    }

    async fn pipeline(&self, server: &Server, id: &str) -> KafkaPipeline {
        let id = format!("{}-{id}", self.from.topic);
        start(config(server), self.from.topic.as_str(), &id).await
    }

    /// What consumers see of what was written.
    async fn visible(&self, server: &Server) -> Vec<u32> {
        read(server, &native(&self.to), "read_committed").await
    }

    /// Waits until that many are visible, and returns them.
    async fn comes_to(&self, server: &Server, count: u32) -> Vec<u32> {
        let until = Instant::now() + Duration::from_secs(50);
        loop {
            let visible = self.visible(server).await;
            if visible.len() >= count as usize {
                return visible;
            }
            assert!(Instant::now() < until, "{} of {count} are visible", visible.len());
        }
    }
}

/// Members that are gone are noticed soon.
fn config(server: &Server) -> KafkaConfig {
    let config = server.config().property("session.timeout.ms", "6000");
    config.property("heartbeat.interval.ms", "500")
}

async fn start(config: KafkaConfig, topic: &str, id: &str) -> KafkaPipeline {
    let builder = KafkaPipeline::builder(config, topic).group("g").transactional_id(id);
    builder.window(50, Duration::from_millis(20)).start().await.expect("a pipeline")
}

/// A pipeline that runs on a task of its own.
struct Running {
    stopper: PipelineStopper,
    task: JoinSet<posthaste_core::Result<()>>,
}

impl Running {
    fn run<F>(pipeline: KafkaPipeline, handler: F) -> Self
    where
        F: for<'a> FnMut(&'a Transaction, &'a [Input]) -> Handling<'a> + Send + 'static,
    {
        let (stopper, mut task) = (pipeline.stopper(), JoinSet::new());
        task.spawn(pipeline.run(handler));
        Self { stopper, task }
    }

    async fn ended(mut self) -> posthaste_core::Result<()> {
        let ended = tokio::time::timeout(Duration::from_secs(40), self.task.join_next()).await;
        ended.expect("an end in time").expect("a task").expect("no panic")
    }

    async fn stop(self) {
        self.stopper.stop();
        self.ended().await.expect("nothing went wrong");
    }
}

/// A handler that brings everything over.
fn copy(
    to: &Destination,
) -> impl for<'a> FnMut(&'a Transaction, &'a [Input]) -> Handling<'a> + Send + use<> {
    let to = to.topic.clone();
    move |transaction, batch| Box::pin(bring(transaction, batch, to.to_string()))
}

async fn bring(
    transaction: &Transaction,
    batch: &[Input],
    to: String,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for input in batch {
        transaction.publish(&to, input.envelope().clone()).await?;
    }
    Ok(())
}

/// The numbers in a topic, partition by partition, up to its end.
async fn read(server: &Server, topic: &str, isolation: &str) -> Vec<u32> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.address()).set("group.id", "it-reads");
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("isolation.level", isolation).set("fetch.wait.max.ms", "10");
    let topic = topic.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let limit = Duration::from_secs(20);
        let metadata = client.fetch_metadata(Some(&topic), limit).expect("an answer");
        let partitions: Vec<i32> =
            metadata.topics()[0].partitions().iter().map(|one| one.id()).collect();
        let mut from = TopicPartitionList::new();
        for partition in &partitions {
            from.add_partition_offset(&topic, *partition, Offset::Beginning).expect("an offset");
        }
        client.assign(&from).expect("an assignment");
        drop(from);
        let (mut found, mut ended) = (BTreeMap::<i32, Vec<u32>>::new(), BTreeSet::new());
        while ended.len() < partitions.len() {
            match client.poll(limit).expect("something in time") {
                Ok(message) => {
                    let payload = message.payload().expect("a payload");
                    let number = std::str::from_utf8(payload).expect("a text");
                    let number = number.parse().expect("a number");
                    found.entry(message.partition()).or_default().push(number);
                }
                Err(KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
                Err(other) => assert!(!matches!(other, KafkaError::MessageConsumptionFatal(_))),
            }
        }
        found.into_values().flatten().collect()
    });
    reading.await.expect("no panic")
}

fn once_each(visible: Vec<u32>, count: u32) {
    let (seen, mut sorted) = (visible.len(), visible);
    sorted.sort_unstable();
    let different = sorted.iter().collect::<BTreeSet<_>>().len();
    println!("{count} were read, {seen} are visible, {} of them twice", seen - different);
    assert_eq!(sorted, (0..count).collect::<Vec<_>>());
}

async fn everything(server: Server) {
    const COUNT: u32 = 1_000;
    let places = places(&server, "pipeline").await;
    places.publish(0..COUNT).await;
    let running = Running::run(places.pipeline(&server, "0").await, copy(&places.to));
    let visible = places.comes_to(&server, COUNT).await;
    running.stop().await;
    // The numbers of a key ascend, in the one partition where they are.
    let mut last = BTreeMap::new();
    for number in &visible {
        assert!(last.insert(number % 50, *number).is_none_or(|before| before < *number));
    }
    once_each(visible, COUNT);
    let (id, topic) = (format!("{}__g", places.from.topic), native(&places.from));
    let committed = raw::committed(&server, &id, &topic, PARTITIONS.into()).await;
    let sum: i64 = committed.iter().filter_map(|(offset, _)| *offset).sum();
    assert_eq!(sum, i64::from(COUNT), "{committed:?}");
    let lag = places.adapter.admin().lag(&places.from.topic, &crate::adapter::group("g")).await;
    assert_eq!(lag.unwrap().ready, Some(0));
}

async fn half(server: Server) {
    const COUNT: u32 = 400;
    let places = places(&server, "half").await;
    let to = places.to.topic.to_string();
    let attempts = Arc::new(AtomicU32::new(0));
    let most = Arc::clone(&attempts);
    let pipeline = places.pipeline(&server, "0").await;
    let running = Running::run(pipeline, move |transaction, batch| {
        let (to, most, fails) = (to.clone(), Arc::clone(&most), fastrand::bool());
        Box::pin(async move {
            for input in batch {
                most.fetch_max(input.attempt(), Ordering::Relaxed);
            }
            bring(transaction, batch, to).await?;
            if fails { Err("half the time".into()) } else { Ok(()) }
        })
    });
    for round in 0..COUNT / 40 {
        places.publish(round * 40..(round + 1) * 40).await;
    }
    let visible = places.comes_to(&server, COUNT).await;
    running.stop().await;
    once_each(visible, COUNT);
    assert!(attempts.load(Ordering::Relaxed) > 1, "it failed half the time");
}

async fn taken_back(server: Server) {
    let places = places(&server, "taken-back").await;
    places.publish(0..10).await;
    let pipeline = places.pipeline(&server, "0").await;
    let (stopper, to) = (pipeline.stopper(), places.to.clone());
    let at = server.clone();
    let running = Running::run(pipeline, move |transaction, batch| {
        let (stopper, to, server) = (stopper.clone(), to.clone(), at.clone());
        Box::pin(async move {
            bring(transaction, batch, to.topic.to_string()).await?;
            // It is at the broker, where only who asks for it sees it.
            while read(&server, &native(&to), "read_uncommitted").await.len() < batch.len() {}
            stopper.stop();
            Err("all was in vain".into())
        })
    });
    running.ended().await.unwrap();
    assert_eq!(places.visible(&server).await, [0; 0]);
    assert!(!read(&server, &native(&places.to), "read_uncommitted").await.is_empty());
    let running = Running::run(places.pipeline(&server, "0").await, copy(&places.to));
    once_each(places.comes_to(&server, 10).await, 10);
    running.stop().await;
}

async fn fenced(server: Server) {
    let places = places(&server, "fenced").await;
    let first = Running::run(places.pipeline(&server, "0").await, copy(&places.to));
    places.publish(0..20).await;
    places.comes_to(&server, 20).await;
    let second = Running::run(places.pipeline(&server, "0").await, copy(&places.to));
    // The first one notices when it has something to do.
    let (ended, count) = places.publish_until(20, first.ended()).await;
    failed(ended, ErrorKind::Fatal, &["transactional id", &format!("{}-0", places.from.topic)]);
    once_each(places.comes_to(&server, count).await, count);
    second.stop().await;
}

async fn handed_over(server: Server) {
    let places = places(&server, "handed-over").await;
    // Longer than the other needs to take over, and shorter than it waits for a handler.
    let pause = Arc::new(AtomicU32::new(1_200));
    let handled = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
    let run = async |who: usize| {
        let pipeline = places.pipeline(&server, &who.to_string()).await;
        Running::run(pipeline, slowly(&places.to, &pause, &handled[who]))
    };
    let more = async |who: usize| {
        let before = handled[who].load(Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(30);
        while handled[who].load(Ordering::Relaxed) < before + 100 {
            assert!(Instant::now() < until, "a member gets nothing");
            tokio::task::yield_now().await;
        }
    };
    let first = run(0).await;
    let ((), mut count) = places.publish_until(0, more(0)).await;
    for _ in 0..3 {
        let join = async {
            let second = run(1).await;
            more(1).await;
            second
        };
        let (second, next) = places.publish_until(count, join).await;
        ((), count) = places.publish_until(next, second.stop()).await;
    }
    pause.store(0, Ordering::Relaxed);
    once_each(places.comes_to(&server, count).await, count);
    first.stop().await;
}

/// A window is out at nearly every moment, also when partitions go.
fn slowly(
    to: &Destination,
    pause: &Arc<AtomicU32>,
    handled: &Arc<AtomicU32>,
) -> impl for<'a> FnMut(&'a Transaction, &'a [Input]) -> Handling<'a> + Send + use<> {
    let (to, pause) = (to.topic.to_string(), Arc::clone(pause));
    let handled = Arc::clone(handled);
    move |transaction, batch| {
        let (to, handled) = (to.clone(), Arc::clone(&handled));
        let pause = Duration::from_millis(pause.load(Ordering::Relaxed).into());
        Box::pin(async move {
            bring(transaction, batch, to).await?;
            tokio::time::sleep(pause).await;
            handled.fetch_add(u32::try_from(batch.len())?, Ordering::Relaxed);
            Ok(())
        })
    }
}

async fn too_slow(server: Server) {
    let places = places(&server, "too-slow").await;
    places.publish(0..100).await;
    let id = format!("{}-0", places.from.topic);
    let builder = KafkaPipeline::builder(config(&server), places.from.topic.as_str());
    let pipeline = builder.group("g").transactional_id(id).start().await.unwrap();
    // What the handler has while it does not come to an end, and how much of that came again.
    let (held, again) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicU32::new(0)));
    let (to, waits, comes) = (places.to.topic.to_string(), Arc::clone(&held), Arc::clone(&again));
    let first = Running::run(pipeline, move |transaction, batch| {
        let mut held = waits.lock().expect("sound");
        let partitions: BTreeSet<_> = batch.iter().map(Input::partition).collect();
        let is_first = held.is_empty();
        // Two of four go. With three of them, something stays.
        let (fails, ends) = (is_first && partitions.len() < 3, !is_first);
        for input in batch.iter().filter(|_| !fails) {
            if !held.insert((input.partition(), input.offset())) {
                comes.fetch_add(1, Ordering::Relaxed);
            }
        }
        let to = to.clone();
        Box::pin(async move {
            bring(transaction, batch, to).await?;
            match (fails, ends) {
                (true, _) => Err("more is to come".into()),
                (false, true) => Ok(()),
                // Nothing but a hand-over ends this.
                (false, false) => std::future::pending().await,
            }
        })
    });
    while held.lock().expect("sound").is_empty() {
        tokio::task::yield_now().await;
    }
    let second = Running::run(places.pipeline(&server, "1").await, copy(&places.to));
    once_each(places.comes_to(&server, 100).await, 100);
    assert!(again.load(Ordering::Relaxed) > 0, "what stayed with the first came again");
    first.stop().await;
    second.stop().await;
}

/// The broker is gone for some seconds, with a transaction open or in its end.
async fn restarted(mut private: Private) {
    let server = private.server();
    let places = places(&server, "restarted").await;
    let seen = Arc::new(AtomicU32::new(0));
    places.publish(0..500).await;
    let (stopper, mut ends) = (Mutex::new(None::<PipelineStopper>), 0);
    let watch = async {
        while seen.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        private.kill().await;
        private.up().await;
        let visible = places.comes_to(&server, 500).await;
        let stopper = stopper.lock().expect("sound");
        stopper.as_ref().expect("it runs").stop();
        visible
    };
    // As whoever looks after a process does.
    let supervise = async {
        loop {
            let pipeline = places.pipeline(&server, "0").await;
            *stopper.lock().expect("sound") = Some(pipeline.stopper());
            let (to, seen) = (places.to.topic.to_string(), Arc::clone(&seen));
            let run = pipeline.run(move |transaction, batch| {
                seen.fetch_add(1, Ordering::Relaxed);
                Box::pin(bring(transaction, batch, to.clone()))
            });
            match run.await {
                Ok(()) => break,
                Err(error) => {
                    println!("{error}");
                    ends += 1;
                }
            }
        }
    };
    let (visible, ()) = tokio::join!(watch, supervise);
    println!("the pipeline ended {ends} times");
    once_each(visible, 500);
}

async fn dead_letters(server: Server) {
    let places = places(&server, "letters").await;
    places.publish(0..20).await;
    let to = places.to.topic.to_string();
    let running = Running::run(places.pipeline(&server, "0").await, move |transaction, batch| {
        let to = to.clone();
        Box::pin(async move {
            for input in batch {
                if input.envelope().payload().ends_with(b"7") {
                    transaction.dead_letter(input, Cause::new("sevens are bad")).await?;
                } else {
                    transaction.publish(&to, input.envelope().clone()).await?;
                }
            }
            if batch[0].attempt() == 1 { Err("not yet".into()) } else { Ok(()) }
        })
    });
    places.comes_to(&server, 18).await;
    running.stop().await;
    assert_eq!(places.visible(&server).await.len(), 18);
    let bus = bus(&server).await;
    let page = bus.admin().dead_letters(places.from.topic.as_str(), "g", 10).await.unwrap();
    let mut given_up = BTreeSet::new();
    for letter in &page.letters {
        let letter = &letter.letter;
        assert_eq!((letter.attempts, &letter.topic), (2, &places.from.topic));
        assert_eq!(letter.cause.as_ref().unwrap().chain(), ["sevens are bad"]);
        given_up.insert(letter.envelope.payload().to_vec());
    }
    assert_eq!((page.letters.len(), given_up.len()), (2, 2));
}

async fn other_members(server: Server) {
    let (places, bus) = (places(&server, "others").await, bus(&server).await);
    let inbox = join(&bus, &places.from.topic, 1).await;
    let builder = KafkaPipeline::builder(config(&server), places.from.topic.as_str());
    let builder = builder.group("g").transactional_id("it-others");
    // It has joined when the broker names it.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match builder.clone().start().await {
            Ok(_) => assert!(Instant::now() < until, "nobody refused it"),
            refused => break failed(refused, ErrorKind::Conflict, &["members", "posthaste-"]),
        }
    }
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let nowhere = KafkaPipeline::builder(config(&server), name("nowhere"));
    let nowhere = nowhere.group("g").transactional_id("it-nowhere").start().await;
    failed(nowhere, ErrorKind::NotFound, &[]);
}

/// Whether this process was started to be killed: then it is a pipeline, and says a word for each
/// window.
pub(crate) fn child() -> bool {
    let Ok(job) = std::env::var(CHILD) else { return false };
    let [url, from, to] = job.split(' ').collect::<Vec<_>>()[..] else { unreachable!("{job}") };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let to = to.to_owned();
    runtime.block_on(async {
        let config = KafkaConfig::from_url(url).expect("a URL");
        start_anew(config, from)
            .await
            .run(|transaction, batch| {
                println!("{}", batch.len());
                Box::pin(bring(transaction, batch, to.clone()))
            })
            .await
            .expect("it is killed before anything goes wrong");
    });
    true
}

/// A static member takes the place of the one that was killed, at once.
async fn start_anew(config: KafkaConfig, topic: &str) -> KafkaPipeline {
    start(config.instance_id(format!("{topic}-0")), topic, &format!("{topic}-0")).await
}

/// How often the pipeline is killed: ten times, unless the environment says otherwise.
fn kills() -> u32 {
    let given = std::env::var(KILLS).ok();
    given.map_or(10, |given| given.parse().expect("a number of kills"))
}

async fn killed(server: Server) {
    let kills = kills();
    let places = places(&server, "killed").await;
    let job = format!("{} {} {}", server.url, places.from.topic, places.to.topic);
    let (mut count, mut windows) = (0, 0);
    for _ in 0..kills {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .env(CHILD, &job)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = std::fs::File::from(child.stdout.take().unwrap().into_owned_fd().unwrap());
        let (tell, mut told) = tokio::sync::mpsc::channel(1_000);
        // It ends with the process.
        let lines = std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .all(|_| tell.blocking_send(()).is_ok())
        });
        let life = async {
            // At any moment: before the first window, in the middle of one, or after some.
            for _ in 0..fastrand::u32(0..4) {
                let window = tokio::time::timeout(Duration::from_secs(30), told.recv()).await;
                window.expect("a window in time").expect("it lives");
                windows += 1;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
            child.kill().await.unwrap();
        };
        ((), count) = places.publish_until(count, life).await;
        drop(told);
        lines.join().unwrap();
    }
    let pipeline = start_anew(config(&server), places.from.topic.as_str()).await;
    let running = Running::run(pipeline, copy(&places.to));
    let visible = places.comes_to(&server, count).await;
    running.stop().await;
    let tried = read(&server, &native(&places.to), "read_uncommitted").await.len();
    println!("{kills} kills, {windows} windows seen, {tried} written");
    once_each(visible, count);
}
