//! One batch on its way: sent, sent again while that can help, and landed.
//!
//! A flight is a shared future that owns its entries. Whoever holds a clone can move it on, so
//! nobody's progress depends on another caller being polled, and a dropped caller cancels nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

const CLOSED: &str = "the bus was closed before the broker answered";
pub(super) const GONE: &str = "the runtime of the bus ended before the broker answered";

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
async fn fly(window: &Arc<Window>, cargo: Cargo) -> Landed {
    let mut aboard = Aboard { window, cargo };
    let cargo = &mut aboard.cargo;
    let mut landed = Landed::default();
    let mut pause = FIRST_PAUSE;
    loop {
        cargo.expire(window, &mut landed);
        if cargo.tickets.is_empty() {
            return landed;
        }
        let sent = AtomicBool::new(false);
        let attempt = attempt(window, cargo, &sent).await;
        let sent = sent.into_inner();
        match attempt {
            Attempt::Answered(Ok(outcomes)) => cargo.sort(window, outcomes, sent, &mut landed),
            Attempt::Answered(Err(error)) => cargo.fail(window, error, sent, &mut landed),
            Attempt::Late => cargo.doubt(sent),
            Attempt::Aborted => {
                cargo.doubt(sent);
                cargo.abandon(window, CLOSED, &mut landed);
            }
        }
        if !rest(window, cargo, &mut landed, pause).await {
            return landed;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One attempt. Whose deadline passes meanwhile is told; it ends with the last one's.
async fn attempt(window: &Arc<Window>, cargo: &mut Cargo, sent: &AtomicBool) -> Attempt {
    let Cargo { envelopes, tickets, options } = cargo;
    let answer = async {
        let destination = shielded(window.destination()).await?;
        sent.store(true, Ordering::Relaxed);
        shielded(window.broker().publish(&destination, envelopes, options)).await
    };
    tokio::pin!(answer);
    while let Some(until) = Cargo::next_deadline(tickets) {
        tokio::select! {
            biased;
            answer = &mut answer => return Attempt::Answered(answer),
            () = window.aborted().cancelled() => return Attempt::Aborted,
            () = tokio::time::sleep_until(until) => {}
        }
        if tickets.iter().all(|ticket| ticket.deadline <= until) {
            // The last one: what became of it is told with the end of the attempt.
            break;
        }
        Cargo::give_notice(tickets, window, sent.load(Ordering::Relaxed));
    }
    Attempt::Late
}

/// What is on its way. Dropped with entries only where the runtime ends under the flight.
struct Aboard<'a> {
    window: &'a Window,
    cargo: Cargo,
}

impl Drop for Aboard<'_> {
    fn drop(&mut self) {
        if !self.cargo.tickets.is_empty() {
            self.cargo.doubt(true);
            self.cargo.abandon(self.window, GONE, &mut Landed::default());
        }
    }
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
            () = window.aborted().cancelled() => cargo.abandon(window, CLOSED, landed),
            () = tokio::time::sleep_until(soonest.min(end)) => {}
        }
    }
}
