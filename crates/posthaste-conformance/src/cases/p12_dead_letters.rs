//! P12: a dead letter is stored, with everything that is known of it, before its original is
//! settled, and its replay reaches only the group that failed.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::broker::StoredLetter;
use posthaste_core::{
    Bus, Cause, ErrorKind, LetterId, Nack, Promise, Reason, Subscription, Timestamp,
};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{handle, nothing, one, take};
use crate::scene::Scene;
use crate::send::{number, numbered, publish, topic_with, until};

cases![P12;
    Claim a_dead_letter_keeps_what_is_known_of_it when |can| can.dead_letters.is_kept();
    Claim a_replay_reaches_only_the_group_that_failed when |can| can.dead_letters.is_kept();
    Edge used_up_attempts_make_a_dead_letter when |can| can.dead_letters.is_kept();
    Edge letters_are_listed_in_pages_and_discarded when |can| can.dead_letters.is_kept();
    Edge letters_belong_to_their_group when |can| {
        can.dead_letters.is_kept() && can.fan_out.is_kept()
    };
    Fault a_kill_loses_neither_letter_nor_message
        when |can| can.dead_letters.is_kept(), needs [Kill];
    Denial(DeadLetters) dead_letters_are_refused;
];

fn declined() -> Cause {
    Cause::from(std::io::Error::other("the card was declined")).handler("charge")
}

/// The letters of a group, once there are so many.
async fn letters(
    scene: &Scene,
    bus: &Bus,
    group: &str,
    count: usize,
) -> Outcome<Vec<StoredLetter>> {
    let topic = scene.topic();
    until("the dead letters are stored", scene.patience(), || async {
        let page = bus.admin().dead_letters(&topic, group, count + 10).await;
        match page.map_err(|error| format!("{error:?}"))?.letters {
            letters if letters.len() >= count => Ok(letters),
            letters => Err(format!("{} of {count}", letters.len())),
        }
    })
    .await
}

async fn bury(scene: &Scene, inbox: &mut Subscription, count: usize) -> Outcome {
    for delivery in take(inbox, count, scene.patience()).await? {
        delivery.nack(Nack::dead_letter(declined())).await?;
    }
    Ok(())
}

async fn a_dead_letter_keeps_what_is_known_of_it(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let sent = numbered(7).to_builder().key("order-7").header("tenant", "acme").build()?;
    bus.publisher(&topic)?.publish_envelope(sent.clone()).await?;
    let before = Timestamp::now() - Duration::from_secs(1);
    one(&mut inbox, scene.patience()).await?.nack(Nack::requeue()).await?;
    let second = one(&mut inbox, scene.patience()).await?;
    let attempt = second.attempt();
    second.nack(Nack::dead_letter(declined())).await?;

    let stored = letters(scene, &bus, &group, 1).await?;
    ensure_eq!(stored.len(), 1, "letters");
    let letter = &stored[0].letter;
    ensure_eq!(letter.reason, Reason::Rejected, "the reason");
    let Some(cause) = &letter.cause else { return Err(Failed::new("the letter has no cause")) };
    ensure_eq!(cause.chain(), declined().chain(), "the cause");
    ensure_eq!(cause.handler_name(), Some("charge"), "the handler that failed");
    ensure_eq!(letter.topic.as_str(), topic, "the topic");
    ensure_eq!(letter.group.as_str(), group, "the group");
    ensure_eq!(letter.attempts, attempt, "the attempts");
    let after = Timestamp::now() + Duration::from_secs(1);
    ensure!(letter.failed_at >= before && letter.failed_at <= after, "{}", letter.failed_at);
    if let Some(first) = letter.first_failed_at {
        ensure!(first >= before && first <= letter.failed_at, "it failed first at {first}");
    }
    ensure_eq!(letter.envelope, sent, "the message");
    // The original is settled.
    nothing(&mut inbox, scene.lease() + scene.quiet()).await
}

/// The message comes back with its id, to that group alone, and the letter is gone.
async fn a_replay_reaches_only_the_group_that_failed(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, failed, healthy) = (scene.topic(), scene.group("failed"), scene.group("healthy"));
    let fan_out = bus.capabilities(Some(&topic))?.fan_out.is_kept();
    let mut inbox = bus.subscribe(&topic).group(&failed).start().await?;
    let mut other = None;
    if fan_out {
        other = Some(bus.subscribe(&topic).group(&healthy).start().await?);
    }
    publish(&bus.publisher(&topic)?, 0..3).await?;
    bury(scene, &mut inbox, 3).await?;
    if let Some(other) = &mut other {
        handle(other, 3, scene.patience()).await?;
    }
    let stored = letters(scene, &bus, &failed, 3).await?;
    let ids: Vec<LetterId> = stored.iter().take(2).map(|letter| letter.id.clone()).collect();
    let wanted: BTreeSet<&str> =
        stored.iter().take(2).map(|letter| letter.letter.envelope.id()).collect();
    for outcome in bus.admin().replay(&topic, &failed, &ids).await? {
        outcome?;
    }
    let replayed = take(&mut inbox, 2, scene.patience()).await?;
    let found: BTreeSet<&str> = replayed.iter().map(posthaste_core::Delivery::id).collect();
    ensure_eq!(found, wanted, "what the failed group got");
    for delivery in replayed {
        delivery.ack_confirmed().await?;
    }
    nothing(&mut inbox, scene.quiet()).await?;
    if let Some(mut other) = other {
        nothing(&mut other, scene.quiet()).await?;
    }
    ensure_eq!(letters(scene, &bus, &failed, 1).await?.len(), 1, "letters that are left");
    for outcome in bus.admin().replay(&topic, &failed, &ids).await? {
        refused(outcome, &[ErrorKind::NotFound], "a second replay of the same letter")?;
    }
    Ok(())
}

