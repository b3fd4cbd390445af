//! P15: the key that fails waits alone, up to a bound, and then goes by choice; and a publish that
//! is tried again keeps the order.

use std::time::Duration;

use posthaste_core::{Envelope, ErrorKind, KeyFailure, Layout, Nack, Reason, SubscriptionEvent};
use tokio::time::{Instant, timeout};

use super::p15_order::{PARTITIONS, member, ordered};
use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq};
use crate::order::{enqueue, first_times_in_order, interleaved, keys};
use crate::receive::{end, one, take};
use crate::scene::Scene;
use crate::scripted::{Scripted, Step};
use crate::send::{keyed, number, publish_each, until};

cases![P15;
    Claim a_failing_key_waits_alone when |can| can.order.is_kept();
    Edge a_key_that_fails_for_good_goes_to_the_dead_letters
        when |can| can.order.is_kept() && can.dead_letters.is_kept();
    Edge a_key_waits_no_longer_than_it_may
        when |can| can.order.is_kept() && can.dead_letters.is_kept();
    Edge a_lane_can_be_stopped_instead when |can| can.order.is_kept();
    Edge a_publish_that_is_tried_again_keeps_the_order when |can| can.order.is_kept();
    Fault a_cut_while_publishing_keeps_the_order when |can| can.order.is_kept(), needs [Cut];
];

/// Two keys of one partition, and one of another.
fn neighbours() -> Outcome<(String, String, String)> {
    let partition = |key: &String| Layout::Ordered(PARTITIONS).partition(&keyed(key, 0));
    let keys = keys(64);
    let first = keys.first().cloned().unwrap_or_default();
    let beside = keys.iter().skip(1).find(|key| partition(key) == partition(&first)).cloned();
    let elsewhere = keys.iter().find(|key| partition(key) != partition(&first)).cloned();
    match (beside, elsewhere) {
        (Some(beside), Some(elsewhere)) => Ok((first, beside, elsewhere)),
        _ => Err(Failed::new("64 keys lie in one partition")),
    }
}

/// While a failed message waits for its time, neither the key beside it in the same partition nor
/// any other waits; but the next one of its key does.
async fn a_failing_key_waits_alone(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    let (failing, beside, elsewhere) = neighbours()?;
    let mut sent = vec![keyed(&failing, 0), keyed(&failing, 1)];
    sent.extend((0..5).flat_map(|n| [keyed(&beside, n), keyed(&elsewhere, n)]));
    let mut inbox = member(scene, &bus).start().await?;
    publish_each(&bus.publisher(scene.topic())?, sent).await?;

    let delay = Duration::from_millis(1_500);
    let (mut others, mut failed_at, mut again) = (0, None, false);
    while others < 10 || !again {
        let delivery = one(&mut inbox, scene.patience()).await?;
        if delivery.key() != Some(failing.as_bytes()) {
            ensure!(!again, "{} waited for a key that fails", delivery.id());
            others += 1;
            delivery.ack().await?;
            continue;
        }
        ensure_eq!(number(delivery.envelope())?, 0, "the message of the failing key");
        match failed_at {
            None => {
                failed_at = Some(Instant::now());
                delivery.nack(Nack::after(delay)).await?;
            }
            Some(at) => {
                let waited = Instant::now().duration_since(at);
                ensure!(waited >= delay, "delayed by {delay:?}, it came after {waited:?}");
                ensure!(delivery.attempt() >= 2, "it is not flagged");
                again = true;
                delivery.ack().await?;
            }
        }
    }
    let next = one(&mut inbox, scene.patience()).await?;
    ensure_eq!(next.key(), Some(failing.as_bytes()), "the key that has waited");
    ensure_eq!(number(next.envelope())?, 1, "its next message");
    next.ack().await?;
    Ok(())
}

/// The message, and what of its key waited behind it, are dead letters; other keys go on.
async fn a_key_that_fails_for_good_goes_to_the_dead_letters(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    let sent = interleaved(&["bad".to_owned(), "good".to_owned()], 0..3);
    publish_each(&bus.publisher(scene.topic())?, sent).await?;
    let mut inbox = member(scene, &bus).start().await?;
    // Those that had not arrived yet when the first one failed come as usual, in order.
    let (mut good, mut bad) = (0, Vec::new());
    let wait = |done: bool| if done { scene.quiet() } else { scene.patience() };
    while let Ok(next) = timeout(wait(good == 3 && !bad.is_empty()), inbox.next()).await {
        let Some(delivery) = next else {
            return Err(Failed::new("the subscription ended"));
        };
        let delivery = delivery?;
        if delivery.key() == Some(b"good") {
            good += 1;
            delivery.ack().await?;
            continue;
        }
        bad.push(number(delivery.envelope())?);
        if bad.len() == 1 {
            delivery.nack(Nack::dead_letter(std::io::Error::other("broken"))).await?;
        } else {
            delivery.ack().await?;
        }
    }
    ensure_eq!(good, 3, "messages of the other key");
    let in_order = bad.windows(2).all(|two| two[0] < two[1]);
    ensure!(bad.first() == Some(&0) && in_order, "the failing key came as {bad:?}");
    let (topic, group) = (scene.topic(), scene.group("a"));
    let wanted = 4 - bad.len();
    let letters = until("the letters are stored", scene.patience(), || async {
        let page = bus.admin().dead_letters(&topic, &group, 10).await;
        match page.map_err(|error| format!("{error:?}"))?.letters {
            letters if letters.len() >= wanted => Ok(letters),
            letters => Err(format!("{} of {wanted}", letters.len())),
        }
    })
    .await?;
    ensure_eq!(letters.len(), wanted, "letters");
    for stored in &letters {
        let expected = match number(&stored.letter.envelope)? {
            0 => Reason::Rejected,
            _ => Reason::FollowsKey,
        };
        ensure_eq!(stored.letter.reason, expected, "the reason of {}", stored.letter.envelope.id());
    }
    Ok(())
}

