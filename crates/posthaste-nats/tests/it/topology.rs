//! Topology, groups, lag, seek, ranges, loss.

use std::time::Duration;

use async_nats::jetstream;
use posthaste_core::broker::{Broker as _, Publish as _, RangeQuery, SendOptions, Start, Verdict};
use posthaste_core::{ErrorKind, Layout, Timestamp, TopicConfig, Topology};

use tokio::time::Instant;

use crate::drive::{
    Reader, ensure, envelope, fresh, group, keyed, plain, publish_numbers, publish_one, request,
    topic,
};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.both("a_topic_is_compared_and_never_changed", compared);
    suite.both("a_stream_of_somebody_else_is_a_conflict", somebody_else);
    suite.both("publishing_with_another_layout_is_a_conflict", another_layout);
    suite.both("a_group_keeps_the_lease_it_has", lease_kept);
    suite.both("groups_are_listed_measured_and_deleted", groups);
    suite.both("a_group_is_moved_only_without_members", seek);
    suite.both("ranges_are_read_without_a_group", range);
    suite.both("a_new_group_starts_where_it_was_told", starts);
    suite.both("a_queue_has_one_group_and_no_past", queue);
    suite.both("a_small_prefetch_is_filled_at_once", small_prefetch);
    suite.both("a_purged_topic_is_empty", purge);
    suite.both("a_deleted_topic_leaves_nothing", delete_topic);
    suite.both("what_is_too_large_is_refused_alone", too_large);
    suite.both("deduplication_is_only_done_when_asked_for", deduplication);
}

