//! P18: stop fetches nothing more, lets handlers finish, and hands the rest over in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthaste_core::{ErrorKind, Nack};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::load::{Handler, Load};
use crate::receive::{distinct, done_or_lost, nothing, numbers, one, take};
use crate::scene::Scene;
use crate::send::{ends, number, publish, topic_with, up_to};

cases![P18;
    Claim stop_hands_over_what_was_not_handled;
    Claim handlers_finish_before_a_stop_ends;
    Edge members_replaced_under_load_lose_and_repeat_nothing;
    Edge what_is_held_at_the_deadline_is_given_back;
    Edge a_dropped_subscription_gives_everything_back;
    Edge closing_the_bus_drains_it;
    Edge stopping_an_idle_subscription_takes_no_time;
];

/// How much longer than declared a hand-over may take on a machine that is busy.
const LATE: Duration = Duration::from_secs(3);

/// A member has fetched fifty and handled five of them when it stops. The others are with another
/// member within the declared time, long before any lease ends.
async fn stop_hands_over_what_was_not_handled(scene: &Scene) -> Outcome {
    let (leaving, staying) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut first = leaving.subscribe(&topic).group(&group).prefetch(50).start().await?;
    publish(&leaving.publisher(&topic)?, 0..50).await?;
    let mut handled = Vec::new();
    for delivery in take(&mut first, 5, scene.patience()).await? {
        handled.push(number(delivery.envelope())?);
        delivery.ack().await?;
    }
    let handover = leaving.capabilities(Some(&topic))?.handover;
    first.stop(scene.patience()).await?;
    let stopped = Instant::now();
    let mut second = staying.subscribe(&topic).group(&group).start().await?;
    let deliveries = take(&mut second, 45, scene.patience()).await?;
    let took = stopped.elapsed();
    ensure!(took <= handover + LATE, "handed over after {took:?}, declared is {handover:?}");
    handled.extend(numbers(&deliveries)?);
    ensure_eq!(distinct(&handled)?, up_to(50), "what both members got");
    for delivery in deliveries {
        delivery.ack().await?;
    }
    nothing(&mut second, scene.quiet()).await?;
    if staying.capabilities(Some(&topic))?.lag.is_kept() {
        let lag = staying.admin().lag(&topic, &group).await?;
        ensure_eq!(lag.in_flight.unwrap_or(0), 0, "still in flight: {lag:?}");
    }
    Ok(())
}

/// Settled while the stop waits, by every verdict; nothing new is fetched meanwhile.
async fn handlers_finish_before_a_stop_ends(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).prefetch(3).start().await?;
    let publisher = bus.publisher(&topic)?;
    publish(&publisher, 0..3).await?;
    let held = take(&mut inbox, 3, scene.patience()).await?;
    let stopper = inbox.stopper();
    stopper.stop();
    ensure!(inbox.next().await.is_none(), "a stopped subscription has no next delivery");
    publish(&publisher, 3..6).await?;
    let finishing = async {
        for delivery in held {
            match number(delivery.envelope())? {
                0 => delivery.ack().await?,
                1 => delivery.nack(Nack::requeue()).await?,
                _ => delivery.ack_confirmed().await?,
            }
        }
        Ok::<_, crate::failure::Failed>(())
    };
    let (stopped, finished) = tokio::join!(inbox.stop(scene.patience()), finishing);
    finished?;
    stopped?;
    let mut next = bus.subscribe(&topic).group(&group).start().await?;
    let left = take(&mut next, 4, scene.patience()).await?;
    ensure_eq!(distinct(&numbers(&left)?)?, (1..=1).chain(3..6).collect(), "what is left");
    nothing(&mut next, scene.quiet()).await
}

/// One member after the other takes over while messages come. All that is confirmed is handled,
/// and what a member had handled before it left is not handled again.
async fn members_replaced_under_load_lose_and_repeat_nothing(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let bus = scene.bus().await?;
    topic_with(&bus, &topic, &[&group]).await?;
    let load = Load::start(&bus.publisher(&topic)?, 0, scene.patience());
    let join = async || {
        let inbox = bus.subscribe(&topic).group(&group).prefetch(32).start().await?;
        Ok::<_, Failed>(Handler::start(inbox))
    };
    let mut handled: Vec<usize> = Vec::new();
    let mut member = join().await?;
    for _ in 0..3 {
        load.goes_on(100, scene.patience()).await?;
        member.goes_on(100, scene.patience()).await?;
        let next = join().await?;
        let before = std::mem::replace(&mut member, next).stop(scene.patience()).await?;
        handled.extend(each(&before));
    }
    let (confirmed, failed) = load.stop(scene.patience()).await?;
    ensure!(failed.is_empty(), "publishes failed: {failed:?}");
    let before: BTreeSet<usize> = handled.iter().copied().collect();
    member.has(&confirmed.difference(&before).copied().collect(), scene.patience()).await?;
    let last = member.stop(scene.patience()).await?;
    handled.extend(each(&last));
    ensure_eq!(distinct(&handled)?, confirmed, "what all members handled");
    Ok(())
}

