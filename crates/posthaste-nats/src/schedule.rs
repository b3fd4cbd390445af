//! Messages for later: the server keeps them beside the topic and moves them when it is time.

use async_nats::Subject;
use async_nats::header::{HeaderMap, NATS_MESSAGE_TTL, NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use posthaste_core::{Error, Result, Timestamp, TopicName};

use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::route::Route;
use crate::version::Version;
use crate::{names, topology};

/// How a batch is sent for later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    at: Timestamp,
    /// Without it, `max_age` ends a message that waits longer.
    outlives: bool,
}

/// `None` if nothing is to wait.
///
/// # Errors
/// `Unsupported` names the version that is needed, or the stream that does not take such
/// messages.
pub(crate) async fn plan(hub: &Hub, route: &Route, at: Option<Timestamp>) -> Result<Option<Plan>> {
    let Some(at) = at else { return Ok(None) };
    if route.is_bound() {
        return Err(
            Error::unsupported("a bound topic takes no messages for later").with_broker(BROKER)
        );
    }
    let server = hub.client.server_info().version;
    if Version::read(&server) < Version::SCHEDULES {
        return Err(error::too_old("messages for later", "2.12", &server));
    }
    let known = match hub.known(&route.topic) {
        Some(known) => known,
        None => {
            topology::describe(hub, &route.topic).await?;
            let known = hub.known(&route.topic);
            known.ok_or_else(|| error::no_stream().with_topic(&route.topic))?
        }
    };
    if !known.schedules {
        return Err(Error::unsupported(
            "the stream was created without messages for later, by an older server",
        )
        .with_context("stream", route.stream())
        .with_broker(BROKER));
    }
    let wait = at.since(Timestamp::now());
    if wait.is_zero() {
        return Ok(None);
    }
    if let (false, Some(max_age)) = (known.message_ttl, known.max_age)
        && wait >= max_age
    {
        return Err(Error::unsupported("the message would expire before its time")
            .with_context("max_age in s", max_age.as_secs())
            .with_broker(BROKER));
    }
    Ok(Some(Plan { at, outlives: known.message_ttl }))
}

impl Plan {
    /// Adds what makes the message wait. Returns where it waits.
    pub(crate) fn apply(
        self,
        topic: &TopicName,
        target: &Subject,
        headers: &mut HeaderMap,
    ) -> Subject {
        headers.insert(NATS_SCHEDULE, format!("@at {}", self.at));
        headers.insert(NATS_SCHEDULE_TARGET, target.as_str());
        if self.outlives {
            headers.insert(NATS_MESSAGE_TTL, "never");
        }
        names::schedule_subject(topic, &format!("{:032x}", fastrand::u128(..)))
    }
}
