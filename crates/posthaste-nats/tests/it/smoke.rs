//! The contract at a glance: publish, consume, every verdict, a restart.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{
    Broker as _, Confirmation, DeadLetterQuery, DriverEvent, Publish as _, SendOptions,
    SettleOutcome, Settlement, Verdict,
};
use posthaste_core::{Cause, DeadLetter, ErrorKind, Reason, TopicConfig};
use tokio::time::Instant;

use crate::drive::{
    Reader, ensure, envelope, fresh, group, parcel, plain, publish_numbers, publish_one, request,
    text, topic,
};
use crate::line::SlowLine;
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.both("what_is_published_is_consumed_once", what_is_published_is_consumed_once);
    suite.both("verdicts_bring_messages_back_as_asked", verdicts_bring_messages_back_as_asked);
    suite.both("a_lease_that_ends_brings_the_message_back", a_lease_that_ends);
    suite.both("an_extended_lease_does_not_end", an_extended_lease_does_not_end);
    suite.both("two_members_share_and_two_groups_do_not", two_members_share);
    suite.both("a_stop_gives_everything_back_at_once", a_stop_gives_everything_back);
    suite.both("a_stop_leaves_nothing_on_its_way", a_stop_leaves_nothing_on_its_way);
    suite.both(
        "a_stop_in_a_burst_leaves_nothing_on_its_way",
        a_stop_in_a_burst_leaves_nothing_on_its_way,
    );
    suite.both("a_stop_after_a_reconnect_leaves_nothing", a_stop_after_a_reconnect);
    suite.both("dead_letters_are_kept_listed_and_replayed", dead_letters);
    suite.both("a_topic_that_is_not_there_is_not_found", not_found);
    suite.private("subscriptions_resume_after_a_restart", subscriptions_resume);
    suite.private("a_publish_in_flight_at_a_restart_is_stored_once", stored_once);
}

async fn what_is_published_is_consumed_once(server: Server) {
    let broker = server.connect().await;
    let name = fresh("once");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    for at in 0..20 {
        publish_numbers(&broker, &to, at * 100..(at + 1) * 100).await;
    }
    let mut got = reader.drain(2_000).await;
    got.sort_by_key(|text| text.parse::<usize>().unwrap());
    got.dedup();
    assert_eq!(got.len(), 2_000);
    assert!(reader.is_quiet(Duration::from_millis(300)).await);
    let lag = broker.admin().lag(&topic(&name), &group("g")).await.unwrap();
    assert_eq!((lag.ready, lag.in_flight), (Some(0), Some(0)));
}

