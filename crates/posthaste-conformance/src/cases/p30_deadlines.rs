//! P30: every call ends by its deadline, with bounded memory meanwhile, and none depends on
//! another caller being polled.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use posthaste_core::{ErrorKind, Health, PublishOptions, Retry};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::harness::Link;
use crate::receive::{handle_all, rest};
use crate::scene::Scene;
use crate::scripted::{Scripted, Step};
use crate::send::{ends, numbered, topic_with, up_to};

cases![P30;
    Claim a_blocked_publish_ends_by_its_deadline;
    Claim every_question_ends;
    Claim a_full_window_says_so_by_the_deadline;
    Edge nothing_depends_on_a_caller_that_is_not_polled;
    Edge a_caller_that_gives_up_takes_nobody_with_it;
    Edge receipts_that_nobody_awaits_hold_up_nobody;
    Fault an_absent_broker_holds_up_no_call, needs [Cut];
    Fault a_silent_broker_holds_up_no_call, needs [BlackHole];
];

/// What a call may take beyond its deadline on a machine that is busy.
const LATE: Duration = Duration::from_secs(2);
/// By when a question without a deadline of its own has to end on a broker that does not answer.
const ANSWERED: Duration = Duration::from_secs(25);

/// The adapter never answers. One message by itself, a batch, and a receipt.
async fn a_blocked_publish_ends_by_its_deadline(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&scene.bus().await?, &topic, &[&group]).await?;
    let scripted = Scripted::new(scene.broker().await?, |_, _| Step::Pass);
    let deadline = Duration::from_millis(500);
    let bus = Scene::bus_over(Arc::clone(&scripted) as _).publish_deadline(deadline).build()?;
    let publisher = bus.publisher(&topic)?;
    scripted.block();
    let begun = Instant::now();
    let (one, batch, receipt) = tokio::join!(
        publisher.publish_envelope(numbered(0)),
        publisher.publish_all_envelopes((1..20).map(numbered).collect()),
        async { publisher.enqueue_envelope(numbered(20)).await?.await },
    );
    let took = begun.elapsed();
    ensure!(took <= deadline + LATE, "with a deadline of {deadline:?} they took {took:?}");
    for outcome in batch.into_outcomes().into_iter().chain([one, receipt]) {
        let error = refused(outcome, &[ErrorKind::Timeout], "a publish without an answer")?;
        ensure_eq!(error.retry(), Retry::Exhausted, "whether to try again");
    }
    scripted.unblock();
    let own = PublishOptions::new().deadline(scene.patience());
    publisher.publish_envelope_with(numbered(21), own).await?;
    Ok(())
}

/// On a broker that answers, in no time worth speaking of.
async fn every_question_ends(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let within = scene.patience();
    ends("ensure", within, topic_with(&bus, &topic, &[&group])).await??;
    let health = ends("health", within, bus.health()).await??;
    ensure_eq!(health, Health::Live, "the health");
    ends("describe", within, bus.admin().describe(&topic)).await??;
    let can = bus.capabilities(Some(&topic))?;
    if can.lag.is_kept() {
        ends("lag", within, bus.admin().lag(&topic, &group)).await??;
    }
    if can.group_lifecycle.is_kept() {
        ends("groups", within, bus.admin().groups(&topic)).await??;
    }
    if can.dead_letters.is_kept() {
        ends("dead_letters", within, bus.admin().dead_letters(&topic, &group, 1)).await??;
    }
    let inbox = ends("start", within, bus.subscribe(&topic).group(&group).start()).await??;
    ends("publish", within, bus.publisher(&topic)?.publish_envelope(numbered(0))).await??;
    ends("stop", within, inbox.stop(within)).await??;
    ends("delete_topic", within, bus.admin().delete_topic(&topic)).await??;
    ends("close", within, bus.close(within)).await??;
    Ok(())
}

/// Ten may wait; the eleventh hears that there is no room, and nothing of it was kept.
async fn a_full_window_says_so_by_the_deadline(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&scene.bus().await?, &topic, &[&group]).await?;
    let scripted = Scripted::new(scene.broker().await?, |_, _| Step::Pass);
    let deadline = Duration::from_millis(500);
    let builder = Scene::bus_over(Arc::clone(&scripted) as _).window(10, 1 << 20);
    let bus = builder.publish_deadline(deadline).build()?;
    let publisher = bus.publisher(&topic)?;
    scripted.block();
    let mut receipts = Vec::new();
    for number in 0..10 {
        receipts.push(publisher.enqueue_envelope(numbered(number)).await?);
    }
    let begun = Instant::now();
    for number in 10..12 {
        let refusal = publisher.enqueue_envelope(numbered(number)).await;
        // Room that the first ones leave at their own deadline is room.
        if let Err(error) = refusal {
            ensure_eq!(error.kind(), ErrorKind::Backpressure, "a full window");
            ensure!(!error.may_be_stored(), "nothing was sent");
        }
    }
    let took = begun.elapsed();
    ensure!(took <= deadline * 2 + LATE, "two messages without room took {took:?}");
    let waiting = async {
        for receipt in receipts {
            refused(receipt.await, &[ErrorKind::Timeout], "a publish without an answer")?;
        }
        Ok::<_, crate::failure::Failed>(())
    };
    ends("ten blocked publishes", deadline + LATE, waiting).await??;
    let sent = scripted.sent();
    ensure!(!sent.contains(&"m-11".to_owned()) || sent.len() <= 24, "it was sent: {sent:?}");
    scripted.unblock();
    let own = PublishOptions::new().deadline(scene.patience());
    publisher.publish_envelope_with(numbered(50), own).await?;
    Ok(())
}

