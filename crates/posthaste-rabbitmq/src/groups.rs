//! Groups: a queue, or one for each partition, with dead letters and marks beside it.

use posthaste_core::{Difference, GroupName, Layout, Result, TopicName, Topology};

use crate::arguments::{self, Wish};
use crate::declare::Desk;
use crate::error;
use crate::hub::Hub;
use crate::{delay, names, registry, unrouted};

/// The queues of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queues {
    /// Its own: on a plain topic all messages, on an ordered one what has no partition, and its
    /// private channel.
    pub(crate) own: String,
    /// Those of its partitions.
    pub(crate) lanes: Vec<String>,
}

/// What the queues of a group are called.
pub(crate) fn queues(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    layout: Layout,
    queue: bool,
) -> Queues {
    let own = hub.bound_queue(topic, group);
    let own = own.unwrap_or_else(|| names::queue(topic, group, queue));
    let lanes = layout.partitions().map_or_else(Vec::new, |n| {
        (0..n).map(|partition| names::lane_queue(topic, group, n, partition)).collect()
    });
    Queues { own, lanes }
}

/// Finds the group, and creates what is missing of it under [`Topology::Create`]. Returns how what
/// exists differs.
///
/// # Errors
/// `NotFound` if it does not exist and is not to be created.
pub(crate) async fn ensure(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    layout: Layout,
    queue: bool,
    topology: Topology,
    keep_unrouted: bool,
) -> Result<Vec<Difference>> {
    if topology == Topology::Assume {
        return Ok(Vec::new());
    }
    if topology != Topology::Create {
        let mut desk = Desk::new(hub);
        let Queues { own, lanes } = queues(hub, topic, group, layout, queue);
        for name in std::iter::once(own).chain(lanes) {
            if desk.queue_state(&name).await?.is_none() {
                return Err(error::no_group().with_context("queue", name));
            }
        }
        desk.close().await;
        return Ok(Vec::new());
    }
    delay::ensure(hub).await?;
    let mut desk = Desk::new(hub);
    let wish = Wish { replicas: hub.known(topic).and_then(|known| known.spec?.replicas) };
    let declared = declare(hub, &mut desk, topic, group, layout, queue, wish).await;
    let made = match declared {
        Ok(made) => made,
        Err(error) => {
            desk.close().await;
            return Err(error);
        }
    };
    if !queue {
        let bound = bind(hub, &mut desk, topic, group, layout, made.is_new && !keep_unrouted).await;
        desk.close().await;
        bound?;
    } else {
        desk.close().await;
    }
    Ok(made.differences)
}

/// What came of declaring a group.
pub(crate) struct Made {
    pub(crate) is_new: bool,
    pub(crate) differences: Vec<Difference>,
}

/// Declares the queues of a group, without binding them to the topic.
pub(crate) async fn declare(
    hub: &Hub,
    desk: &mut Desk<'_>,
    topic: &TopicName,
    group: &GroupName,
    layout: Layout,
    queue: bool,
    wish: Wish,
) -> Result<Made> {
    let (kind, said) = (hub.settings.queue_type, &hub.settings.queue_arguments);
    let Queues { own, lanes } = queues(hub, topic, group, layout, queue);
    let letters = names::dead_letters(topic, group);
    let mut differences = Vec::new();
    let is_bound = hub.bound_queue(topic, group).is_some();
    let found = desk.queue_state(&own).await?;
    if is_bound && found.is_none() {
        return Err(error::no_group().with_context("queue", own));
    }
    // Before the queue that sends to them: a dead letter without a place is dropped.
    differences.extend(desk.queue(&letters, arguments::kept(wish)).await?);
    if !is_bound {
        let arguments = arguments::group(kind, &letters, false, wish, said);
        differences.extend(desk.queue(&own, arguments).await?);
    }
    for lane in &lanes {
        let arguments = arguments::group(kind, &letters, true, wish, said);
        differences.extend(desk.queue(lane, arguments).await?);
    }
    if found.is_none() {
        // Before it gets messages: a group that is not in the records is deleted by nobody.
        registry::add(hub, topic, group).await?;
    }
    let life = desk.mark(&names::life_mark(topic, group), &new_life()).await?;
    hub.learn_life(&own, &life);
    let arrival = delay::arrival(&names::to_queue(&short_name(&own), &life));
    desk.bind(&own, names::DELIVER, &arrival).await?;
    Ok(Made { is_new: found.is_none(), differences })
}

