//! Waiting at the broker: levels of 1, 2, 4, … units, which all topics share.
//!
//! Each level is a queue whose messages expire after its time and go on to the next level's
//! exchange by dead-lettering. The routing key begins with a word for each level, `1` where the
//! message has to wait, so that a message passes only the levels that its delay is made of. Queues
//! with one time each let short delays pass long ones; a time of each message's own would not,
//! because a queue looks only at its head.

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::types::{FieldTable, ShortString};
use posthaste_core::{Error, Result};

use crate::arguments;
use crate::declare::Desk;
use crate::error::BROKER;
use crate::hub::Hub;
use crate::names::{self, LEVELS};
use crate::outgoing::short;

/// The time of the first level. A message is late by less than that, and by a moment a hop.
const UNIT: Duration = Duration::from_millis(250);

/// The longest delay there is: all levels.
pub(crate) const LONGEST: Duration = UNIT.saturating_mul((1 << LEVELS) - 1);

/// Where a message goes that has to wait so long before it goes on to the end of `to`.
///
/// # Errors
/// `Unsupported` for more than [`LONGEST`].
pub(crate) fn route(delay: Duration, to: &str) -> Result<(ShortString, ShortString)> {
    let units = delay.as_millis().div_ceil(UNIT.as_millis()).max(1);
    let units = u32::try_from(units).ok().filter(|units| *units < 1 << LEVELS);
    let Some(units) = units else {
        return Err(Error::unsupported("a message cannot wait so long here")
            .with_context("seconds", delay.as_secs())
            .with_context("limit in seconds", LONGEST.as_secs())
            .with_broker(BROKER));
    };
    let mut key = String::with_capacity(2 * LEVELS + to.len());
    for level in (0..LEVELS).rev() {
        key.push_str(if units >> level & 1 == 1 { "1." } else { "0." });
    }
    key.push_str(to);
    let first = usize::try_from(units.ilog2()).unwrap_or_default();
    Ok((ShortString::from(names::delay_level(first)), short("routing key", key)?))
}

/// What binds the end of a route to where messages come out.
pub(crate) fn arrival(to: &str) -> String {
    "*.".repeat(LEVELS) + to
}

/// Makes the levels, unless they are known to be there.
///
/// # Errors
/// `Auth`, `Conflict`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Cancel safe: what is missing is made by the next call.
pub(crate) async fn ensure(hub: &Hub) -> Result<()> {
    let mut made = hub.delays.lock().await;
    if *made {
        return Ok(());
    }
    let mut desk = Desk::new(hub);
    if !desk.has_exchange(names::DELAYS_MADE).await? {
        make(&mut desk).await?;
    }
    desk.close().await;
    *made = true;
    Ok(())
}

async fn make(desk: &mut Desk<'_>) -> Result<()> {
    let topic = || ExchangeKind::Topic;
    desk.exchange(names::STRAYS, ExchangeKind::Fanout, FieldTable::default()).await?;
    desk.queue(names::STRAYS, arguments::strays()).await?;
    desk.bind(names::STRAYS, names::STRAYS, "").await?;
    // A message whose group is gone must not hold up its level for ever.
    desk.exchange(names::DELIVER, topic(), arguments::alternate(names::STRAYS)).await?;
    for level in 0..LEVELS {
        let name = names::delay_level(level);
        let next = match level.checked_sub(1) {
            Some(next) => names::delay_level(next),
            None => names::DELIVER.to_owned(),
        };
        let millis = i64::try_from(UNIT.as_millis()).unwrap_or(i64::MAX) << level;
        desk.exchange(&name, topic(), FieldTable::default()).await?;
        desk.queue(&name, arguments::delay(millis, &next)).await?;
        let word = "*.".repeat(LEVELS - 1 - level);
        desk.bind(&name, &name, &format!("{word}1.#")).await?;
        desk.bind_exchange(&next, &name, &format!("{word}0.#")).await?;
    }
    // The last: who sees it needs not look for the others.
    desk.exchange(names::DELAYS_MADE, ExchangeKind::Fanout, FieldTable::default()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How long a message waits that is sent by that route, and where it comes out.
    fn walk(exchange: &str, key: &str) -> (Duration, String) {
        let words: Vec<&str> = key.split('.').collect();
        let first: usize = exchange.rsplit('_').next().unwrap().parse().unwrap();
        let mut waited = Duration::ZERO;
        for level in (0..=first).rev() {
            if words[LEVELS - 1 - level] == "1" {
                waited += UNIT * (1 << level);
            }
        }
        (waited, words[LEVELS..].join("."))
    }

    proptest! {
        #[test]
        fn a_message_waits_as_long_as_it_has_to(millis in 0_u64..1_048_575_000) {
            let delay = Duration::from_millis(millis);
            let (exchange, key) = route(delay, "q.life.orders__billing").unwrap();
            let (waited, to) = walk(exchange.as_str(), key.as_str());
            prop_assert!(waited >= delay && waited <= delay + UNIT, "{waited:?}");
            prop_assert_eq!(to, "q.life.orders__billing");
        }
    }

    #[test]
    fn the_longest_delay_has_a_route_and_more_has_none() {
        route(LONGEST, "t.x").unwrap();
        assert!(route(LONGEST + Duration::from_millis(1), "t.x").is_err());
        assert!(LONGEST > Duration::from_secs(12 * 86_400));
    }
}