/// More callers than flights are polled once and never again. Whoever comes later is served.
async fn nothing_depends_on_a_caller_that_is_not_polled(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    publisher.publish_envelope(numbered(0)).await?;
    let flights = bus.capabilities(Some(&topic))?.max_flights;
    let count = 2 * flights + 3;
    let mut abandoned: Vec<Pin<Box<_>>> =
        (1..=count).map(|number| Box::pin(publisher.publish_envelope(numbered(number)))).collect();
    for caller in &mut abandoned {
        poll_fn(|cx| {
            // Whether it is done at once is its own affair.
            let _ = caller.as_mut().poll(cx).is_ready();
            Poll::Ready(())
        })
        .await;
    }
    // The abandoned ones are alive, hold what they hold, and are not polled from here on.
    for number in count + 1..count + 6 {
        let published = publisher.publish_envelope(numbered(number));
        ends("a publish behind callers that are not polled", scene.patience(), published).await??;
    }
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    handle_all(&mut inbox, &up_to(count + 6), scene.patience()).await?;
    drop(abandoned);
    Ok(())
}

/// Publishes that are dropped at any moment: those of others are confirmed, and stored once.
async fn a_caller_that_gives_up_takes_nobody_with_it(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    let mut chance = scene.chance();
    let mut kept = Vec::new();
    for round in 0..30 {
        let (mine, theirs) = (round * 2, round * 2 + 1);
        let given_up = publisher.publish_envelope(numbered(theirs));
        let patience = Duration::from_micros(chance.u64(..2_000));
        let (confirmed, _) = tokio::join!(
            publisher.publish_envelope(numbered(mine)),
            tokio::time::timeout(patience, given_up),
        );
        confirmed?;
        kept.push(mine);
    }
    ends("flush", scene.patience(), publisher.flush()).await?;
    let wanted = kept.into_iter().collect();
    let mut handled = handle_all(&mut inbox, &wanted, scene.patience()).await?;
    for delivery in rest(&mut inbox, scene.quiet()).await? {
        handled.push(crate::send::number(delivery.envelope())?);
    }
    crate::receive::distinct(&handled)?;
    Ok(())
}

/// Three windows full, without a look at any receipt.
async fn receipts_that_nobody_awaits_hold_up_nobody(scene: &Scene) -> Outcome {
    let bus = scene.builder().await?.window(50, 1 << 20).build()?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    let mut receipts = Vec::new();
    for number in 0..150 {
        let enqueued = publisher.enqueue_envelope(numbered(number));
        let receipt = ends("an enqueue", scene.patience(), enqueued).await??;
        // Some are kept and some are dropped.
        if number % 2 == 0 {
            receipts.push(receipt);
        }
    }
    ends("flush", scene.patience(), publisher.flush()).await?;
    for receipt in receipts {
        receipt.await?;
    }
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    handle_all(&mut inbox, &up_to(150), scene.patience()).await?;
    Ok(())
}

enum Gone {
    Refused,
    Silent,
}

/// Publishes, questions, settlements, stop and close, on a broker that is not there any more.
async fn without_a_broker(
    scene: &Scene,
    link: &dyn Link,
    gone: Gone,
    bus: posthaste_core::Bus,
) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).lease(scene.lease()).start().await?;
    let publisher = bus.publisher(&topic)?;
    publisher.publish_envelope(numbered(0)).await?;
    let held = crate::receive::one(&mut inbox, scene.patience()).await?;
    match gone {
        Gone::Refused => link.refuse().await,
        Gone::Silent => link.black_hole().await,
    }
    let deadline = Duration::from_secs(2);
    let options = || PublishOptions::new().deadline(deadline);
    let begun = Instant::now();
    let outcomes = tokio::join!(
        publisher.publish_envelope_with(numbered(1), options()),
        publisher.publish_envelope_with(numbered(2), options()),
    );
    let took = begun.elapsed();
    ensure!(took <= deadline + LATE, "with a deadline of {deadline:?} they took {took:?}");
    for outcome in [outcomes.0, outcomes.1] {
        refused(outcome, &[ErrorKind::Timeout, ErrorKind::Connection], "a publish to nobody")?;
    }
    let questions = async {
        let unreachable = &[ErrorKind::Timeout, ErrorKind::Connection];
        let admin = bus.admin();
        let (described, started, acked) = tokio::join!(
            admin.describe(&topic),
            bus.subscribe(&topic).group(&group).start(),
            held.ack_confirmed(),
        );
        refused(described, unreachable, "a description")?;
        refused(started, unreachable, "a subscription")?;
        let kinds = [ErrorKind::Timeout, ErrorKind::Connection, ErrorKind::LeaseLost];
        refused(acked, &kinds, "an acknowledgement")
    };
    ends("questions to nobody", ANSWERED, questions).await??;
    ends("a stop", deadline + ANSWERED, inbox.stop(deadline)).await?.ok();
    ends("closing", deadline + ANSWERED, bus.close(deadline)).await?.ok();
    Ok(())
}

async fn an_absent_broker_holds_up_no_call(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    without_a_broker(scene, &*link, Gone::Refused, bus).await
}

async fn a_silent_broker_holds_up_no_call(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    without_a_broker(scene, &*link, Gone::Silent, bus).await
}