fn new_life() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// A name that is bound may be as long as a key: it is cut, since the life tells it apart.
fn short_name(queue: &str) -> String {
    let mut end = queue.len().min(160);
    while !queue.is_char_boundary(end) {
        end -= 1;
    }
    queue[..end].to_owned()
}

/// Where a message goes that waits for that queue.
pub(crate) async fn private_route(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    queue: &str,
) -> Result<String> {
    let life = match hub.life(queue) {
        Some(life) => life,
        None => find_life(hub, topic, group, queue).await?,
    };
    Ok(names::to_queue(&short_name(queue), &life))
}

async fn find_life(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    queue: &str,
) -> Result<std::sync::Arc<str>> {
    let mut desk = Desk::new(hub);
    delay::ensure(hub).await?;
    let life = desk.mark(&names::life_mark(topic, group), &new_life()).await?;
    let arrival = delay::arrival(&names::to_queue(&short_name(queue), &life));
    desk.bind(queue, names::DELIVER, &arrival).await?;
    desk.close().await;
    hub.learn_life(queue, &life);
    Ok(life.into())
}

/// Binds the queues of a group to the topic. Before the first of them is bound it gets what no
/// group got, and after it what came in between.
async fn bind(
    hub: &Hub,
    desk: &mut Desk<'_>,
    topic: &TopicName,
    group: &GroupName,
    layout: Layout,
    takes_unrouted: bool,
) -> Result<()> {
    let Queues { own, lanes } = queues(hub, topic, group, layout, false);
    if let Some(binding) = hub.binding(topic) {
        if hub.bound_queue(topic, group).is_some() {
            return Ok(());
        }
        let (exchange, key) = (&binding.exchange, binding.binding_key());
        return desk.bind_with(&own, exchange, key, binding.arguments()).await;
    }
    if takes_unrouted {
        unrouted::drain(hub, topic, layout, &own, &lanes).await?;
    }
    desk.bind(&own, &names::exchange(topic), "#").await?;
    if let Some(n) = layout.partitions() {
        let exchange = names::lanes_exchange(topic, n);
        for (partition, lane) in (0..n).zip(&lanes) {
            desk.bind(lane, &exchange, &format!("#.p{partition}")).await?;
        }
    }
    if takes_unrouted {
        unrouted::drain(hub, topic, layout, &own, &lanes).await?;
    }
    Ok(())
}

/// The lease of the group: that of the first who said one. A difference is what was asked for.
pub(crate) async fn lease(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    wanted: std::time::Duration,
    topology: Topology,
) -> Result<(std::time::Duration, Option<Difference>)> {
    let name = names::lease_mark(topic, group);
    let mut desk = Desk::new(hub);
    if topology != Topology::Create && !desk.has_exchange(&name).await? {
        desk.close().await;
        return Ok((wanted, None));
    }
    let kept = desk.mark(&name, &format!("{}ms", wanted.as_millis())).await?;
    desk.close().await;
    let millis = kept.strip_suffix("ms").and_then(|number| number.parse().ok());
    let found = millis.map_or(wanted, std::time::Duration::from_millis);
    let differs = found.as_millis() != wanted.as_millis();
    let difference = differs
        .then(|| Difference::new("lease", format_args!("{wanted:?}"), format_args!("{found:?}")));
    Ok((if differs { found } else { wanted }, difference))
}

/// Deletes the group. Its dead letters stay.
pub(crate) async fn delete(
    hub: &Hub,
    desk: &mut Desk<'_>,
    topic: &TopicName,
    group: &GroupName,
    layout: Layout,
    queue: bool,
) -> Result<()> {
    let Queues { own, lanes } = queues(hub, topic, group, layout, queue);
    hub.forget_life(&own);
    if let Some(life) = desk.word(&names::life_mark(topic, group)).await? {
        // Before the queue goes. A level waits three minutes for the confirmation of a queue that
        // was deleted just as a message came out, and 32 of these hold up everybody's.
        let arrival = delay::arrival(&names::to_queue(&short_name(&own), &life));
        desk.unbind(&own, names::DELIVER, &arrival).await?;
    }
    // Without its mark the next one of the name is another life: what waits for this one strays.
    desk.delete_exchange(&names::life_mark(topic, group)).await?;
    desk.delete_exchange(&names::lease_mark(topic, group)).await?;
    if hub.bound_queue(topic, group).is_none() {
        for name in std::iter::once(&own).chain(&lanes) {
            desk.delete_queue(name).await?;
        }
    }
    Ok(())
}
