//! P11: a nack is private to the group: again soon, again later, or never.

use std::collections::BTreeMap;
use std::time::Duration;

use posthaste_core::{Bus, Nack, Subscription};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq};
use crate::receive::{handle, nothing, one, take};
use crate::scene::Scene;
use crate::send::{number, publish};

cases![P11;
    Claim a_requeued_message_comes_again_to_its_group_only;
    Claim a_delayed_message_comes_not_before_its_time_and_to_its_group_only;
    Claim a_message_for_the_dead_letters_never_comes_again when |can| can.dead_letters.is_kept();
    Edge a_short_delay_overtakes_a_long_one;
    Edge delays_of_many_lengths_are_each_kept;
    Edge the_neighbours_of_a_nacked_message_are_left_alone;
    Fault a_delayed_message_survives_a_restart, needs [Restart];
];

/// How late a delayed message may come: what is promised (1 s and a poll), and as much again for
/// a machine that is busy with other cases.
const LATE: Duration = Duration::from_secs(3);

/// The group in question, and one beside it where there can be one.
async fn groups(scene: &Scene, bus: &Bus) -> Outcome<(Subscription, Option<Subscription>)> {
    let topic = scene.topic();
    let fan_out = bus.capabilities(Some(&topic))?.fan_out.is_kept();
    let other = if fan_out {
        Some(bus.subscribe(&topic).group(scene.group("other")).start().await?)
    } else {
        None
    };
    Ok((bus.subscribe(&topic).group(scene.group("a")).start().await?, other))
}

/// The other group gets each message once, whatever happens in the first.
async fn only_once(scene: &Scene, other: Option<Subscription>, count: usize) -> Outcome {
    if let Some(mut other) = other {
        handle(&mut other, count, scene.patience()).await?;
        nothing(&mut other, scene.quiet()).await?;
    }
    Ok(())
}

async fn a_requeued_message_comes_again_to_its_group_only(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (mut inbox, other) = groups(scene, &bus).await?;
    publish(&bus.publisher(scene.topic())?, 0..1).await?;
    let first = one(&mut inbox, scene.patience()).await?;
    let requeued = Instant::now();
    first.nack(Nack::requeue().because("not today")).await?;
    let again = one(&mut inbox, scene.patience()).await?;
    // Sooner than any lease (30 s here) or idle timeout would bring it.
    ensure!(requeued.elapsed() < LATE, "a requeue took {:?}", requeued.elapsed());
    ensure_eq!(again.id(), "m-0", "what came again");
    ensure!(again.attempt() >= 2, "it is not flagged: attempt {}", again.attempt());
    again.ack_confirmed().await?;
    nothing(&mut inbox, scene.quiet()).await?;
    only_once(scene, other, 1).await
}

async fn a_delayed_message_comes_not_before_its_time_and_to_its_group_only(
    scene: &Scene,
) -> Outcome {
    let bus = scene.bus().await?;
    let (mut inbox, other) = groups(scene, &bus).await?;
    publish(&bus.publisher(scene.topic())?, 0..1).await?;
    for delay in [Duration::from_millis(300), Duration::from_millis(1_200)] {
        let delivery = one(&mut inbox, scene.patience()).await?;
        let nacked = Instant::now();
        delivery.nack(Nack::after(delay)).await?;
        let again = one(&mut inbox, delay + scene.patience()).await?;
        let waited = nacked.elapsed();
        ensure!(waited >= delay, "delayed by {delay:?}, it came after {waited:?}");
        ensure!(waited <= delay + LATE, "delayed by {delay:?}, it came after {waited:?}");
        ensure!(again.is_redelivered(), "it is not flagged");
        again.nack(Nack::requeue()).await?;
    }
    one(&mut inbox, scene.patience()).await?.ack_confirmed().await?;
    nothing(&mut inbox, scene.quiet()).await?;
    only_once(scene, other, 1).await
}

async fn a_message_for_the_dead_letters_never_comes_again(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (mut inbox, other) = groups(scene, &bus).await?;
    publish(&bus.publisher(scene.topic())?, 0..3).await?;
    for delivery in take(&mut inbox, 3, scene.patience()).await? {
        if number(delivery.envelope())? == 1 {
            delivery.nack(Nack::dead_letter(std::io::Error::other("no such account"))).await?;
        } else {
            delivery.ack().await?;
        }
    }
    nothing(&mut inbox, scene.lease() + scene.quiet()).await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    inbox.stop(scene.patience()).await?;
    let page = bus.admin().dead_letters(&topic, &group, 10).await?;
    ensure_eq!(page.letters.len(), 1, "dead letters");
    let mut later = bus.subscribe(&topic).group(&group).start().await?;
    nothing(&mut later, scene.quiet()).await?;
    only_once(scene, other, 3).await
}

