//! What every public type promises the compiler: threads, lifetimes, sizes, no secrets.

use std::mem::size_of;

use posthaste_core::broker::{Received, Settlement, Token};
use posthaste_core::*;

fn owned<T: Send + Sync + Unpin + 'static>() {}
fn sent<T: Send>(_: &T) {}

#[test]
fn public_types_can_be_shared_between_threads() {
    owned::<Bus>();
    owned::<BusBuilder>();
    owned::<Queue>();
    owned::<Publisher>();
    owned::<PublishOptions>();
    owned::<Confirmed>();
    owned::<PublishReport>();
    owned::<Subscription>();
    owned::<SubscribeBuilder>();
    owned::<Stopper>();
    owned::<Events>();
    owned::<SubscriptionEvent>();
    owned::<Delivery>();
    owned::<Settle>();
    owned::<Nack>();
    owned::<Cause>();
    owned::<DeadLetter>();
    owned::<Envelope>();
    owned::<EnvelopeBuilder<'static>>();
    owned::<Error>();
    owned::<Capabilities>();
    owned::<TopicConfig>();
    owned::<Received>();
    owned::<Settlement>();
    fn send<T: Send + Unpin + 'static>() {}
    send::<Receipt>();
}

/// Compiles only if every future can move between threads; nothing is run.
#[test]
fn public_futures_can_move_between_threads() {
    struct Ping;
    impl Event for Ping {
        const TYPE: &'static str = "ping";
        type Codec = codec::Raw;
    }
    impl AsRef<[u8]> for Ping {
        fn as_ref(&self) -> &[u8] {
            b"ping"
        }
    }
    #[expect(dead_code, reason = "only type-checked")]
    async fn every_call(
        bus: Bus,
        publisher: Publisher,
        subscription: Subscription,
        delivery: impl Fn() -> Delivery,
        envelope: Envelope,
    ) {
        let second = std::time::Duration::from_secs(1);
        sent(&bus.ensure(TopicConfig::new("a")));
        sent(&bus.verify(TopicConfig::new("a")));
        sent(&bus.health());
        sent(&bus.close(second));
        sent(&bus.subscribe("a").start());
        let admin = bus.admin();
        sent(&admin.describe("a"));
        sent(&admin.delete_topic("a"));
        sent(&admin.purge("a"));
        sent(&admin.groups("a"));
        sent(&admin.delete_group("a", "b"));
        sent(&admin.lag("a", "b"));
        sent(&admin.seek("a", "b", Start::Earliest));
        sent(&admin.range("a", Start::Earliest, 1));
        sent(&admin.dead_letters("a", "b", 1));
        sent(&admin.replay("a", "b", &[]));
        sent(&admin.discard("a", "b", &[]));
        sent(&publisher.publish(&Ping));
        sent(&publisher.publish_with(&Ping, PublishOptions::new()));
        sent(&publisher.publish_envelope(envelope.clone()));
        sent(&publisher.enqueue(&Ping));
        sent(&publisher.enqueue_envelope(envelope.clone()));
        sent(&publisher.publish_all(&[Ping]));
        sent(&publisher.publish_all_envelopes(vec![envelope]));
        sent(&publisher.flush());
        let mut subscription = subscription;
        sent(&subscription.next());
        sent(&subscription.next_batch(2));
        sent(&subscription.events().next());
        sent(&subscription.stopper().stopped());
        sent(&subscription.stop(second));
        sent(&delivery().ack());
        sent(&delivery().ack_confirmed());
        sent(&delivery().nack(Nack::requeue()));
        sent(&delivery().release());
        sent(&delivery().extend());
        sent(&delivery().lost());
        let (_, settle) = delivery().split();
        sent(&settle.extend());
        sent(&settle.lost());
        sent(&settle.ack());
    }
}

#[test]
fn what_moves_for_each_message_stays_small() {
    assert_eq!(size_of::<Error>(), 8);
    assert_eq!(size_of::<Result<()>>(), 8);
    assert_eq!(size_of::<Envelope>(), 48);
    assert_eq!(size_of::<Token>(), 48);
    assert!(size_of::<Settlement>() <= 80, "{}", size_of::<Settlement>());
    assert!(size_of::<Received>() <= 160, "{}", size_of::<Received>());
    assert!(size_of::<Delivery>() <= 160, "{}", size_of::<Delivery>());
    assert!(size_of::<Confirmed>() <= 112, "{}", size_of::<Confirmed>());
}

#[test]
fn an_error_shows_its_parts_on_one_line_and_its_causes_on_more() {
    let native = std::io::Error::other("connection reset");
    let error = Error::new(ErrorKind::Connection, "the broker went away")
        .with_broker("nats")
        .with_operation("publish")
        .with_topic("orders")
        .with_context("server", "127.0.0.1:4222")
        .with_may_be_stored(true)
        .with_source(native);
    assert_eq!(
        error.to_string(),
        "nats: publish: connection: the broker went away (topic: orders, server: 127.0.0.1:4222)"
    );
    assert!(format!("{error:?}").contains("caused by: connection reset"));
    assert_eq!((error.retry(), error.may_be_stored()), (Retry::Transient, true));
    // What an inner layer has named stays.
    let outer = error.with_operation("flush").with_topic("other");
    assert_eq!((outer.operation(), outer.topic()), (Some("publish"), Some("orders")));
    let copy = outer.duplicate();
    assert_eq!(copy.to_string(), outer.to_string());
    assert!(copy.may_be_stored());
}
