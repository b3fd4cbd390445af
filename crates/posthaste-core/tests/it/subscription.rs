//! What a subscription does above any adapter: settling, leases, attempts, order, expiry, drain.

use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::*;
use posthaste_memory::MemoryBroker;

const SECOND: Duration = Duration::from_secs(1);

struct Shop {
    bus: Bus,
    publisher: Publisher,
}

impl Shop {
    async fn open(topic: TopicConfig) -> Self {
        let bus = Bus::builder(MemoryBroker::new()).source("/shop").build().unwrap();
        let info = bus.ensure(topic).await.unwrap();
        let publisher = bus.publisher(&info.name).unwrap();
        Self { bus, publisher }
    }

    async fn plain() -> Self {
        Self::open(TopicConfig::new("orders").group("billing")).await
    }

    async fn ordered() -> Self {
        Self::open(TopicConfig::new("orders").ordered(1).group("billing")).await
    }

    async fn send(&self, id: &str, key: Option<&str>) {
        let mut builder = Envelope::builder("order.placed").id(id.to_owned());
        if let Some(key) = key {
            builder = builder.key(key.to_owned());
        }
        let envelope = self.publisher.envelope(builder).unwrap();
        self.publisher.publish_envelope(envelope).await.unwrap();
    }

    fn billing(&self) -> SubscribeBuilder {
        self.bus.subscribe("orders").group("billing")
    }

    async fn left(&self) -> u64 {
        self.bus.admin().lag("orders", "billing").await.unwrap().total()
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let page = self.bus.admin().dead_letters("orders", "billing", 100).await.unwrap();
        page.letters.into_iter().map(|stored| stored.letter).collect()
    }
}

pub(crate) async fn next(inbox: &mut Subscription) -> Delivery {
    tokio::time::timeout(60 * SECOND, inbox.next())
        .await
        .expect("nothing came")
        .expect("the subscription ended")
        .unwrap()
}

