//! P26: health is one cheap round trip that tells the truth.

use std::time::Duration;

use posthaste_core::{Bus, ErrorKind, Health};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::scene::Scene;
use crate::send::{ends, until};

cases![P26;
    Claim a_broker_that_answers_is_live;
    Edge a_closed_connection_has_no_health;
    Fault a_refused_connection_is_down_and_then_live_again, needs [Cut];
    Fault a_black_hole_is_down_and_then_live_again, needs [BlackHole];
];

/// By when a broker that does not answer counts as down: two missed pings and a round trip.
const NOTICED: Duration = Duration::from_secs(25);

async fn a_broker_that_answers_is_live(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    for _ in 0..5 {
        let begun = Instant::now();
        let health = ends("a look at the health", scene.patience(), bus.health()).await??;
        ensure_eq!(health, Health::Live, "the health of a broker that is there");
        ensure!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    }
    Ok(())
}

async fn a_closed_connection_has_no_health(scene: &Scene) -> Outcome {
    let closed = &[ErrorKind::Closed];
    let bus = scene.bus().await?;
    bus.close(scene.patience()).await?;
    refused(bus.health().await, closed, "the health of a closed bus")?;
    let broker = scene.broker().await?;
    broker.close(Instant::now() + scene.patience()).await?;
    let health = ends("a look at the health", scene.patience(), broker.health()).await?;
    refused(health, closed, "the health of a closed adapter")?;
    Ok(())
}

async fn is_down(bus: &Bus) -> Outcome {
    until("the broker is down", NOTICED, || async {
        match bus.health().await {
            Ok(Health::Down(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn is_live(bus: &Bus) -> Outcome {
    until("the broker is live again", NOTICED, || async {
        match bus.health().await {
            Ok(Health::Live) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn a_refused_connection_is_down_and_then_live_again(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    is_live(&bus).await?;
    link.refuse().await;
    is_down(&bus).await?;
    link.heal().await?;
    is_live(&bus).await
}

async fn a_black_hole_is_down_and_then_live_again(scene: &Scene) -> Outcome {
    let (bus, link) = scene.bus_through().await?;
    is_live(&bus).await?;
    link.black_hole().await;
    // One look has to end by itself.
    let health = ends("a look at the health", NOTICED, bus.health()).await??;
    if health == Health::Live {
        return Err(Failed::new("a broker that answers nothing is live"));
    }
    is_down(&bus).await?;
    link.heal().await?;
    is_live(&bus).await
}