async fn verdicts_bring_messages_back_as_asked(server: Server) {
    let broker = server.connect().await;
    let name = fresh("verdicts");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let stored = publish_one(&broker, &to, envelope("x")).await.unwrap();
    let first = reader.one().await;
    assert_eq!((first.attempt.count, first.position.offset), (1, stored.offset));
    reader.settle([(&first, Verdict::Requeue(parcel(&first)))].into_iter()).await;
    let second = reader.one().await;
    let exact = broker.capabilities(None).exact_attempts;
    assert_eq!((second.attempt.count, second.attempt.exact), (2, exact));
    let delay = Duration::from_millis(700);
    let start = Instant::now();
    reader.settle([(&second, Verdict::After(delay, parcel(&second)))].into_iter()).await;
    let third = reader.one().await;
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
    assert!(start.elapsed() < delay + Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(third.envelope, first.envelope);
    let batch = [Settlement::new(third.token.clone(), Verdict::Ack)];
    let report = reader.settler().settle(&batch, Confirmation::Broker).await.unwrap();
    assert!(report.into_exceptions().is_empty());
    let lag = broker.admin().lag(&topic(&name), &group("g")).await.unwrap();
    assert_eq!((lag.ready, lag.in_flight), (Some(0), Some(0)));
}

async fn a_lease_that_ends(server: Server) {
    let broker = server.connect().await;
    let name = fresh("lease");
    let mut ask = request(&[&name], Some("g"));
    ask.lease = Duration::from_secs(1);
    let mut reader = Reader::start(&broker, ask.clone()).await;
    publish_one(&broker, &plain(&name), envelope("x")).await.unwrap();
    let first = reader.one().await;
    let second = reader.one().await;
    assert_eq!(second.attempt.count, 2);
    // The first delivery's verdict comes too late, and does not touch the second.
    let late = [Settlement::new(first.token.clone(), Verdict::Requeue(parcel(&first)))];
    let report = reader.settler().settle(&late, Confirmation::Sent).await.unwrap();
    assert!(matches!(report.into_exceptions()[..], [(0, SettleOutcome::LeaseLost)]));
    assert_eq!(reader.extend(std::slice::from_ref(&first.token)).await, [0]);
    reader.settle([(&second, Verdict::Ack)].into_iter()).await;
    assert!(reader.is_quiet(Duration::from_millis(1_500)).await);
}

async fn an_extended_lease_does_not_end(server: Server) {
    let broker = server.connect().await;
    let name = fresh("extend");
    let mut ask = request(&[&name], Some("g"));
    ask.lease = Duration::from_secs(1);
    let mut reader = Reader::start(&broker, ask).await;
    publish_one(&broker, &plain(&name), envelope("x")).await.unwrap();
    let first = reader.one().await;
    for _ in 0..6 {
        assert!(reader.is_quiet(Duration::from_millis(400)).await);
        assert!(reader.extend(std::slice::from_ref(&first.token)).await.is_empty());
    }
    reader.settle([(&first, Verdict::Requeue(parcel(&first)))].into_iter()).await;
    assert_eq!(reader.one().await.attempt.count, 2);
}

async fn two_members_share(server: Server) {
    let broker = server.connect().await;
    let name = fresh("share");
    let mut one = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let mut two = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let mut other = Reader::start(&broker, request(&[&name], Some("h"))).await;
    publish_numbers(&broker, &plain(&name), 0..250).await;
    let mut got = Vec::new();
    while got.len() < 250 {
        let batch = tokio::select! {
            batch = one.next() => {
                let batch = batch.unwrap();
                one.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
                batch
            }
            batch = two.next() => {
                let batch = batch.unwrap();
                two.settle(batch.iter().map(|r| (r, Verdict::Ack))).await;
                batch
            }
        };
        got.extend(batch.iter().map(text));
    }
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 250);
    assert_eq!(other.drain(250).await.len(), 250);
}

async fn a_stop_gives_everything_back(server: Server) {
    let broker = server.connect().await;
    let name = fresh("stop");
    let mut one = Reader::start(&broker, request(&[&name], Some("g"))).await;
    publish_numbers(&broker, &plain(&name), 0..500).await;
    let held = one.next().await.unwrap();
    one.settle(held.iter().map(|r| (r, Verdict::Release(parcel(r))))).await;
    one.stop().await;
    let start = Instant::now();
    let mut two = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let mut got = two.drain(500).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 500);
}

/// Members end while a message is on its way to them: it is given back, and does not wait for its
/// lease to end.
async fn a_stop_leaves_nothing_on_its_way(server: Server) {
    let line = SlowLine::to(&server, Duration::from_millis(4)).await;
    let (broker, other) = (line.server(&server).connect().await, server.connect().await);
    let name = fresh("on-its-way");
    let to = ensure(&other, TopicConfig::new(&name).group("g")).await;
    let busy = ensure(&other, TopicConfig::new(fresh("busy")).group("g")).await;
    let mut met = 0;
    for round in 0..30 {
        let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
        publish_numbers(&other, &to, 0..1).await;
        let received = reader.one().await;
        reader.settle([(&received, Verdict::Ack)].into_iter()).await;
        let (stopped, ()) = tokio::join!(reader.stop(), async {
            // What it asked for is taken back when nothing has come for 50 ms; meanwhile others
            // use the connection.
            let at = Instant::now() + Duration::from_micros(36_000 + 600 * round);
            while Instant::now() < at {
                publish_numbers(&broker, &busy, 0..1).await;
            }
            publish_numbers(&other, &to, 1..2).await;
            publish_numbers(&broker, &busy, 0..1).await;
        });
        met += stopped;
        let mut next = Reader::start(&other, request(&[&name], Some("g"))).await;
        let again = tokio::time::timeout(Duration::from_secs(10), next.one()).await;
        let again = again.unwrap_or_else(|_| panic!("round {round}: held back by its lease"));
        next.settle([(&again, Verdict::Ack)].into_iter()).await;
        next.stop().await;
    }
    assert!(met > 0, "no message came to a member that was stopped");
}

