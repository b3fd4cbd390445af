//! Start, pause, stop: what runs finishes, the rest goes back, and nothing is left hanging.

use std::time::Duration;

use posthaste_core::TopicConfig;
use posthaste_runtime::*;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::shop::*;

async fn slow(State(log): State<Log>, order: Payload<Placed>) {
    log.note(format!("start {}", order.id));
    tokio::time::sleep(10 * SECOND).await;
    log.note(format!("end {}", order.id));
}

#[tokio::test(start_paused = true)]
async fn at_the_signal_what_runs_finishes_and_the_rest_goes_back_without_fault() {
    let (shop, log) = (Shop::plain().await, Log::default());
    for number in 0..10 {
        shop.place(&format!("A-{number}"), number).await;
    }
    let (signal, stopped) = oneshot::channel::<()>();
    let consumer = shop.billing().state(log.clone()).concurrency(3).on("orders", slow);
    let run = consumer.run_until(stopped);
    let (report, ()) = tokio::join!(run, async {
        log.has(3).await;
        signal.send(()).unwrap();
    });
    let report = report.unwrap();
    assert_eq!(log.lines()[3..].iter().filter(|line| line.starts_with("end")).count(), 3);
    assert_eq!((report.handled, report.released, report.unfinished), (3, 7, 0));
    // Others get it at once, and as the first attempt that it is.
    let mut inbox = shop.bus.subscribe("orders").group("billing").start().await.unwrap();
    for _ in 0..7 {
        let next = tokio::time::timeout(SECOND, inbox.next()).await;
        next.expect("at once").unwrap().unwrap().ack().await.unwrap();
    }
    inbox.stop(SECOND).await.unwrap();
    assert_eq!(shop.left().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline_and_says_what_was_not_finished() {
    async fn hang(State(log): State<Log>) {
        log.note("start");
        std::future::pending::<()>().await;
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.place("A-1", 1).await;
    let consumer = shop.billing().state(log.clone()).drain(5 * SECOND);
    let running = consumer.on("orders", hang).start().await.unwrap();
    log.has(1).await;
    let start = Instant::now();
    let report = stop(running).await;
    assert!(start.elapsed() >= 5 * SECOND && start.elapsed() < 7 * SECOND);
    assert_eq!((report.unfinished, report.handled, shop.left().await), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_it_at_once() {
    struct Twice(oneshot::Receiver<()>);
    impl Stop for Twice {
        async fn at_once(self) {
            self.0.await.unwrap();
        }
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.place("A-1", 1).await;
    let (first, second) = (oneshot::channel::<()>(), oneshot::channel::<()>());
    let signal = async {
        first.1.await.unwrap();
        Twice(second.1)
    };
    let consumer = shop.billing().state(log.clone()).drain(3_600 * SECOND).on("orders", slow);
    let (report, started) = tokio::join!(consumer.run_until(signal), async {
        log.has(1).await;
        first.0.send(()).unwrap();
        tokio::time::sleep(SECOND).await;
        second.0.send(()).unwrap();
        Instant::now()
    });
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    assert_eq!((report.unwrap().handled, log.lines()), (0, vec!["start A-1".to_owned()]));
    assert_eq!(shop.left().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_dropped_gives_back_what_it_had() {
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.place("A-1", 1).await;
    let consumer = shop.billing().state(log.clone()).on("orders", slow);
    let running = consumer.start().await.unwrap();
    let control = running.control();
    log.has(1).await;
    drop(running);
    assert_eq!(control.phase(), Phase::Stopped);
    let consumer = shop.billing().state(log.clone()).on("orders", slow);
    let running = consumer.start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["start A-1", "start A-1", "end A-1"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_consumer_takes_nothing_and_goes_on_when_resumed() {
    async fn note(State(log): State<Log>, order: Payload<Placed>) {
        log.note(order.0.id);
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).on("orders", note);
    let control = consumer.control();
    assert!(control.phase() == Phase::Starting && !control.is_ready() && control.is_live());
    let running = consumer.start().await.unwrap();
    assert!(control.is_ready());
    shop.place("A-1", 1).await;
    log.has(1).await;
    control.pause();
    shop.place("A-2", 2).await;
    shop.place("A-3", 3).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!((log.len(), control.phase()), (1, Phase::Paused));
    assert!(!control.is_ready() && control.is_live());
    control.resume();
    shop.settled().await;
    assert_eq!(log.len(), 3);
    control.pause();
    assert_eq!(stop(running).await.handled, 3);
    assert!(!control.is_live());
}

#[tokio::test(start_paused = true)]
async fn it_is_stopped_from_elsewhere_and_by_the_end_of_its_bus() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).on("orders", slow);
    let control = consumer.control();
    let (report, ()) = tokio::join!(consumer.run_until(std::future::pending::<()>()), async {
        control.reached(Phase::Running).await;
        control.stop();
    });
    assert_eq!(report.unwrap().handled, 0);

    let consumer = shop.billing().state(log.clone()).on("orders", slow);
    let mut running = consumer.start().await.unwrap();
    running.control().stop();
    running.ended().await;
    assert_eq!(stop(running).await.handled, 0);

    let consumer = shop.billing().state(log.clone()).on("orders", slow);
    let control = consumer.control();
    shop.place("A-1", 1).await;
    let (report, closed) = tokio::join!(consumer.run_until(std::future::pending::<()>()), async {
        log.has(1).await;
        shop.bus.close(60 * SECOND).await
    });
    closed.unwrap();
    assert_eq!((report.unwrap().handled, control.phase()), (1, Phase::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_came_before_the_start_is_heard() {
    let shop = Shop::plain().await;
    async fn never() {}
    let report = shop.billing().on("orders", never).run_until(async {}).await.unwrap();
    assert_eq!(report, Report::default());
}

#[tokio::test(start_paused = true)]
async fn under_load_nothing_that_was_handled_comes_again_after_a_stop() {
    async fn quick(State(log): State<Log>, order: Payload<Placed>) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        log.note(order.0.id);
    }
    let shop = Shop::open(TopicConfig::new("orders").group("billing")).await;
    let log = Log::default();
    let orders: Vec<_> = (0..500).map(|number| placed(&format!("A-{number}"), number)).collect();
    shop.orders.publish_all(&orders).await.unwrap().into_result().unwrap();
    while shop.left().await > 0 {
        let consumer = shop.billing().state(log.clone()).on("orders", quick);
        let running = consumer.start().await.unwrap();
        tokio::time::sleep(50 * MILLISECOND).await;
        assert_eq!(stop(running).await.unfinished, 0);
    }
    let mut lines = log.lines();
    lines.sort();
    lines.dedup();
    assert_eq!((lines.len(), log.len()), (500, 500), "each exactly once");
}
