//! Making the server deliver again what nobody holds any more.
//!
//! An owner that died, or a connection that broke, leaves deliveries outstanding until their
//! leases end. The new owner answers them with "not handled", in the words the server itself
//! would have taken from the old one, so that they come again at once. For a message that was
//! settled meanwhile this does nothing.

use std::sync::Arc;

use async_nats::jetstream::consumer::DeliverPolicy;
use posthaste_core::Result;

use super::recovery::window_end;
use crate::error;
use crate::fetch::{self, Query};
use crate::groups;
use crate::hub::Hub;
use crate::settle::NAK;

/// What was outstanding, and asked to come again.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The last place that the server had delivered.
    pub(crate) boundary: u64,
    /// The end of the first window.
    pub(crate) window: u64,
    /// Places behind the window that may be outstanding.
    pub(crate) rest: Vec<u64>,
    /// The consumer's number of its last delivery.
    pub(crate) number: u64,
}

/// A lane whose outstanding deliveries are to come again.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) hub: Arc<Hub>,
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) filter: Option<String>,
}

/// Looks at what is outstanding, and makes the first window of it come again. `mine` is what need
/// not come, in order. `None` if nothing is outstanding.
pub(crate) async fn prepare(
    target: Target,
    mine: Vec<u64>,
    room: usize,
) -> Result<Option<Prepared>> {
    let Target { hub, stream, consumer, filter, .. } = &target;
    let info = groups::info(hub, stream, consumer).await?;
    if info.num_ack_pending == 0 {
        return Ok(None);
    }
    let boundary = info.delivered.stream_sequence;
    let start_sequence = info.ack_floor.stream_sequence + 1;
    let query = Query {
        filter: filter.clone(),
        from: DeliverPolicy::ByStartSequence { start_sequence },
        limit: usize::MAX,
        up_to: Some(boundary),
        headers_only: true,
    };
    let mut outstanding = Vec::new();
    for fetched in fetch::retained(hub, stream, query).await? {
        let place = fetched.delivered.stream_sequence;
        if mine.binary_search(&place).is_err() {
            outstanding.push(place);
        }
    }
    if outstanding.is_empty() {
        return Ok(None);
    }
    let window = window_end(&outstanding, room, boundary);
    let number = info.delivered.consumer_sequence;
    let behind = outstanding.partition_point(|place| *place <= window);
    let rest = outstanding.split_off(behind);
    nudge(&target, &outstanding, number).await?;
    Ok(Some(Prepared { boundary, window, rest, number }))
}

/// Makes these come again. Returns when the server has taken note.
pub(crate) async fn nudge(target: &Target, places: &[u64], number: u64) -> Result<()> {
    let Some((last, others)) = places.split_last() else { return Ok(()) };
    let Target { hub, stream, consumer, .. } = target;
    let subject = |place: &u64| format!("$JS.ACK.{stream}.{consumer}.1.{place}.{number}.0.0");
    for place in others {
        hub.client.publish(subject(place), NAK).await.map_err(error::send)?;
    }
    // The server takes them in order, and answers this one.
    hub.api.raw(&subject(last), NAK).await.map(drop)
}
