//! P24: what a group has still to do, as far as the broker can tell.

use std::time::Duration;

use posthaste_core::{Bus, ErrorKind, Lag, Nack, Promise};

use crate::case::cases;
use crate::failure::{Outcome, ensure, refused};
use crate::receive::{handle, settle_all, take};
use crate::scene::Scene;
use crate::send::{publish, topic_with, until};

cases![P24;
    Claim lag_counts_what_is_ready_in_flight_and_delayed when |can| can.lag.is_kept();
    Edge each_group_has_its_own_lag when |can| can.lag.is_kept() && can.fan_out.is_kept();
    Edge the_oldest_message_gets_older when |can| can.lag.is_kept();
    Edge the_lag_of_nothing_is_not_found when |can| can.lag.is_kept();
    Denial(Lag) lag_is_refused;
];

/// Waits until each part that the broker tells is as wanted. Counts may come a moment late.
async fn reaches(
    scene: &Scene,
    bus: &Bus,
    group: &str,
    ready: u64,
    in_flight: u64,
    delayed: u64,
) -> Outcome {
    let topic = scene.topic();
    let fits = |part: Option<u64>, wanted: u64| part.is_none_or(|found| found == wanted);
    let seen: Lag = until("the lag is as expected", scene.patience(), || async {
        let lag = bus.admin().lag(&topic, group).await.map_err(|error| format!("{error:?}"))?;
        let told =
            fits(lag.ready, ready) && fits(lag.in_flight, in_flight) && fits(lag.delayed, delayed);
        // A broker that does not tell delayed ones apart may count them elsewhere; else each count
        // that it tells has to be right, and what it does not tell is nowhere.
        let elsewhere = lag.delayed.is_none() && lag.total() == ready + in_flight + delayed;
        if told || elsewhere { Ok(lag) } else { Err(format!("{lag:?}")) }
    })
    .await?;
    let told = seen.ready.is_some() || seen.in_flight.is_some();
    ensure!(told, "lag is kept, and tells nothing: {seen:?}");
    Ok(())
}

async fn lag_counts_what_is_ready_in_flight_and_delayed(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    reaches(scene, &bus, &group, 0, 0, 0).await?;
    publish(&bus.publisher(&topic)?, 0..10).await?;
    reaches(scene, &bus, &group, 10, 0, 0).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).prefetch(4).start().await?;
    let mut held = take(&mut inbox, 4, scene.patience()).await?;
    reaches(scene, &bus, &group, 6, 4, 0).await?;
    inbox.stopper().stop();
    if let Some(later) = held.pop() {
        later.nack(Nack::after(Duration::from_secs(60))).await?;
    }
    settle_all(held).await?;
    inbox.stop(scene.patience()).await?;
    reaches(scene, &bus, &group, 6, 0, 1).await?;
    let mut rest = bus.subscribe(&topic).group(&group).start().await?;
    handle(&mut rest, 6, scene.patience()).await?;
    reaches(scene, &bus, &group, 0, 0, 1).await
}

async fn each_group_has_its_own_lag(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, busy, idle) = (scene.topic(), scene.group("busy"), scene.group("idle"));
    topic_with(&bus, &topic, &[&busy, &idle]).await?;
    publish(&bus.publisher(&topic)?, 0..8).await?;
    let mut inbox = bus.subscribe(&topic).group(&busy).start().await?;
    handle(&mut inbox, 8, scene.patience()).await?;
    reaches(scene, &bus, &busy, 0, 0, 0).await?;
    reaches(scene, &bus, &idle, 8, 0, 0).await
}

async fn the_oldest_message_gets_older(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    publish(&bus.publisher(&topic)?, 0..3).await?;
    let lag = bus.admin().lag(&topic, &group).await?;
    let Some(first) = lag.oldest_age else { return Ok(()) };
    ensure!(first < scene.patience(), "a message of just now is {first:?} old");
    until("the oldest message gets older", scene.patience(), || async {
        let lag = bus.admin().lag(&topic, &group).await.map_err(|error| format!("{error:?}"))?;
        match lag.oldest_age {
            Some(age) if age > first => Ok(()),
            age => Err(format!("{age:?}")),
        }
    })
    .await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    handle(&mut inbox, 3, scene.patience()).await?;
    inbox.stop(scene.patience()).await?;
    let after = bus.admin().lag(&topic, &group).await?;
    ensure!(after.oldest_age.is_none_or(|age| age.is_zero()), "nothing is left: {after:?}");
    Ok(())
}

async fn the_lag_of_nothing_is_not_found(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let missing = &[ErrorKind::NotFound];
    refused(bus.admin().lag(&topic, &group).await, missing, "the lag on no topic")?;
    topic_with(&bus, &topic, &[&group]).await?;
    let other = scene.group("other");
    refused(bus.admin().lag(&topic, &other).await, missing, "the lag of no group")?;
    Ok(())
}

async fn lag_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let unsupported = &[ErrorKind::Unsupported];
    refused(bus.admin().lag(&topic, &group).await, unsupported, "lag")?;
    let inbox = bus.subscribe(&topic).group(&group).require(Promise::P24).start().await;
    refused(inbox, unsupported, "a subscription that requires P24")?;
    Ok(())
}
