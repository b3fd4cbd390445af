//! Streams, subjects and consumers that are there already, under other names.

use std::time::Duration;

use async_nats::jetstream;
use posthaste_core::broker::{
    Broker as _, DeadLetterQuery, DeliveryMode, Order, Publish as _, SendOptions, Start, Verdict,
};
use posthaste_core::{DeadLetter, ErrorKind, GroupName, Reason, TopicConfig, TopicName, Topology};
use posthaste_nats::{Binding, NatsBroker, NatsConfig, NatsCoreBroker, NatsNative};

use crate::drive::{
    Reader, envelope, fresh, group, parcel, plain, publish_one, request, text, topic,
};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.both("a_bound_stream_is_read_and_written", read_and_written);
    suite.both("a_bound_consumer_is_used_and_never_changed", bound_consumer);
    suite.both("a_bound_topic_has_private_channels_of_its_own", private_channels);
    suite.both("a_bound_stream_is_never_created_or_deleted", never_changed);
    suite.add("a_wildcard_alone_cannot_be_published_to", wildcard);
    suite.both("interest_without_consumers_is_unroutable", interest);
    suite.both("foreign_messages_are_delivered_as_such", foreign);
    suite.add("the_native_client_is_in_reach", native);
    suite.both("nats_core_is_at_most_once_and_says_so", core);
}

struct Legacy {
    context: jetstream::Context,
    stream: String,
    subject: String,
}

impl Legacy {
    async fn new(server: &Server, retention: jetstream::stream::RetentionPolicy) -> Self {
        let context = jetstream::new(server.native().await);
        let stream = fresh("LEGACY").replace('.', "_");
        let subject = format!("legacy.{}", fresh("x"));
        let config = jetstream::stream::Config {
            name: stream.clone(),
            subjects: vec![format!("{subject}.>")],
            retention,
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        Self { context, stream, subject }
    }

    fn binding(&self) -> Binding {
        Binding::stream(&self.stream)
            .subject(format!("{}.placed.*", self.subject))
            .publish_subject(format!("{}.placed.new", self.subject))
    }
}

const LIMITS: jetstream::stream::RetentionPolicy = jetstream::stream::RetentionPolicy::Limits;

async fn connect(server: &Server, name: &str, binding: Binding) -> NatsBroker {
    NatsBroker::connect(server.config().bind(name, binding)).await.unwrap()
}

async fn read_and_written(server: Server) {
    let legacy = Legacy::new(&server, LIMITS).await;
    let name = fresh("bound");
    let broker = connect(&server, &name, legacy.binding()).await;
    let info = broker.admin().describe(&topic(&name)).await.unwrap();
    assert_eq!(info.native, legacy.stream);
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let client = server.native().await;
    client.publish(format!("{}.placed.old", legacy.subject), "old".into()).await.unwrap();
    client.publish(format!("{}.other", legacy.subject), "other".into()).await.unwrap();
    client.flush().await.unwrap();
    let old = reader.one().await;
    assert_eq!((text(&old).as_str(), old.envelope.is_foreign()), ("old", true));
    reader.settle([(&old, Verdict::Ack)].into_iter()).await;
    publish_one(&broker, &plain(&name), envelope("new")).await.unwrap();
    let new = reader.one().await;
    assert_eq!((text(&new).as_str(), new.envelope.is_foreign()), ("new", false));
    assert!(!broker.capabilities(Some(&topic(&name))).order.is_kept());
    let mut ask = request(&[&name], Some("h"));
    ask.order = Order::PerKey;
    let error = Reader::try_start(&broker, ask).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(reader.is_quiet(Duration::from_millis(200)).await);
}

async fn bound_consumer(server: Server) {
    let legacy = Legacy::new(&server, LIMITS).await;
    let name = fresh("consumer");
    let stream = legacy.context.get_stream(&legacy.stream).await.unwrap();
    let config = jetstream::consumer::pull::Config {
        durable_name: Some("BILLING_V1".to_owned()),
        ack_wait: Duration::from_secs(9),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    let binding = legacy.binding().consumer("billing", "BILLING_V1");
    let broker = connect(&server, &name, binding).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("billing"))).await;
    assert_eq!(reader.lease, Duration::from_secs(9));
    publish_one(&broker, &plain(&name), envelope("x")).await.unwrap();
    assert_eq!(reader.drain(1).await, ["x"]);
    let groups = broker.admin().groups(&topic(&name)).await.unwrap();
    assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["billing"]);
    reader.stop().await;
    let (topic, group) = (topic(&name), group("billing"));
    for refused in [
        broker.admin().delete_group(&topic, &group).await,
        broker.admin().seek(&topic, &group, Start::Earliest).await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    // One that is named and not there is not made up.
    let binding = legacy.binding().consumer("billing", "BILLING_V2");
    let broker = connect(&server, &name, binding).await;
    let error = Reader::try_start(&broker, request(&[&name], Some("billing"))).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn private_channels(server: Server) {
    let legacy = Legacy::new(&server, LIMITS).await;
    let name = fresh("private");
    let broker = connect(&server, &name, legacy.binding()).await;
    let (topic, group) = (topic(&name), group("g"));
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    publish_one(&broker, &plain(&name), envelope("x")).await.unwrap();
    let first = reader.one().await;
    let letter =
        DeadLetter::new(first.envelope.clone(), Reason::Rejected, topic.clone(), group.clone());
    reader.settle([(&first, Verdict::DeadLetter(Box::new(letter)))].into_iter()).await;
    let page =
        broker.admin().dead_letters(&topic, &group, &DeadLetterQuery::first(9)).await.unwrap();
    let replayed =
        broker.admin().replay(&topic, &group, &[page.letters[0].id.clone()]).await.unwrap();
    replayed[0].as_ref().unwrap();
    let again = reader.one().await;
    assert_eq!(again.envelope.id(), first.envelope.id());
    let mut stream = legacy.context.get_stream(&legacy.stream).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1, "the bound stream has no copy");
}