pub(crate) async fn nothing_for(inbox: &mut Subscription, time: Duration) {
    let outcome = tokio::time::timeout(time, inbox.next()).await;
    assert!(outcome.is_err(), "came: {outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_does_not_wait_and_reaches_the_broker_within_milliseconds() {
    let shop = Shop::plain().await;
    shop.send("a", None).await;
    shop.send("b", None).await;
    let mut inbox = shop.billing().start().await.unwrap();
    let delivery = next(&mut inbox).await;
    let held = next(&mut inbox).await;
    delivery.ack().now_or_never().expect("it waited").unwrap();
    // Nobody waits in `next`, and the buffer is far from full: the linger decides.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(shop.left().await, 1);
    held.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_acknowledgement_is_at_the_broker_when_it_returns() {
    let shop = Shop::plain().await;
    shop.send("a", None).await;
    let mut inbox = shop.billing().start().await.unwrap();
    next(&mut inbox).await.ack_confirmed().await.unwrap();
    assert_eq!(shop.left().await, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_any_awaited_call_loses_nothing_and_blocks_nothing() {
    let shop = Shop::plain().await;
    let mut inbox = shop.billing().prefetch(1).start().await.unwrap();
    for polls in 0..3 {
        let mut call = Box::pin(inbox.next());
        for _ in 0..polls {
            assert!((&mut call).now_or_never().is_none());
        }
        drop(call);
        let id = format!("after-{polls}");
        shop.send(&id, None).await;
        let delivery = next(&mut inbox).await;
        assert_eq!((delivery.id(), delivery.attempt()), (&*id, 1));
        // An acknowledgement that was never polled is a delivery that was dropped.
        drop(delivery.ack());
        let again = next(&mut inbox).await;
        assert_eq!((again.id(), again.attempt()), (&*id, 2));
        let mut confirmed = Box::pin(again.ack_confirmed());
        let _ = (&mut confirmed).now_or_never();
        drop(confirmed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(shop.left().await, 0, "the dropped confirmation was buffered");
    }
    drop(Box::pin(inbox.stop(SECOND)));
    shop.send("after", None).await;
    let mut other = shop.billing().start().await.unwrap();
    assert_eq!(next(&mut other).await.id(), "after");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delivery_comes_again_later_each_time() {
    let shop = Shop::plain().await;
    shop.send("a", None).await;
    let mut inbox = shop.billing().start().await.unwrap();
    let mut waits = Vec::new();
    for attempt in 1..=12 {
        let started = tokio::time::Instant::now();
        let delivery = next(&mut inbox).await;
        waits.push(started.elapsed());
        assert_eq!(delivery.attempt(), attempt, "drops never make a dead letter");
    }
    assert!(waits[1] >= Duration::from_millis(100), "{waits:?}");
    assert!(waits[4] >= Duration::from_millis(800), "{waits:?}");
    assert!(waits[11] >= 30 * SECOND && waits[11] < 32 * SECOND, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_that_fails_makes_a_dead_letter_with_its_cause() {
    let shop = Shop::plain().await;
    shop.send("a", None).await;
    let mut inbox = shop.billing().max_attempts(3).start().await.unwrap();
    for attempt in 1..=3 {
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.nack(Nack::after(SECOND).because("declined")).await.unwrap();
    }
    nothing_for(&mut inbox, 60 * SECOND).await;
    let letters = shop.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].envelope.id(), "a");
    assert_eq!(letters[0].reason, Reason::AttemptsExhausted);
    assert_eq!(letters[0].cause.as_ref().unwrap().chain(), ["declined"]);
    assert_eq!(letters[0].attempts, 3);
    assert_eq!(letters[0].group.as_str(), "billing");
    assert_eq!(inbox.stats().dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_the_delivery_is_held_and_ends_at_max_handling() {
    let shop = Shop::plain().await;
    shop.send("a", None).await;
    let mut inbox = shop.billing().lease(SECOND).max_handling(10 * SECOND).start().await.unwrap();
    let mut rival = shop.billing().lease(SECOND).start().await.unwrap();
    let delivery = next(&mut inbox).await;
    nothing_for(&mut rival, 9 * SECOND).await;
    assert!(!delivery.is_lost());
    tokio::time::timeout(3 * SECOND, delivery.lost()).await.expect("still held");
    let again = next(&mut rival).await;
    assert_eq!((again.id(), again.attempt()), ("a", 2));
    let error = delivery.nack(Nack::requeue()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    again.ack().await.unwrap();
    nothing_for(&mut rival, 60 * SECOND).await;
    assert_eq!(inbox.stats().leases_lost, 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_is_not_handled() {
    for (policy, letters) in [(Expired::DeadLetter, 1), (Expired::Drop, 0)] {
        let shop = Shop::plain().await;
        let soon = PublishOptions::new().expires_in(SECOND);
        let envelope = shop.publisher.envelope(Envelope::builder("order.placed").id("old"));
        shop.publisher.publish_envelope_with(envelope.unwrap(), soon).await.unwrap();
        shop.send("fresh", None).await;
        tokio::time::sleep(2 * SECOND).await;
        let mut inbox = shop.billing().expired(policy).start().await.unwrap();
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.id(), "fresh");
        delivery.ack().await.unwrap();
        nothing_for(&mut inbox, SECOND).await;
        assert_eq!(inbox.stats().expired, 1);
        let stored = shop.letters().await;
        assert_eq!(stored.len(), letters);
        assert!(stored.iter().all(|letter| letter.reason == Reason::Expired));
        assert_eq!(shop.left().await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_alone_and_keeps_its_order() {
    let shop = Shop::ordered().await;
    for id in ["a1", "b1", "a2", "b2", "a3"] {
        shop.send(id, Some(&id[..1])).await;
    }
    let mut inbox = shop.billing().order(Order::PerKey).start().await.unwrap();
    let failing = next(&mut inbox).await;
    assert_eq!(failing.id(), "a1");
    failing.nack(Nack::after(10 * SECOND)).await.unwrap();
    for id in ["b1", "b2"] {
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.id(), id, "another key goes on");
        delivery.ack().await.unwrap();
    }
    nothing_for(&mut inbox, 9 * SECOND).await;
    let again = next(&mut inbox).await;
    assert_eq!((again.id(), again.attempt()), ("a1", 2));
    nothing_for(&mut inbox, 60 * SECOND).await;
    again.ack().await.unwrap();
    for id in ["a2", "a3"] {
        let delivery = next(&mut inbox).await;
        assert_eq!((delivery.id(), delivery.attempt()), (id, 1));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_for_good_goes_to_the_dead_letters_with_what_waits_behind_it() {
    let shop = Shop::ordered().await;
    for id in ["a1", "a2", "b1"] {
        shop.send(id, Some(&id[..1])).await;
    }
    let mut inbox = shop.billing().order(Order::PerKey).max_attempts(2).start().await.unwrap();
    next(&mut inbox).await.nack(Nack::requeue()).await.unwrap();
    for _ in 0..2 {
        let delivery = next(&mut inbox).await;
        match delivery.id() {
            "a1" => delivery.nack(Nack::requeue()).await.unwrap(),
            "b1" => delivery.ack().await.unwrap(),
            other => panic!("{other} came before a1 was settled"),
        }
    }
    nothing_for(&mut inbox, 5 * SECOND).await;
    let reasons: Vec<_> = shop
        .letters()
        .await
        .into_iter()
        .map(|letter| (letter.envelope.id().to_owned(), letter.reason))
        .collect();
    let expected =
        [("a1".to_owned(), Reason::AttemptsExhausted), ("a2".to_owned(), Reason::FollowsKey)];
    assert_eq!(reasons, expected);
    shop.send("a3", Some("a")).await;
    assert_eq!(next(&mut inbox).await.id(), "a3", "later messages of the key are handled");
}

#[tokio::test(start_paused = true)]
async fn stop_lane_ends_the_subscription_and_keeps_the_message() {
    let shop = Shop::ordered().await;
    shop.send("a1", Some("a")).await;
    shop.send("a2", Some("a")).await;
    let ordered = || shop.billing().order(Order::PerKey).max_attempts(1);
    let mut inbox = ordered().key_failure(KeyFailure::StopLane).start().await.unwrap();
    next(&mut inbox).await.nack(Nack::requeue().because("no account")).await.unwrap();
    let end = inbox.next().await.expect("an error is the last item");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Fatal);
    assert!(inbox.next().await.is_none());
    drop(inbox);
    let mut successor = ordered().start().await.unwrap();
    assert_eq!(next(&mut successor).await.id(), "a1", "in order, nothing skipped");
}

#[tokio::test(start_paused = true)]
async fn prefetch_bounds_what_is_unsettled() {
    let shop = Shop::plain().await;
    for n in 0..20 {
        shop.send(&n.to_string(), None).await;
    }
    let mut inbox = shop.billing().prefetch(3).start().await.unwrap();
    let batch = inbox.next_batch(100).await.unwrap().unwrap();
    assert_eq!(batch.len(), 3);
    nothing_for(&mut inbox, 5 * SECOND).await;
    for delivery in batch {
        delivery.ack().await.unwrap();
    }
    for _ in 3..20 {
        next(&mut inbox).await.ack().await.unwrap();
    }
    nothing_for(&mut inbox, SECOND).await;
    assert_eq!(shop.left().await, 0);
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_what_is_held_and_gives_the_rest_back() {
    let shop = Shop::plain().await;
    for n in 0..10 {
        shop.send(&n.to_string(), None).await;
    }
    let mut inbox = shop.billing().start().await.unwrap();
    let held = next(&mut inbox).await;
    let stopping = tokio::spawn(inbox.stop(20 * SECOND));
    let mut heir = shop.billing().start().await.unwrap();
    for _ in 0..9 {
        let delivery = tokio::time::timeout(SECOND, next(&mut heir)).await.expect("handed over");
        assert_ne!(delivery.id(), held.id());
        delivery.ack().await.unwrap();
    }
    assert!(!stopping.is_finished(), "a delivery is still held");
    held.ack().await.unwrap();
    stopping.await.unwrap().unwrap();
    nothing_for(&mut heir, SECOND).await;
    assert_eq!(shop.left().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_beyond_the_deadline_goes_to_somebody_else() {
    let shop = Shop::plain().await;
    shop.send("a", None).await;
    let mut inbox = shop.billing().start().await.unwrap();
    let held = next(&mut inbox).await;
    let error = inbox.stop(2 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(held.is_lost());
    let mut heir = shop.billing().start().await.unwrap();
    assert_eq!(next(&mut heir).await.id(), "a");
    assert_eq!(held.nack(Nack::requeue()).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_gives_back_what_it_had() {
    let shop = Shop::plain().await;
    for n in 0..5 {
        shop.send(&n.to_string(), None).await;
    }
    let mut inbox = shop.billing().start().await.unwrap();
    let held = next(&mut inbox).await;
    drop(inbox);
    let mut heir = shop.billing().start().await.unwrap();
    for _ in 0..4 {
        tokio::time::timeout(SECOND, next(&mut heir))
            .await
            .expect("handed over")
            .ack()
            .await
            .unwrap();
    }
    held.ack().await.unwrap();
    nothing_for(&mut heir, 60 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn closing_the_bus_ends_its_subscriptions_and_refuses_new_ones() {
    let shop = Shop::plain().await;
    let mut inbox = shop.billing().start().await.unwrap();
    let waiting = tokio::spawn(async move { inbox.next().await.is_none() });
    tokio::time::sleep(SECOND).await;
    shop.bus.close(5 * SECOND).await.unwrap();
    assert!(waiting.await.unwrap(), "the stream ends");
    for error in [
        shop.billing().start().await.unwrap_err(),
        shop.bus.health().await.unwrap_err(),
        shop.bus.ensure(TopicConfig::new("late")).await.unwrap_err(),
        shop.bus.admin().lag("orders", "billing").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_decoded_only_from_its_own_type() {
    struct Placed(String);
    impl Event for Placed {
        const TYPE: &'static str = "order.placed";
        type Codec = codec::Text;
    }
    impl AsRef<str> for Placed {
        fn as_ref(&self) -> &str {
            &self.0
        }
    }
    impl From<String> for Placed {
        fn from(text: String) -> Self {
            Self(text)
        }
    }
    struct Cancelled;
    impl Event for Cancelled {
        const TYPE: &'static str = "order.cancelled";
        type Codec = codec::Text;
    }
    impl From<String> for Cancelled {
        fn from(_: String) -> Self {
            Self
        }
    }
    let shop = Shop::plain().await;
    shop.publisher.publish(&Placed("seven".to_owned())).await.unwrap();
    let mut inbox = shop.billing().start().await.unwrap();
    let delivery = next(&mut inbox).await;
    assert_eq!(delivery.decode::<Placed>().unwrap().0, "seven");
    assert_eq!(delivery.envelope().source(), "/shop");
    assert_eq!(delivery.envelope().schema_version(), Some(1));
    let error = delivery.decode::<Cancelled>().err().expect("another type");
    assert_eq!(error.kind(), ErrorKind::Decode);
    delivery.nack(Nack::dead_letter(error)).await.unwrap();
    nothing_for(&mut inbox, SECOND).await;
    assert_eq!(shop.letters().await[0].reason, Reason::Undecodable);
}

#[tokio::test]
async fn malformed_settings_are_refused_before_anything_happens() {
    let shop = Shop::plain().await;
    let billing = || shop.billing();
    let settings = [
        shop.bus.subscribe("no spaces").group("billing"),
        shop.bus.subscribe(["orders", "orders"]).group("billing"),
        shop.bus.subscribe(Vec::<String>::new()).group("billing"),
        shop.bus.subscribe("orders").group("no.dots"),
        shop.bus.subscribe("orders").group("unrouted"),
        billing().prefetch(0),
        billing().prefetch_bytes(0),
        billing().lease(Duration::ZERO),
        billing().lease(Duration::MAX),
        billing().max_handling(Duration::ZERO),
        billing().max_handling(Duration::MAX),
        billing().max_attempts(0),
        billing().key_wait(Duration::ZERO),
        billing().member(""),
        billing().member("no spaces"),
        billing().member("x".repeat(121)),
    ];
    for setting in settings {
        let shown = format!("{setting:?}");
        let error = setting.start().await.err().unwrap_or_else(|| panic!("taken: {shown}"));
        assert_eq!(error.kind(), ErrorKind::Invalid, "{shown}: {error}");
    }
    let plain = billing().order(Order::PerKey).start().await.unwrap_err();
    assert_eq!(plain.kind(), ErrorKind::Unsupported, "a plain topic keeps no order");
    let missing = shop.bus.subscribe("missing").group("g").topology(Topology::Verify);
    assert_eq!(missing.start().await.unwrap_err().kind(), ErrorKind::NotFound);
}