/// The same for many at once, as many as it had asked for.
async fn a_stop_in_a_burst_leaves_nothing_on_its_way(server: Server) {
    const BURST: usize = 60;
    let line = SlowLine::to(&server, Duration::from_millis(4)).await;
    let (broker, other) = (line.server(&server).connect().await, server.connect().await);
    let name = fresh("burst");
    let to = ensure(&other, TopicConfig::new(&name).group("g")).await;
    let mut met = 0;
    for round in 0..20 {
        let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
        publish_numbers(&other, &to, 0..1).await;
        let received = reader.one().await;
        reader.settle([(&received, Verdict::Ack)].into_iter()).await;
        let (stopped, ()) = tokio::join!(reader.stop(), async {
            // What it asked for is taken back when nothing has come for 50 ms.
            tokio::time::sleep(Duration::from_micros(40_000 + 700 * round)).await;
            publish_numbers(&other, &to, 1..1 + BURST).await;
        });
        met += stopped;
        let mut next = Reader::start(&other, request(&[&name], Some("g"))).await;
        let rest = tokio::time::timeout(Duration::from_secs(10), next.drain(BURST)).await;
        rest.unwrap_or_else(|_| panic!("round {round}: some are held back by their leases"));
        next.stop().await;
    }
    assert!(met > 0, "no message came to a member that was stopped");
}

/// What a member gives back comes to the next one at once, also if the server has lost count of
/// what it sent to the inbox.
async fn a_stop_after_a_reconnect(server: Server) {
    let line = SlowLine::to(&server, Duration::from_millis(1)).await;
    let (broker, other) = (line.server(&server).connect().await, server.connect().await);
    let name = fresh("reconnected");
    let to = ensure(&other, TopicConfig::new(&name).group("g")).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    publish_numbers(&other, &to, 0..200).await;
    reader.drain(200).await;
    line.cut();
    let back = |event: &DriverEvent| matches!(event, DriverEvent::Reconnected);
    reader.until(|events| events.iter().any(back)).await;
    publish_numbers(&other, &to, 200..201).await;
    let held = reader.one().await;
    let settler = Arc::clone(reader.settler());
    reader.stop().await;
    let release = [Settlement::new(held.token.clone(), Verdict::Release(parcel(&held)))];
    settler.settle(&release, Confirmation::Sent).await.unwrap();
    let mut next = Reader::start(&other, request(&[&name], Some("g"))).await;
    let again = tokio::time::timeout(Duration::from_secs(10), next.one()).await;
    let again = again.expect("it is held back by its lease");
    if other.capabilities(None).exact_attempts {
        assert_eq!(again.attempt.count, 2, "it went to nobody in between");
    }
}

