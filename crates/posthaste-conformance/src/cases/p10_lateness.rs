//! P10: a late settlement never touches somebody else's delivery, and breaks nothing.

use std::time::Duration;

use posthaste_core::broker::{Confirmation, Received, SettleOutcome, Settlement, Token, Verdict};
use posthaste_core::{Bytes, DeadLetter, ErrorKind, GroupName, Layout, Nack, Reason, TopicName};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::{done_or_lost, nothing, one};
use crate::scene::Scene;
use crate::seam::{Member, create, parcel, release, request};
use crate::send::{ends, numbered, publish, send};

cases![P10;
    Claim a_late_verdict_is_refused_and_touches_nobody;
    Claim a_late_nack_of_the_application_is_lease_lost;
    Edge a_late_acknowledgement_breaks_nothing;
    Edge tokens_that_nobody_issued_break_nothing;
    Fault verdicts_on_an_old_connection_break_nothing, needs [Cut];
];

/// Everything that can be said of a delivery but an acknowledgement.
fn verdicts(received: &[Received], topic: &TopicName, group: &GroupName) -> Vec<Verdict> {
    let letter = |received: &Received| {
        let envelope = received.envelope.clone();
        DeadLetter::new(envelope, Reason::Rejected, topic.clone(), group.clone())
    };
    let kinds = received.iter().zip(0..4);
    kinds
        .map(|(received, kind)| match kind {
            0 => Verdict::Requeue(parcel(received)),
            1 => Verdict::After(Duration::from_millis(10), parcel(received)),
            2 => release(received),
            _ => Verdict::DeadLetter(Box::new(letter(received))),
        })
        .collect()
}

/// Four messages whose first holder is too late, and whom the second holder has now.
struct Handed {
    topic: TopicName,
    group: GroupName,
    late: Member,
    theirs: Vec<Received>,
    now: Member,
    ours: Vec<Received>,
}

async fn handed_on(scene: &Scene) -> Outcome<Handed> {
    let (one, two) = (scene.broker().await?, scene.broker().await?);
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*one, &topic, Layout::Plain).await?;
    let lease = scene.lease();
    let mut late = Member::join(&*one, request(&topic, &group, "late", lease)).await?;
    send(&*one, &to, (0..4).map(numbered).collect()).await?;
    let mut theirs = late.take(4, scene.patience()).await?;
    // It fetches no more: what comes again comes to the other.
    late.stop(scene.patience()).await?;
    let mut now = Member::join(&*two, request(&topic, &group, "now", lease)).await?;
    let mut ours = now.take(4, scene.patience()).await?;
    let order = |received: &Received| received.envelope.id().to_owned();
    theirs.sort_by_key(order);
    ours.sort_by_key(order);
    // A lease's time for what follows.
    now.extend(&ours.iter().collect::<Vec<_>>()).await?;
    Ok(Handed { topic, group, late, theirs, now, ours })
}

async fn a_late_verdict_is_refused_and_touches_nobody(scene: &Scene) -> Outcome {
    let Handed { topic, group, late, theirs, mut now, ours } = handed_on(scene).await?;
    let extended = late.extend(&theirs.iter().collect::<Vec<_>>()).await?;
    let mut lost = extended.lost;
    lost.sort_unstable();
    ensure_eq!(lost, [0, 1, 2, 3], "the leases that are reported as lost");
    for (received, verdict) in theirs.iter().zip(verdicts(&theirs, &topic, &group)) {
        let outcome = late.settle(received, verdict.clone()).await?;
        ensure!(
            matches!(outcome, Some(SettleOutcome::LeaseLost)),
            "a late {verdict:?} was reported as {outcome:?}"
        );
    }
    for received in &ours {
        now.ack(received).await?;
    }
    let more = now.listen(1, scene.lease() + scene.quiet()).await?;
    ensure!(more.is_empty(), "a late verdict brought back what was acknowledged");
    let bus = scene.bus().await?;
    if bus.capabilities(Some(topic.as_str()))?.dead_letters.is_kept() {
        let page = bus.admin().dead_letters(topic.as_str(), group.as_str(), 10).await?;
        ensure!(page.letters.is_empty(), "a late verdict made a dead letter");
    }
    Ok(())
}

/// It was handled, late: the message is completed, or the second holder completes it.
async fn a_late_acknowledgement_breaks_nothing(scene: &Scene) -> Outcome {
    let Handed { late, theirs, mut now, ours, .. } = handed_on(scene).await?;
    for received in &theirs {
        let outcome = late.settle(received, Verdict::Ack).await?;
        ensure!(
            matches!(outcome, None | Some(SettleOutcome::LeaseLost)),
            "a late acknowledgement was reported as {outcome:?}"
        );
    }
    for received in &ours {
        let outcome = now.settle(received, Verdict::Ack).await?;
        ensure!(
            matches!(outcome, None | Some(SettleOutcome::LeaseLost)),
            "the holder's acknowledgement was reported as {outcome:?}"
        );
    }
    let more = now.listen(1, scene.lease() + scene.quiet()).await?;
    ensure!(more.is_empty(), "what was acknowledged twice came again");
    Ok(())
}

