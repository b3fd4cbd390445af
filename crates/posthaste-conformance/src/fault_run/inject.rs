//! Breaking things, and making them whole again.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::Result;

use super::plan::{Fault, FaultKind};
use super::stage::Stage;
use crate::harness::Link;

/// Breaks it for its length, and returns when nothing is broken any more. Says what was broken.
pub(super) async fn inject(stage: &Stage, fault: &Fault) -> Result<String> {
    let instance = &*stage.instance;
    match fault.kind {
        FaultKind::Kill => {
            instance.kill().await?;
            last(fault.length).await;
            instance.start().await?;
        }
        FaultKind::Restart => {
            instance.stop().await?;
            last(fault.length).await;
            instance.start().await?;
        }
        FaultKind::Pause => {
            instance.pause().await?;
            last(fault.length).await;
            instance.resume().await?;
        }
        FaultKind::Cut | FaultKind::BlackHole | FaultKind::HalfOpen => {
            let links = chosen(stage.links_in_use(), fault.pick);
            for link in &links {
                break_link(&**link, fault).await;
            }
            last(fault.length).await;
            for link in &links {
                link.heal().await?;
            }
            return Ok(format!("{} links", links.len()));
        }
    }
    Ok(instance.hit())
}

async fn break_link(link: &dyn Link, fault: &Fault) {
    match fault.kind {
        FaultKind::BlackHole => link.black_hole().await,
        FaultKind::HalfOpen => link.half_open(fault.lost).await,
        _ if fault.length.is_zero() => link.cut().await,
        _ => link.refuse().await,
    }
}

/// All of them, or one.
fn chosen(links: Vec<Arc<dyn Link>>, pick: usize) -> Vec<Arc<dyn Link>> {
    if pick.is_multiple_of(2) {
        return links;
    }
    let one = (pick / 2) % links.len().max(1);
    links.into_iter().skip(one).take(1).collect()
}

/// The length of an outage is the fault itself: this waits, and does not wait *for* anything.
async fn last(length: Duration) {
    tokio::time::sleep(length).await;
}