/// It fails and fails, and its key has waited long enough.
async fn a_key_waits_no_longer_than_it_may(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    publish_each(&bus.publisher(scene.topic())?, vec![keyed("bad", 0)]).await?;
    let bound = Duration::from_millis(800);
    let mut inbox = member(scene, &bus).key_wait(bound).start().await?;
    let first = one(&mut inbox, scene.patience()).await?;
    let begun = Instant::now();
    first.nack(Nack::after(Duration::from_millis(200))).await?;
    let mut tries = 1;
    loop {
        match timeout(scene.quiet() + bound, inbox.next()).await {
            Ok(Some(delivery)) => {
                tries += 1;
                delivery?.nack(Nack::after(Duration::from_millis(200))).await?;
            }
            Ok(None) => return Err(Failed::new("the subscription ended")),
            Err(_) => break,
        }
        ensure!(begun.elapsed() < scene.patience(), "it has waited {:?}", begun.elapsed());
    }
    ensure!(tries >= 2, "it was tried {tries} times");
    let page = bus.admin().dead_letters(&scene.topic(), &scene.group("a"), 10).await?;
    ensure_eq!(page.letters.len(), 1, "letters");
    Ok(())
}

/// The subscription ends with an error instead, and the message is there for the next member.
async fn a_lane_can_be_stopped_instead(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    publish_each(&bus.publisher(scene.topic())?, interleaved(&["k".to_owned()], 0..3)).await?;
    let mut inbox = member(scene, &bus).key_failure(KeyFailure::StopLane).start().await?;
    let delivery = one(&mut inbox, scene.patience()).await?;
    delivery.nack(Nack::dead_letter(std::io::Error::other("broken"))).await?;
    let error = end(&mut inbox, scene.patience()).await?;
    ensure_eq!(error.kind(), ErrorKind::Fatal, "the end of the subscription");
    ensure!(inbox.next().await.is_none(), "there is nothing after the error");
    drop(inbox);
    let mut next = member(scene, &bus).start().await?;
    for wanted in 0..3 {
        let delivery = one(&mut next, scene.patience()).await?;
        ensure_eq!(number(delivery.envelope())?, wanted, "the next message of the key");
        delivery.ack().await?;
    }
    Ok(())
}

/// Answers are lost and entries rejected at random; each key is stored in its order all the same.
async fn a_publish_that_is_tried_again_keeps_the_order(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    let mut inbox = member(scene, &bus).prefetch(1_000).start().await?;
    let seed = scene.seed();
    let script = move |call: usize, entry: &Envelope| {
        // Chance by entry and call, the same for the same seed.
        let salt = entry
            .id()
            .bytes()
            .fold(seed, |salt, byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)));
        match fastrand::Rng::with_seed(salt ^ (call as u64)).u8(..4) {
            0 => Step::LoseReply,
            1 => Step::Reject,
            _ => Step::Pass,
        }
    };
    let scripted = Scripted::new(scene.broker().await?, script);
    let sender = Scene::bus_over(scripted).build()?;
    enqueue(&sender.publisher(scene.topic())?, interleaved(&keys(6), 0..10)).await?;
    stored_in_order(scene, &mut inbox, 60).await
}

/// Everything that is stored, in its order; each message once or more.
async fn stored_in_order(
    scene: &Scene,
    inbox: &mut posthaste_core::Subscription,
    different: usize,
) -> Outcome {
    let mut arrived: Vec<Envelope> = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < different {
        let delivery = one(inbox, scene.patience()).await?;
        ids.insert(delivery.id().to_owned());
        arrived.push(delivery.envelope().clone());
        delivery.ack().await?;
    }
    first_times_in_order(&arrived)
}

async fn a_cut_while_publishing_keeps_the_order(scene: &Scene) -> Outcome {
    let direct = scene.bus().await?;
    ordered(scene, &direct).await?;
    let (bus, link) = scene.bus_through().await?;
    let mut inbox = member(scene, &direct).prefetch(1_000).start().await?;
    let mut events = inbox.events();
    let publisher = bus.publisher(scene.topic())?;
    let keys = keys(6);
    for round in 0..4 {
        let publishing = enqueue(&publisher, interleaved(&keys, round * 25..round * 25 + 25));
        let (published, ()) = tokio::join!(publishing, link.cut());
        published?;
    }
    // What was lost would show as an event.
    let lost = async {
        crate::receive::event(&mut events, scene.quiet(), "a loss", |event| {
            matches!(event, SubscriptionEvent::Lost { .. }).then_some(())
        })
        .await
    };
    ensure!(lost.await.is_err(), "messages were lost");
    stored_in_order(scene, &mut inbox, 600).await?;
    take(&mut inbox, 0, scene.quiet()).await?;
    Ok(())
}