/// The application hears of it in time, is refused, and the subscription goes on.
async fn a_late_nack_of_the_application_is_lease_lost(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    let inbox = bus.subscribe(&topic).group(&group).lease(lease).max_handling(lease);
    let mut inbox = inbox.start().await?;
    publish(&bus.publisher(&topic)?, 0..3).await?;
    let nacked = one(&mut inbox, scene.patience()).await?;
    let acked = one(&mut inbox, scene.patience()).await?;
    let extended = one(&mut inbox, scene.patience()).await?;
    for delivery in [&nacked, &acked, &extended] {
        ends("waiting for a lost lease", scene.patience(), delivery.lost()).await?;
        ensure!(delivery.is_lost(), "{} is lost", delivery.id());
    }
    let lost = &[ErrorKind::LeaseLost];
    refused(nacked.nack(Nack::requeue()).await, lost, "a late nack")?;
    refused(extended.extend().await, lost, "a late extend")?;
    refused(extended.nack(Nack::dead_letter(Late)).await, lost, "a late dead letter")?;
    done_or_lost(acked.ack().await)?;
    // All three come again, or were completed by the late acknowledgement.
    let mut again = 0;
    while again < 2 {
        one(&mut inbox, scene.patience()).await?.ack_confirmed().await?;
        again += 1;
    }
    // Not held while others are waited for: its lease would end again.
    if let Ok(Some(third)) = tokio::time::timeout(lease + scene.quiet(), inbox.next()).await {
        third?.ack_confirmed().await?;
    }
    nothing(&mut inbox, lease + scene.quiet()).await
}

#[derive(Debug)]
struct Late;

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too late")
    }
}

impl std::error::Error for Late {}

/// Old, foreign and garbled tokens in one batch with a good one: that one is settled.
async fn tokens_that_nobody_issued_break_nothing(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    let lease = scene.lease();
    let mut member = Member::join(&*broker, request(&topic, &group, "member", lease)).await?;
    send(&*broker, &to, (0..2).map(numbered).collect()).await?;
    let held = member.take(2, scene.patience()).await?;
    let garbled = Bytes::from_static(b"\x00\xff garbled \r\n");
    let tokens = [
        Token::sequence(7, 0, 0),
        Token::sequence(0, u32::MAX, u64::MAX),
        Token::sequence(u32::MAX, 1, 1).with_handle(garbled),
    ];
    let strange = tokens.into_iter().zip(verdicts_of(&held, &topic, &group));
    let mut batch: Vec<Settlement> =
        strange.map(|(token, verdict)| Settlement::new(token, verdict)).collect();
    batch.push(Settlement::new(held[0].token.clone(), Verdict::Ack));
    // What is said of the strange ones is open; that it ends, and is no error of all, is not.
    let settler = std::sync::Arc::clone(member.settler());
    let settled = settler.settle(&batch, Confirmation::Broker);
    ends("settling strange tokens", scene.patience(), settled).await??;
    member.ack(&held[1]).await?;
    let more = member.listen(1, lease + scene.quiet()).await?;
    ensure!(more.is_empty(), "what was acknowledged beside strange tokens came again");
    send(&*broker, &to, vec![numbered(2)]).await?;
    let next = member.take(1, scene.patience()).await?;
    ensure_eq!(next[0].envelope.id(), "m-2", "the next message");
    Ok(())
}

fn verdicts_of(held: &[Received], topic: &TopicName, group: &GroupName) -> Vec<Verdict> {
    let mut verdicts = verdicts(held, topic, group);
    verdicts.push(Verdict::Ack);
    verdicts
}

/// What was received before a cut is settled after it, by every verdict.
async fn verdicts_on_an_old_connection_break_nothing(scene: &Scene) -> Outcome {
    let (broker, link) = scene.instance().connect_through().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let to = create(&*broker, &topic, Layout::Plain).await?;
    let lease = scene.lease();
    let mut member = Member::join(&*broker, request(&topic, &group, "member", lease)).await?;
    send(&*broker, &to, (0..4).map(numbered).collect()).await?;
    let held = member.take(4, scene.patience()).await?;
    link.cut().await;
    // The messages come again by the new connection; then the old tokens are late for certain.
    let again = member.take(4, scene.patience()).await?;
    for (received, verdict) in held.iter().zip(verdicts(&held, &topic, &group)) {
        let outcome =
            ends("a verdict", scene.patience(), member.settle(received, verdict)).await??;
        ensure!(
            matches!(outcome, Some(SettleOutcome::LeaseLost)),
            "a verdict by an old connection was reported as {outcome:?}"
        );
    }
    for received in &again {
        ensure!(received.attempt.count >= 2, "it is not flagged: {:?}", received.attempt);
        let outcome = member.settle(received, Verdict::Ack).await?;
        ensure!(matches!(outcome, None | Some(SettleOutcome::LeaseLost)), "{outcome:?}");
    }
    send(&*broker, &to, vec![numbered(9)]).await?;
    loop {
        // What could not be acknowledged in time comes once more.
        let next = member.next(5, scene.patience()).await?;
        member.settle(&next, Verdict::Ack).await?;
        if next.envelope.id() == "m-9" {
            return Ok(());
        }
    }
}