/// Each number as often as it was handled.
fn each(handled: &BTreeMap<usize, Vec<Instant>>) -> impl Iterator<Item = usize> {
    handled.iter().flat_map(|(number, times)| std::iter::repeat_n(*number, times.len()))
}

async fn what_is_held_at_the_deadline_is_given_back(scene: &Scene) -> Outcome {
    let (leaving, staying) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut first = leaving.subscribe(&topic).group(&group).start().await?;
    publish(&leaving.publisher(&topic)?, 0..2).await?;
    let mut held = take(&mut first, 2, scene.patience()).await?;
    let drain = Duration::from_millis(200);
    let begun = Instant::now();
    let stopped = ends("a stop", drain + scene.patience(), first.stop(drain)).await?;
    refused(stopped, &[ErrorKind::Timeout], "a stop with deliveries in hand")?;
    ensure!(begun.elapsed() >= drain, "it did not wait for its handlers");
    ensure!(held.iter().all(posthaste_core::Delivery::is_lost), "they are taken back");

    let mut second = staying.subscribe(&topic).group(&group).start().await?;
    let again = take(&mut second, 2, scene.patience()).await?;
    if let (Some(nacked), Some(acked)) = (held.pop(), held.pop()) {
        refused(nacked.nack(Nack::requeue()).await, &[ErrorKind::LeaseLost], "a late nack")?;
        done_or_lost(acked.ack().await)?;
    }
    for delivery in again {
        done_or_lost(delivery.ack_confirmed().await)?;
    }
    nothing(&mut second, scene.quiet()).await
}

/// Dropping never blocks; what was in its buffer is with others soon.
async fn a_dropped_subscription_gives_everything_back(scene: &Scene) -> Outcome {
    let (leaving, staying) = (scene.bus().await?, scene.bus().await?);
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut first = leaving.subscribe(&topic).group(&group).start().await?;
    publish(&leaving.publisher(&topic)?, 0..20).await?;
    one(&mut first, scene.patience()).await?.ack_confirmed().await?;
    let dropped = Instant::now();
    drop(first);
    ensure!(dropped.elapsed() < LATE, "the drop took {:?}", dropped.elapsed());
    let mut second = staying.subscribe(&topic).group(&group).start().await?;
    let deliveries = take(&mut second, 19, scene.patience()).await?;
    // Sooner than any lease, which is 30 s here.
    let took = dropped.elapsed();
    let handover = leaving.capabilities(Some(&topic))?.handover;
    ensure!(took <= handover + LATE, "given back after {took:?}, declared is {handover:?}");
    distinct(&numbers(&deliveries)?)?;
    Ok(())
}

/// What was enqueued is sent, what was fetched is given back, and then everything is closed.
async fn closing_the_bus_drains_it(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    publish(&publisher, 0..10).await?;
    let acked = one(&mut inbox, scene.patience()).await?;
    let done = number(acked.envelope())?;
    acked.ack().await?;
    let mut receipts = Vec::new();
    for number in 10..30 {
        receipts.push(publisher.enqueue_envelope(crate::send::numbered(number)).await?);
    }
    ends("closing", scene.patience(), bus.close(scene.patience())).await??;
    for receipt in receipts {
        receipt.await?;
    }
    ensure!(inbox.next().await.is_none(), "the subscription of a closed bus has ended");
    ends("closing again", scene.patience(), bus.close(scene.patience())).await??;

    let after = scene.bus().await?;
    let mut next = after.subscribe(&topic).group(&group).start().await?;
    let left = take(&mut next, 29, scene.patience()).await?;
    let wanted = (0..30).filter(|number| *number != done).collect();
    ensure_eq!(distinct(&numbers(&left)?)?, wanted, "what is left");
    Ok(())
}

async fn stopping_an_idle_subscription_takes_no_time(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let inbox = bus.subscribe(scene.topic()).group(scene.group("a")).start().await?;
    let begun = Instant::now();
    inbox.stop(Duration::from_secs(30)).await?;
    ensure!(begun.elapsed() < LATE, "it took {:?}", begun.elapsed());
    let dropped = bus.subscribe(scene.topic()).group(scene.group("a")).start().await?;
    drop(dropped);
    let begun = Instant::now();
    bus.close(Duration::from_secs(30)).await?;
    ensure!(begun.elapsed() < LATE, "closing took {:?}", begun.elapsed());
    Ok(())
}
