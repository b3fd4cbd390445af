//! P17: after an outage of any length both sides go on by themselves, and nothing confirmed is
//! lost.

use std::time::Duration;

use posthaste_core::SubscriptionEvent;
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Outcome, ensure};
use crate::fault::Direction;
use crate::harness::Link;
use crate::load::{Handler, Load, repeated};
use crate::receive::event;
use crate::scene::Scene;

cases![P17;
    Claim a_cut_connection_goes_on, needs [Cut];
    Fault a_server_that_was_away_is_found_again, needs [Restart];
    Fault a_killed_server_is_found_again, needs [Kill];
    Fault a_refused_connection_is_tried_until_it_is_taken, needs [Cut];
    Fault a_black_hole_is_survived, needs [BlackHole];
    Fault a_half_open_connection_is_noticed_when_requests_are_lost, needs [HalfOpen];
    Fault a_half_open_connection_is_noticed_when_answers_are_lost, needs [HalfOpen];
    Fault a_paused_server_is_waited_for, needs [Pause];
];

/// How many deliveries a member may have unsettled: no more can come again after an outage.
const PREFETCH: usize = 64;
/// How many publishes are under way at once: no more can be stored twice.
const PUBLISHES: usize = 8;
/// By when a publish has to end: longer than any outage here.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is broken, and for how long.
enum Breakage<'a> {
    Link(&'a dyn Link, Network),
    Stop,
    Kill,
    Pause,
}

#[derive(Clone, Copy)]
enum Network {
    Cut,
    Refuse,
    BlackHole,
    HalfOpen(Direction),
}

/// The length of an outage is the fault itself: this waits, and does not wait *for* anything.
async fn last(length: Duration) {
    tokio::time::sleep(length).await;
}

async fn break_for(scene: &Scene, what: &Breakage<'_>, length: Duration) -> Outcome {
    match what {
        Breakage::Link(link, network) => {
            match network {
                Network::Cut => link.cut().await,
                Network::Refuse => link.refuse().await,
                Network::BlackHole => link.black_hole().await,
                Network::HalfOpen(lost) => link.half_open(*lost).await,
            }
            last(length).await;
            link.heal().await?;
        }
        Breakage::Stop => {
            scene.instance().stop().await?;
            last(length).await;
            scene.instance().start().await?;
        }
        Breakage::Kill => {
            scene.instance().kill().await?;
            last(length).await;
            scene.instance().start().await?;
        }
        Breakage::Pause => {
            scene.instance().pause().await?;
            last(length).await;
            scene.instance().resume().await?;
        }
    }
    Ok(())
}

/// Breaks it under load, as often as told. Afterwards both sides go on, everything confirmed is
/// handled, and what was handled again is what was under way.
async fn outage(
    scene: &Scene,
    bus: &posthaste_core::Bus,
    what: Breakage<'_>,
    lengths: &[Duration],
) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let inbox = bus.subscribe(&topic).group(&group).prefetch(PREFETCH).lease(scene.lease());
    let handler = Handler::start(inbox.start().await?);
    let load = Load::start(&bus.publisher(&topic)?, 0, DEADLINE);
    let window = bus.capabilities(Some(&topic))?.replay_window;
    let mut breaks = Vec::new();
    for length in lengths {
        load.goes_on(100, scene.patience()).await?;
        handler.goes_on(100, scene.patience()).await?;
        breaks.push(Instant::now());
        break_for(scene, &what, *length).await?;
    }
    // No word to anybody: both go on.
    load.goes_on(100, scene.patience()).await?;
    handler.goes_on(100, scene.patience()).await?;
    let (confirmed, failed) = load.stop(DEADLINE).await?;
    ensure!(failed.is_empty(), "publishes failed that could wait: {failed:?}");
    handler.has(&confirmed, scene.patience()).await?;
    let handled = handler.stop(scene.patience()).await?;
    let again = repeated(&handled, &breaks, window);
    let most = (PREFETCH + PUBLISHES) * lengths.len();
    ensure!(
        again <= most,
        "{again} messages came again that were settled more than {window:?} before, {most} can \
         have been under way"
    );
    Ok(())
}

/// With the events that say so.
async fn a_cut_connection_goes_on(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    let (topic, group) = (scene.topic_called("events"), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let mut events = inbox.events();
    let listening = async {
        // The driver is polled by whoever waits for the next delivery.
        let _ = tokio::time::timeout(scene.patience() * 3, inbox.next()).await;
    };
    let breaking = async {
        link.cut().await;
        let within = scene.patience();
        event(&mut events, within, "the connection was lost", |event| {
            matches!(event, SubscriptionEvent::Disconnected { .. }).then_some(())
        })
        .await?;
        event(&mut events, within, "the connection is back", |event| {
            matches!(event, SubscriptionEvent::Reconnected).then_some(())
        })
        .await
    };
    tokio::select! {
        () = listening => ensure!(false, "the subscription brought something, or nothing at all"),
        told = breaking => told?,
    }
    let lengths = [Duration::ZERO; 3];
    outage(scene, &bus, Breakage::Link(&*link, Network::Cut), &lengths).await
}

async fn a_server_that_was_away_is_found_again(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    outage(scene, &bus, Breakage::Stop, &[Duration::from_secs(1), Duration::from_secs(6)]).await
}

async fn a_killed_server_is_found_again(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    outage(scene, &bus, Breakage::Kill, &[Duration::ZERO, Duration::from_secs(3)]).await
}

async fn a_refused_connection_is_tried_until_it_is_taken(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    let lengths = [Duration::from_secs(6)];
    outage(scene, &bus, Breakage::Link(&*link, Network::Refuse), &lengths).await
}

async fn a_black_hole_is_survived(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    let lengths = [Duration::from_secs(4)];
    outage(scene, &bus, Breakage::Link(&*link, Network::BlackHole), &lengths).await
}

async fn a_half_open_connection_is_noticed_when_requests_are_lost(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    let lost = Network::HalfOpen(Direction::ClientToServer);
    outage(scene, &bus, Breakage::Link(&*link, lost), &[Duration::from_secs(4)]).await
}

async fn a_half_open_connection_is_noticed_when_answers_are_lost(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    let lost = Network::HalfOpen(Direction::ServerToClient);
    outage(scene, &bus, Breakage::Link(&*link, lost), &[Duration::from_secs(4)]).await
}

async fn a_paused_server_is_waited_for(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    outage(scene, &bus, Breakage::Pause, &[Duration::from_secs(4)]).await
}