/// A queue of delays that only looks at its head would keep the short one waiting.
async fn a_short_delay_overtakes_a_long_one(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (mut inbox, _) = groups(scene, &bus).await?;
    publish(&bus.publisher(scene.topic())?, 0..2).await?;
    let mut both = take(&mut inbox, 2, scene.patience()).await?;
    let (long, short) = (Duration::from_secs(6), Duration::from_millis(300));
    let (Some(second), Some(first)) = (both.pop(), both.pop()) else { return Ok(()) };
    let (slow, quick) = (first.id().to_owned(), second.id().to_owned());
    let nacked = Instant::now();
    first.nack(Nack::after(long)).await?;
    second.nack(Nack::after(short)).await?;
    let next = one(&mut inbox, scene.patience()).await?;
    ensure_eq!(next.id(), quick, "what comes first");
    ensure!(nacked.elapsed() < long, "the short delay took {:?}", nacked.elapsed());
    next.ack().await?;
    let last = one(&mut inbox, long + scene.patience()).await?;
    ensure_eq!(last.id(), slow, "what comes then");
    ensure!(nacked.elapsed() >= long, "the long delay took {:?}", nacked.elapsed());
    last.ack().await?;
    Ok(())
}

/// Two dozen at once, in no order: each comes at its own time, whatever waits before and behind it.
async fn delays_of_many_lengths_are_each_kept(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (mut inbox, _) = groups(scene, &bus).await?;
    let mut chance = scene.chance();
    // Whole seconds and powers of two, beside lengths that are neither.
    let mut delays: Vec<u64> = vec![1_000, 2_000, 4_000, 5_000, 999, 1_001, 3_000, 10];
    delays.extend((delays.len()..24).map(|_| chance.u64(50..6_000)));
    chance.shuffle(&mut delays);
    publish(&bus.publisher(scene.topic())?, 0..delays.len()).await?;
    let mut due = BTreeMap::new();
    for delivery in take(&mut inbox, delays.len(), scene.patience()).await? {
        let number = number(delivery.envelope())?;
        let delay = Duration::from_millis(delays[number]);
        due.insert(number, (Instant::now(), delay));
        delivery.nack(Nack::after(delay)).await?;
    }
    while !due.is_empty() {
        let again = one(&mut inbox, Duration::from_secs(6) + scene.patience()).await?;
        let Some((nacked, delay)) = due.remove(&number(again.envelope())?) else {
            return Err(Failed::new(format!("{} came again twice", again.id())));
        };
        let waited = nacked.elapsed();
        ensure!(waited >= delay, "delayed by {delay:?}, it came after {waited:?}");
        ensure!(waited <= delay + LATE, "delayed by {delay:?}, it came after {waited:?}");
        again.ack().await?;
    }
    nothing(&mut inbox, scene.quiet()).await
}

/// Of ten in one batch, three come again by their verdicts, and seven are done with.
async fn the_neighbours_of_a_nacked_message_are_left_alone(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let lease = scene.lease();
    let mut inbox = bus.subscribe(&topic).group(&group).lease(lease).start().await?;
    publish(&bus.publisher(&topic)?, 0..10).await?;
    for delivery in take(&mut inbox, 10, scene.patience()).await? {
        match number(delivery.envelope())? {
            2 => delivery.nack(Nack::requeue()).await?,
            5 => delivery.nack(Nack::after(Duration::from_millis(200))).await?,
            8 => delivery.release().await?,
            _ => delivery.ack().await?,
        }
    }
    let mut again = handle(&mut inbox, 3, scene.patience()).await?;
    again.sort_unstable();
    ensure_eq!(again, [2, 5, 8], "what came again");
    nothing(&mut inbox, lease + scene.quiet()).await
}

/// It may come early then. It is never lost.
async fn a_delayed_message_survives_a_restart(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).lease(scene.lease()).start().await?;
    publish(&bus.publisher(&topic)?, 0..3).await?;
    for delivery in take(&mut inbox, 3, scene.patience()).await? {
        delivery.nack(Nack::after(Duration::from_secs(2))).await?;
    }
    nothing(&mut inbox, scene.quiet()).await?;
    scene.instance().stop().await?;
    scene.instance().start().await?;
    let mut again = handle(&mut inbox, 3, scene.patience()).await?;
    again.sort_unstable();
    ensure_eq!(again, [0, 1, 2], "what came again");
    Ok(())
}
