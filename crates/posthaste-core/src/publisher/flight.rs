//! One batch on its way: sent, sent again while that can help, and landed.
//!
//! A flight is a shared future that owns its entries. Whoever holds a clone can move it on, so
//! nobody's progress depends on another caller being polled, and a dropped caller cancels nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cargo::{Cargo, Landed};
use super::shared::Shared;
use super::window::Window;
use crate::Result;
use crate::broker::Outcomes;
use crate::bus::shielded;

/// A batch on its way.
pub(super) type Flight = Shared;

/// The first pause before a batch is sent again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How an attempt went.
enum Attempt {
    Answered(Result<Outcomes>),
    /// No answer came until the last deadline.
    Late,
    /// The bus's close has run out of time.
    Aborted,
}

pub(super) fn depart(window: Arc<Window>, number: u64, cargo: Cargo) -> Flight {
    Shared::new(async move {
        let landed = fly(&window, cargo).await;
        window.land(number, &landed);
    })
}

/// Sends until every entry is resolved or put back; returns what was not booked yet.
async fn fly(window: &Arc<Window>, mut cargo: Cargo) -> Landed {
    let mut landed = Landed::default();
    let mut pause = FIRST_PAUSE;
    loop {
        cargo.expire(window, &mut landed);
        let Some(until) = cargo.last_deadline() else { return landed };
        let mut sent = false;
        let attempt = tokio::select! {
            biased;
            answer = send(window, &mut cargo, &mut sent) => Attempt::Answered(answer),
            () = window.aborted().cancelled() => Attempt::Aborted,
            () = tokio::time::sleep_until(until) => Attempt::Late,
        };
        match attempt {
            Attempt::Answered(Ok(outcomes)) => cargo.sort(window, outcomes, sent, &mut landed),
            Attempt::Answered(Err(error)) => cargo.fail(window, error, sent, &mut landed),
            Attempt::Late => cargo.doubt(sent),
            Attempt::Aborted => {
                cargo.doubt(sent);
                cargo.abandon(window, &mut landed);
            }
        }
        if !rest(window, &mut cargo, &mut landed, pause).await {
            return landed;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn send(window: &Arc<Window>, cargo: &mut Cargo, sent: &mut bool) -> Result<Outcomes> {
    let destination = shielded(window.destination()).await?;
    *sent = true;
    let call = window.broker().publish(&destination, &mut cargo.envelopes, &cargo.options);
    shielded(call).await
}

/// Waits before the next attempt, and fails what meets its deadline meanwhile; `false` if nothing
/// is left to try.
async fn rest(
    window: &Arc<Window>,
    cargo: &mut Cargo,
    landed: &mut Landed,
    pause: Duration,
) -> bool {
    let jittered = pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
    let end = Instant::now() + jittered;
    loop {
        cargo.expire(window, landed);
        let Some(soonest) = cargo.first_deadline() else { return false };
        if end <= Instant::now() {
            return true;
        }
        // Who is resolved gives back its room and its key now, not when the others land.
        window.book(&std::mem::take(landed));
        tokio::select! {
            biased;
            () = window.aborted().cancelled() => cargo.abandon(window, landed),
            () = tokio::time::sleep_until(soonest.min(end)) => {}
        }
    }
}