async fn used_up_attempts_make_a_dead_letter(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).max_attempts(3).start().await?;
    publish(&bus.publisher(&topic)?, 0..1).await?;
    for _ in 0..3 {
        let delivery = one(&mut inbox, scene.patience()).await?;
        delivery.nack(Nack::requeue().caused_by(declined())).await?;
    }
    let stored = letters(scene, &bus, &group, 1).await?;
    ensure_eq!(stored[0].letter.reason, Reason::AttemptsExhausted, "the reason");
    ensure_eq!(stored[0].letter.attempts, 3, "the attempts");
    ensure!(stored[0].letter.cause.is_some(), "the letter has no cause");
    nothing(&mut inbox, scene.quiet()).await
}

async fn letters_are_listed_in_pages_and_discarded(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    publish(&bus.publisher(&topic)?, 0..7).await?;
    bury(scene, &mut inbox, 7).await?;
    letters(scene, &bus, &group, 7).await?;
    let mut listed = Vec::new();
    let mut page = bus.admin().dead_letters(&topic, &group, 3).await?;
    let exact = page.exact;
    while let Some(last) = page.letters.last() {
        ensure!(page.letters.len() <= 3, "a page of {} for a limit of 3", page.letters.len());
        let last = last.id.clone();
        listed.append(&mut page.letters);
        ensure!(listed.len() <= 7, "the pages do not end");
        page = bus.admin().dead_letters_after(&topic, &group, last, 3).await?;
    }
    if exact {
        let ids: BTreeSet<&LetterId> = listed.iter().map(|letter| &letter.id).collect();
        ensure_eq!(ids.len(), 7, "different letters in all pages");
    }
    let gone: Vec<LetterId> = listed.iter().take(2).map(|letter| letter.id.clone()).collect();
    for outcome in bus.admin().discard(&topic, &group, &gone).await? {
        outcome?;
    }
    ensure_eq!(letters(scene, &bus, &group, 5).await?.len(), 5, "letters that are left");
    let unknown = [gone[0].clone(), LetterId::new("no-such-letter")];
    let outcomes = bus.admin().discard(&topic, &group, &unknown).await?;
    ensure_eq!(outcomes.len(), 2, "outcomes of a call with two letters");
    for outcome in outcomes {
        refused(outcome, &[ErrorKind::NotFound], "discarding what is not there")?;
    }
    nothing(&mut inbox, scene.quiet()).await
}

async fn letters_belong_to_their_group(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, one, two) = (scene.topic(), scene.group("one"), scene.group("two"));
    let mut first = bus.subscribe(&topic).group(&one).start().await?;
    let mut second = bus.subscribe(&topic).group(&two).start().await?;
    publish(&bus.publisher(&topic)?, 0..4).await?;
    bury(scene, &mut first, 4).await?;
    letters(scene, &bus, &one, 4).await?;
    let page = bus.admin().dead_letters(&topic, &two, 10).await?;
    ensure!(page.letters.is_empty(), "the other group has {} letters", page.letters.len());
    handle(&mut second, 4, scene.patience()).await?;
    if bus.capabilities(Some(&topic))?.group_lifecycle.is_kept() {
        first.stop(scene.patience()).await?;
        bus.admin().delete_group(&topic, &one).await?;
        ensure_eq!(letters(scene, &bus, &one, 4).await?.len(), 4, "letters of a deleted group");
    }
    Ok(())
}

/// Killed while letters are written: each message is a letter then, or comes again.
async fn a_kill_loses_neither_letter_nor_message(scene: &Scene) -> Outcome {
    const COUNT: usize = 200;
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let inbox = bus.subscribe(&topic).group(&group).lease(scene.lease()).prefetch(50);
    let mut inbox = inbox.start().await?;
    publish(&bus.publisher(&topic)?, 0..COUNT).await?;
    for _ in 0..COUNT / 2 {
        one(&mut inbox, scene.patience()).await?.nack(Nack::dead_letter(declined())).await?;
    }
    scene.instance().kill().await?;
    scene.instance().start().await?;
    let mut again = BTreeSet::new();
    let buried = |letters: &[StoredLetter]| -> Outcome<BTreeSet<usize>> {
        letters.iter().map(|letter| number(&letter.letter.envelope)).collect()
    };
    let mut stored = BTreeSet::new();
    let end = tokio::time::Instant::now() + scene.patience();
    while again.len() + stored.len() < COUNT {
        ensure!(
            tokio::time::Instant::now() < end,
            "{} letters and {} other messages of {COUNT}",
            stored.len(),
            again.len()
        );
        for delivery in crate::receive::rest(&mut inbox, scene.lease()).await? {
            again.insert(number(delivery.envelope())?);
            crate::receive::done_or_lost(delivery.ack().await)?;
        }
        let page = bus.admin().dead_letters(&topic, &group, 2 * COUNT).await;
        if let Ok(page) = page {
            stored = buried(&page.letters)?;
            again.retain(|number| !stored.contains(number));
        }
    }
    Ok(())
}

async fn dead_letters_are_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let unsupported = &[ErrorKind::Unsupported];
    let inbox = bus.subscribe(&topic).group(&group).require(Promise::P12).start().await;
    refused(inbox, unsupported, "a subscription that requires P12")?;
    refused(bus.admin().dead_letters(&topic, &group, 1).await, unsupported, "a list of letters")?;
    let id = [LetterId::new("1")];
    refused(bus.admin().replay(&topic, &group, &id).await, unsupported, "a replay")?;
    refused(bus.admin().discard(&topic, &group, &id).await, unsupported, "a discard")?;
    Ok(())
}