async fn never_changed(server: Server) {
    let name = fresh("never");
    let broker = connect(&server, &name, Binding::stream("NO_SUCH_STREAM").subject("x.y")).await;
    let spec = TopicConfig::new(&name).check().unwrap();
    let error = broker.admin().ensure(&spec, Topology::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    for refused in [
        broker.admin().delete_topic(&topic(&name)).await,
        broker.admin().purge(&topic(&name)).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    let legacy = Legacy::new(&server, LIMITS).await;
    let broker = connect(&server, &name, legacy.binding()).await;
    broker.admin().ensure(&spec, Topology::Create).await.unwrap();
    let ordered = TopicConfig::new(&name).ordered(4).check().unwrap();
    let error = broker.admin().ensure(&ordered, Topology::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

async fn wildcard(server: Server) {
    let legacy = Legacy::new(&server, LIMITS).await;
    let name = fresh("wildcard");
    let broker = connect(&server, &name, Binding::stream(&legacy.stream)).await;
    let error = publish_one(&broker, &plain(&name), envelope("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Invalid, false));
    let config = NatsConfig::new("h").bind("no good", Binding::stream("S"));
    let error = NatsBroker::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

async fn interest(server: Server) {
    let legacy = Legacy::new(&server, jetstream::stream::RetentionPolicy::Interest).await;
    let name = fresh("interest");
    let broker = connect(&server, &name, legacy.binding()).await;
    let error = publish_one(&broker, &plain(&name), envelope("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    publish_one(&broker, &plain(&name), envelope("y")).await.unwrap();
    assert_eq!(reader.drain(1).await, ["y"]);
}

async fn foreign(server: Server) {
    let broker = server.connect().await;
    let name = fresh("foreign");
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let client = server.native().await;
    client.publish(name.clone(), "bare".into()).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("tenant", "acme");
    headers.insert("ce-id", "7");
    client.publish_with_headers(name.clone(), headers, "with".into()).await.unwrap();
    client.flush().await.unwrap();
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(reader.next().await.unwrap());
    }
    assert!(got.iter().all(|received| received.envelope.is_foreign()));
    assert!(!got[0].envelope.id().is_empty());
    assert_eq!(got[1].envelope.header("tenant"), Some(&b"acme"[..]));
    assert_eq!(got[1].envelope.id(), "7");
    // The id of one that names none is the same on each delivery.
    reader.settle([(&got[0], Verdict::Requeue(parcel(&got[0])))].into_iter()).await;
    let again = reader.one().await;
    assert_eq!(again.envelope, got[0].envelope);
}

async fn native(server: Server) {
    let broker = server.connect().await;
    let native = broker.native().unwrap().downcast_ref::<NatsNative>().unwrap();
    assert!(!native.client.server_info().version.is_empty());
    assert!(native.jetstream.query_account().await.is_ok());
}

async fn core(server: Server) {
    let broker = NatsCoreBroker::connect(server.config()).await.unwrap();
    let can = broker.capabilities(None);
    let kept = [&can.at_least_once, &can.order, &can.deliver_at, &can.dead_letters, &can.lag];
    assert!(kept.iter().all(|support| !support.is_kept()));
    let name = fresh("core");
    let to = plain(&name);
    let start = |group: Option<&str>, mode: DeliveryMode| {
        let names = vec![TopicName::new(&name).unwrap()];
        let group = group.map(|group| GroupName::new(group).unwrap());
        let mut ask = posthaste_core::broker::SubscribeRequest::new(names, group, "m".into());
        ask.mode = mode;
        broker.subscribe(ask)
    };
    let refused = start(Some("g"), DeliveryMode::AtLeastOnce).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let mut members = Vec::new();
    for group in [Some("g"), Some("g"), Some("h"), None] {
        members.push(start(group, DeliveryMode::AtMostOnce).await.unwrap().driver);
    }
    let mut batch: Vec<_> = (0..50).map(|number| envelope(number.to_string())).collect();
    let outcomes = broker.publish(&to, &mut batch, &SendOptions::default()).await.unwrap();
    assert!(outcomes.into_iter().all(|outcome| outcome.is_ok()));
    let mut counts = Vec::new();
    for member in &mut members {
        let mut out = Vec::new();
        let credit = posthaste_core::broker::Credit::new(100, 1 << 20);
        let quiet = Duration::from_millis(300);
        while let Ok(polled) = tokio::time::timeout(
            quiet,
            std::future::poll_fn(|cx| member.poll_batch(cx, &mut out, credit)),
        )
        .await
        {
            polled.unwrap();
        }
        counts.push(out.len());
    }
    assert_eq!((counts[0] + counts[1], counts[2], counts[3]), (50, 50, 50), "{counts:?}");
    let later = SendOptions::default().deliver_at(Some(posthaste_core::Timestamp::MAX));
    for options in [later, SendOptions::default().deduplicate(true)] {
        let error = broker.publish(&to, &mut [envelope("x")], &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    assert!(broker.health().await.unwrap().is_live());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    broker.close(deadline).await.unwrap();
    broker.close(deadline).await.unwrap();
    let error = broker.publish(&to, &mut [envelope("x")], &SendOptions::default()).await.err();
    assert_eq!(error.unwrap().kind(), ErrorKind::Closed);
}