async fn compared(server: Server) {
    let broker = server.connect().await;
    let name = fresh("compared");
    let config = || TopicConfig::new(&name).max_age(Duration::from_secs(3600)).group("g");
    ensure(&broker, config()).await;
    ensure(&broker, config()).await;
    ensure(&broker, TopicConfig::new(&name)).await;
    let differs = TopicConfig::new(&name).max_age(Duration::from_secs(60)).check().unwrap();
    let error = broker.admin().ensure(&differs, Topology::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let text = error.to_string();
    assert!(["max_age", "60", "3600"].iter().all(|part| text.contains(part)), "{text}");
    let differences = broker.admin().verify(&differs).await.unwrap();
    assert_eq!(differences.len(), 1, "{differences:?}");
    let ordered = TopicConfig::new(&name).ordered(4).check().unwrap();
    let error = broker.admin().ensure(&ordered, Topology::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // The server's clock of the topic was not touched by any of this.
    assert!(broker.admin().verify(&config().check().unwrap()).await.unwrap().is_empty());
    let missing = TopicConfig::new(&name).group("missing").check().unwrap();
    let error = broker.admin().verify(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let nowhere = TopicConfig::new(fresh("nowhere")).check().unwrap();
    let error = broker.admin().ensure(&nowhere, Topology::Verify).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn somebody_else(server: Server) {
    let broker = server.connect().await;
    let name = fresh("foreign");
    let context = jetstream::new(server.native().await);
    let stream = name.replace('.', "+");
    let config = jetstream::stream::Config {
        name: stream.clone(),
        subjects: vec![format!("{stream}.x")],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let spec = TopicConfig::new(&name).check().unwrap();
    let error = broker.admin().ensure(&spec, Topology::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    context.delete_stream(stream).await.unwrap();
}

async fn another_layout(server: Server) {
    let broker = server.connect().await;
    let name = fresh("layout");
    ensure(&broker, TopicConfig::new(&name).ordered(4)).await;
    let error = publish_one(&broker, &plain(&name), envelope("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Conflict, false), "{error}");
    let mut other = plain(&name);
    other.layout = Layout::Ordered(8);
    let error = publish_one(&broker, &other, envelope("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    other.layout = Layout::Ordered(4);
    let stored = publish_one(&broker, &other, keyed("k", "x")).await.unwrap();
    assert!(stored.partition.unwrap() < 4);
    assert_eq!(broker.admin().describe(&topic(&name)).await.unwrap().layout, Layout::Ordered(4));
}

async fn lease_kept(server: Server) {
    let broker = server.connect().await;
    let name = fresh("lease");
    let mut ask = request(&[&name], Some("g"));
    ask.lease = Duration::from_secs(7);
    let one = Reader::start(&broker, ask.clone()).await;
    assert_eq!((one.lease, one.differences.len()), (Duration::from_secs(7), 0));
    ask.lease = Duration::from_secs(11);
    let two = Reader::start(&broker, ask).await;
    assert_eq!(two.lease, Duration::from_secs(7));
    let [difference] = &two.differences[..] else { panic!("{:?}", two.differences) };
    assert_eq!(difference.setting, "lease");
    // Nobody has asked for the lease of a group that was created without a member.
    let name = fresh("unset");
    ensure(&broker, TopicConfig::new(&name).group("g")).await;
    for (wanted, differences) in [(5, 0), (9, 1)] {
        let mut ask = request(&[&name], Some("g"));
        ask.lease = Duration::from_secs(wanted);
        let reader = Reader::start(&broker, ask).await;
        assert_eq!(reader.lease, Duration::from_secs(5));
        assert_eq!(reader.differences.len(), differences, "{:?}", reader.differences);
    }
}

async fn groups(server: Server) {
    let broker = server.connect().await;
    let name = fresh("groups");
    let (topic, admin) = (topic(&name), broker.admin());
    let to = ensure(&broker, TopicConfig::new(&name).group("one").group("two")).await;
    publish_numbers(&broker, &to, 0..10).await;
    let mut ephemeral = Reader::start(&broker, request(&[&name], None)).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("one"))).await;
    let mut batch = Vec::new();
    while batch.len() < 10 {
        batch.extend(reader.next().await.unwrap());
    }
    assert!(ephemeral.is_quiet(Duration::from_millis(100)).await, "it starts at the latest");
    let listed = admin.groups(&topic).await.unwrap();
    let names: Vec<_> = listed.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(listed[1].pins, Some(10));
    assert!(listed[1].is_abandoned(Duration::ZERO) && !listed[0].is_abandoned(Duration::ZERO));
    let lag = admin.lag(&topic, &group("one")).await.unwrap();
    assert_eq!(lag.in_flight, Some(batch.len() as u64));
    assert_eq!(lag.total(), 10);
    assert!(lag.oldest_age.is_some() && lag.exact);
    let error = admin.delete_group(&topic, &group("one")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    admin.delete_group(&topic, &group("two")).await.unwrap();
    for result in [
        admin.delete_group(&topic, &group("two")).await,
        admin.lag(&topic, &group("two")).await.map(drop),
        admin.seek(&topic, &group("two"), Start::Earliest).await,
        admin
            .dead_letters(
                &topic,
                &group("three"),
                &posthaste_core::broker::DeadLetterQuery::first(1),
            )
            .await
            .map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

async fn seek(server: Server) {
    let broker = server.connect().await;
    let name = fresh("seek");
    let (topic, group, admin) = (topic(&name), group("g"), broker.admin());
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    publish_numbers(&broker, &to, 0..5).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    reader.drain(5).await;
    let error = admin.seek(&topic, &group, Start::Earliest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&reader.member), "{error}");
    reader.stop().await;
    let error = admin.seek(&topic, &group, Start::Created).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let read = async |start: Start| {
        admin.seek(&topic, &group, start).await.unwrap();
        let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
        let mut all = Vec::new();
        while let Ok(batch) = tokio::time::timeout(Duration::from_millis(400), reader.next()).await
        {
            let batch = batch.unwrap();
            all.extend(batch.iter().map(|received| received.position.offset.unwrap()));
            reader.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
        }
        reader.stop().await;
        all
    };
    assert_eq!(read(Start::Earliest).await, [1, 2, 3, 4, 5]);
    assert_eq!(read(Start::AtOffset { partition: None, offset: 4 }).await, [4, 5]);
    assert_eq!(read(Start::Latest).await, [0_u64; 0]);
    let middle = Timestamp::now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    publish_numbers(&broker, &to, 5..7).await;
    assert_eq!(read(Start::At(middle)).await, [6, 7]);
}

async fn range(server: Server) {
    let broker = server.connect().await;
    let name = fresh("range");
    let topic = topic(&name);
    let to = ensure(&broker, TopicConfig::new(&name).ordered(4)).await;
    for number in 0..40 {
        publish_one(&broker, &to, keyed(&format!("k{}", number % 7), number.to_string()))
            .await
            .unwrap();
    }
    let read = async |from, limit| {
        let retained = broker.admin().range(&topic, &RangeQuery::new(from, limit)).await.unwrap();
        retained
            .iter()
            .map(|r| (r.position.offset.unwrap(), r.position.partition))
            .collect::<Vec<_>>()
    };
    let all = read(Start::Earliest, 1_000).await;
    assert_eq!(all.len(), 40);
    assert!(all.is_sorted() && all.iter().all(|(_, partition)| partition.unwrap() < 4));
    assert_eq!(read(Start::Earliest, 3).await, all[..3]);
    assert_eq!(read(Start::Earliest, 0).await, []);
    let from = Start::AtOffset { partition: None, offset: 38 };
    assert_eq!(read(from, 10).await, all[37..]);
    let of_one: Vec<_> = all.iter().copied().filter(|(_, p)| *p == all[0].1).collect();
    let from = Start::AtOffset { partition: all[0].1, offset: 1 };
    assert_eq!(read(from, 100).await, of_one);
    let query = RangeQuery::new(Start::Latest, 1);
    let error = broker.admin().range(&topic, &query).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

async fn starts(server: Server) {
    let broker = server.connect().await;
    let name = fresh("starts");
    let to = ensure(&broker, TopicConfig::new(&name)).await;
    publish_numbers(&broker, &to, 0..3).await;
    let offset = Start::AtOffset { partition: None, offset: 3 };
    for (start, expected) in
        [(Start::Earliest, 3), (offset, 1), (Start::Created, 0), (Start::Latest, 0)]
    {
        let name_of_group = format!("g{expected}{}", matches!(start, Start::Latest));
        for group in [Some(name_of_group.as_str()), None] {
            let mut ask = request(&[&name], group);
            ask.start = start;
            let mut reader = Reader::start(&broker, ask).await;
            reader.drain(expected).await;
            assert!(reader.is_quiet(Duration::from_millis(100)).await, "{start:?} {group:?}");
        }
    }
}

async fn queue(server: Server) {
    let broker = server.connect().await;
    let name = fresh("queue");
    let to = ensure(&broker, TopicConfig::queue(&name)).await;
    assert!(to.queue);
    publish_numbers(&broker, &to, 0..10).await;
    let mut ask = request(&[&name], Some("queue"));
    ask.queue = true;
    let mut reader = Reader::start(&broker, ask.clone()).await;
    reader.drain(10).await;
    reader.stop().await;
    let context = jetstream::new(server.native().await);
    let mut stream = context.get_stream(name.replace('.', "+")).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0, "what is handled is gone");
    ask.group = Some(group("other"));
    let error = Reader::try_start(&broker, ask.clone()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    ask.queue = false;
    let error = Reader::try_start(&broker, ask).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let query = RangeQuery::new(Start::Earliest, 1);
    let error = broker.admin().range(&topic(&name), &query).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = broker.admin().seek(&topic(&name), &group("queue"), Start::Latest).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(!broker.capabilities(Some(&topic(&name))).seek.is_kept());
}

async fn small_prefetch(server: Server) {
    let broker = server.connect().await;
    for (prefetch, ordered) in [(1, false), (2, false), (5, false), (5, true)] {
        let name = fresh("small");
        let config = TopicConfig::new(&name).group("g");
        let to = ensure(&broker, if ordered { config.ordered(1) } else { config }).await;
        let mut ask = request(&[&name], Some("g"));
        ask.prefetch.count = prefetch;
        let mut reader = Reader::start(&broker, ask).await;
        // The lanes of an ordered topic take a moment to be claimed.
        assert!(reader.is_quiet(Duration::from_millis(700)).await);
        publish_numbers(&broker, &to, 0..50).await;
        let start = Instant::now();
        let mut held = Vec::new();
        while held.len() < prefetch {
            held.extend(reader.next().await.unwrap());
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{prefetch}: {:?}", start.elapsed());
        reader.settle(held.iter().map(|r| (r, Verdict::Ack))).await;
        reader.drain(50 - prefetch).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{prefetch}: {:?}", start.elapsed());
    }
}

async fn purge(server: Server) {
    let broker = server.connect().await;
    let name = fresh("purge");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    publish_numbers(&broker, &to, 0..5).await;
    assert_eq!(broker.admin().purge(&topic(&name)).await.unwrap(), Some(5));
    let lag = broker.admin().lag(&topic(&name), &group("g")).await.unwrap();
    assert_eq!(lag.total(), 0);
    let error = broker.admin().purge(&topic(&fresh("nowhere"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn delete_topic(server: Server) {
    let broker = server.connect().await;
    let name = fresh("delete");
    let sibling = format!("{name}.sub");
    ensure(&broker, TopicConfig::new(&name).group("g")).await;
    ensure(&broker, TopicConfig::new(&sibling).group("g")).await;
    broker.admin().delete_topic(&topic(&name)).await.unwrap();
    broker.admin().delete_topic(&topic(&name)).await.unwrap();
    let context = jetstream::new(server.native().await);
    use futures_util::TryStreamExt as _;
    let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    let ours = name.replace('.', "+");
    let left: Vec<_> = names.iter().filter(|stream| stream.starts_with(&ours)).collect();
    assert_eq!(left.len(), 2, "the sibling and its letters stay: {left:?}");
    broker.admin().delete_topic(&topic(&sibling)).await.unwrap();
}

async fn too_large(server: Server) {
    let broker = server.connect().await;
    let name = fresh("large");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    let limit = broker.capabilities(None).max_message_bytes.unwrap();
    let mut batch = [envelope("a"), envelope(vec![b'x'; limit]), envelope("b")];
    let outcomes = broker.publish(&to, &mut batch, &SendOptions::default()).await.unwrap();
    let kinds: Vec<_> = outcomes.into_iter().map(|o| o.map_err(|e| e.kind()).map(drop)).collect();
    assert_eq!(kinds, [Ok(()), Err(ErrorKind::TooLarge), Ok(())]);
    // Headers of 200 KB are more than the server takes of headers.
    let wide =
        posthaste_core::Envelope::builder("t").source("/it").header("h", vec![b'x'; 200_000]);
    let error = publish_one(&broker, &to, wide.build().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    // The largest that is taken can still become a dead letter.
    let head = posthaste_core::Envelope::builder("t").source("/it").build().unwrap();
    let size = limit - 4 * head.size() - 400;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    reader.drain(2).await;
    publish_one(&broker, &to, envelope(vec![b'x'; size])).await.unwrap();
    let large = reader.one().await;
    let (topic, group) = (topic(&name), group("g"));
    let reason = posthaste_core::Reason::Rejected;
    let mut letter = posthaste_core::DeadLetter::new(
        large.envelope.clone(),
        reason,
        topic.clone(),
        group.clone(),
    );
    letter.cause = Some(posthaste_core::Cause::from_chain(vec!["x".repeat(1_000); 8], None));
    reader.settle([(&large, Verdict::DeadLetter(Box::new(letter)))].into_iter()).await;
    let query = posthaste_core::broker::DeadLetterQuery::first(1);
    let page = broker.admin().dead_letters(&topic, &group, &query).await.unwrap();
    assert_eq!(page.letters[0].letter.envelope.payload().len(), size);
    assert!(page.letters[0].letter.cause.is_some());
}

async fn deduplication(server: Server) {
    let broker = server.connect().await;
    let name = fresh("dedup");
    let to = ensure(&broker, TopicConfig::new(&name)).await;
    let one = envelope("x");
    let publish = async |options: SendOptions| {
        let mut outcomes =
            broker.publish(&to, &mut [one.clone()], &options).await.unwrap().into_iter();
        outcomes.next().unwrap().unwrap()
    };
    let plain = SendOptions::default();
    let asked = SendOptions::default().deduplicate(true);
    let first = publish(plain).await;
    assert_ne!(publish(plain).await.offset, first.offset);
    let second = publish(asked).await;
    assert!(!second.duplicate);
    let third = publish(asked).await;
    assert_eq!((third.duplicate, third.offset), (true, second.offset));
}