async fn dead_letters(server: Server) {
    let broker = server.connect().await;
    let name = fresh("letters");
    let (topic, group) = (topic(&name), group("g"));
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let mut other = Reader::start(&broker, request(&[&name], Some("h"))).await;
    publish_one(&broker, &plain(&name), envelope("poison")).await.unwrap();
    other.drain(1).await;
    let first = reader.one().await;
    let reason = Reason::AttemptsExhausted;
    let mut letter = DeadLetter::new(first.envelope.clone(), reason, topic.clone(), group.clone());
    letter.cause = Some(Cause::new("no luck"));
    letter.attempts = 5;
    reader.settle([(&first, Verdict::DeadLetter(Box::new(letter)))].into_iter()).await;
    assert!(reader.is_quiet(Duration::from_millis(300)).await);
    let admin = broker.admin();
    let page = admin.dead_letters(&topic, &group, &DeadLetterQuery::first(10)).await.unwrap();
    let [stored] = &page.letters[..] else { panic!("{page:?}") };
    assert_eq!(stored.letter.envelope, first.envelope);
    assert_eq!((stored.letter.attempts, &stored.letter.reason), (5, &Reason::AttemptsExhausted));
    let ids = [stored.id.clone(), posthaste_core::LetterId::new("999")];
    let replayed = admin.replay(&topic, &group, &ids).await.unwrap();
    assert!(replayed[0].is_ok(), "{replayed:?}");
    assert_eq!(replayed[1].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    let again = reader.one().await;
    assert_eq!((again.envelope.id(), text(&again).as_str()), (first.envelope.id(), "poison"));
    reader.settle([(&again, Verdict::Ack)].into_iter()).await;
    assert!(other.is_quiet(Duration::from_millis(300)).await);
    let page = admin.dead_letters(&topic, &group, &DeadLetterQuery::first(10)).await.unwrap();
    assert!(page.letters.is_empty());
    let discarded = admin.discard(&topic, &group, &ids[..1]).await.unwrap();
    assert_eq!(discarded[0].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
}

async fn not_found(server: Server) {
    let broker = server.connect().await;
    let name = fresh("nowhere");
    let error = publish_one(&broker, &plain(&name), envelope("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::NotFound, false));
    let mut ask = request(&[&name], Some("g"));
    ask.topology = posthaste_core::Topology::Verify;
    let error = Reader::try_start(&broker, ask).await.expect_err("nothing is created");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn subscriptions_resume(mut private: Private) {
    let broker = private.server().connect().await;
    let name = fresh("resume");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    publish_numbers(&broker, &to, 0..50).await;
    reader.drain(50).await;
    private.kill().await;
    reader.until(|events| matches!(events, [.., DriverEvent::Disconnected { .. }])).await;
    private.up().await;
    let up = Instant::now();
    reader.until(|events| matches!(events, [.., DriverEvent::Reconnected])).await;
    loop {
        let mut batch = vec![envelope("50")];
        let outcomes = broker.publish(&to, &mut batch, &SendOptions::default()).await.unwrap();
        if outcomes.iter().all(Result::is_ok) {
            break;
        }
    }
    let got = reader.drain(1).await;
    assert_eq!(got.last().unwrap(), "50");
    assert!(up.elapsed() < Duration::from_secs(5), "{:?}", up.elapsed());
}

async fn stored_once(mut private: Private) {
    let broker = private.server().connect().await;
    let name = fresh("unknown");
    let to = ensure(&broker, TopicConfig::new(&name)).await;
    // All that is not confirmed is sent again, as core does it.
    let publishing = async {
        let mut sent = 0;
        for _ in 0..40 {
            let mut batch: Vec<_> = (0..50).map(|_| envelope("x")).collect();
            sent += batch.len();
            while !batch.is_empty() {
                let outcomes =
                    broker.publish(&to, &mut batch, &SendOptions::default()).await.unwrap();
                let failed: Vec<_> = outcomes.into_iter().map(|outcome| outcome.is_err()).collect();
                let mut failed = failed.into_iter();
                batch.retain(|_| failed.next().unwrap());
            }
        }
        sent
    };
    let killing = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            private.kill().await;
            private.up().await;
            tokio::time::sleep(Duration::from_millis(1_300)).await;
        }
    };
    let (sent, ()) = tokio::join!(publishing, killing);
    let native = private.server().native().await;
    let stream = name.replace('.', "+");
    let stream = async_nats::jetstream::new(native).get_stream(stream).await.unwrap();
    assert_eq!(stream.cached_info().state.messages, sent as u64);
}
