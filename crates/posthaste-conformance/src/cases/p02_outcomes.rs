//! P2: a batch reports each entry, and what is unknown may be published again with the same id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{Destination, SendOptions};
use posthaste_core::{Envelope, ErrorKind, Layout, Receipt, Topology};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::load::Load;
use crate::receive::{distinct, handle, handle_all, nothing, rest, take};
use crate::scene::Scene;
use crate::scripted::{Scripted, Step};
use crate::send::{ends, numbered, publish, sized, topic_with, up_to};

cases![P2;
    Claim a_confirmation_is_that_of_its_entry;
    Claim an_entry_that_is_refused_leaves_the_rest_alone
        when |can| can.max_message_bytes.is_some();
    Edge an_adapter_refuses_entries_one_by_one when |can| can.max_message_bytes.is_some();
    Edge a_failed_publish_is_reported_as_failed;
    Edge an_unknown_outcome_is_sent_again_with_the_same_id;
    Edge refused_entries_are_not_sent_again;
    Edge more_than_the_native_batch_is_reported_entry_by_entry;
    Edge outcomes_beside_a_topic_that_is_not_there_do_not_mix;
    Fault entries_in_flight_at_a_cut_are_all_resolved, needs [Cut];
    Fault a_full_window_at_a_cut_is_all_resolved, needs [Cut];
];

/// The outcome at an index is that of the message at that index: by id, and by where it lies.
async fn a_confirmation_is_that_of_its_entry(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let confirmed = publish(&bus.publisher(&topic)?, 0..40).await?;
    for (number, confirmed) in confirmed.iter().enumerate() {
        ensure_eq!(confirmed.id(), format!("m-{number}"), "the id of outcome {number}");
    }
    let deliveries = take(&mut inbox, 40, scene.patience()).await?;
    let found: HashMap<&str, _> =
        deliveries.iter().map(|delivery| (delivery.id(), delivery)).collect();
    for confirmed in &confirmed {
        let Some(delivery) = found.get(confirmed.id()) else { continue };
        if let (Some(said), Some(there)) = (confirmed.offset(), delivery.offset()) {
            ensure_eq!(there, said, "the offset of {}", confirmed.id());
        }
        if let (Some(said), Some(there)) = (confirmed.partition(), delivery.partition()) {
            ensure_eq!(there, said, "the partition of {}", confirmed.id());
        }
    }
    ensure_eq!(found.len(), 40, "different messages");
    Ok(())
}

/// Every third entry is too large for the broker; exactly those fail, and certainly so.
async fn an_entry_that_is_refused_leaves_the_rest_alone(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let limit = bus.capabilities(Some(&topic))?.max_message_bytes.unwrap_or(1 << 20);
    let is_large = |number: usize| number % 3 == 1;
    let message = |number| sized(number, if is_large(number) { limit + 1 } else { 10 });
    let batch: Vec<Envelope> = (0..9).map(message).collect();
    let report = bus.publisher(&topic)?.publish_all_envelopes(batch).await;
    for (number, outcome) in report.outcomes().iter().enumerate() {
        match outcome {
            Ok(confirmed) => {
                ensure!(!is_large(number), "entry {number} is too large and was confirmed");
                ensure_eq!(confirmed.id(), format!("m-{number}"), "the id of outcome {number}");
            }
            Err(error) => {
                ensure!(is_large(number), "entry {number} failed with the others: {error:?}");
                ensure_eq!(error.kind(), ErrorKind::TooLarge, "entry {number}");
                ensure!(!error.may_be_stored(), "what is too large is certainly not stored");
            }
        }
    }
    let small: BTreeSet<usize> = (0..9).filter(|number| !is_large(*number)).collect();
    let handled = handle(&mut inbox, small.len(), scene.patience()).await?;
    ensure_eq!(distinct(&handled)?, small, "what was stored");
    Ok(())
}

/// By the adapter's own call, without core that would refuse before.
async fn an_adapter_refuses_entries_one_by_one(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let broker = scene.broker().await?;
    let name = scene.topic_name()?;
    let limit = broker.capabilities(Some(&name)).max_message_bytes.unwrap_or(1 << 20);
    let to = Destination::new(name, Layout::Plain, false);
    let is_large = |number: usize| number % 3 == 1;
    // Far enough above the limit that no reserve of the adapter hides it.
    let message = |number| sized(number, if is_large(number) { 2 * limit } else { 10 });
    let mut batch: Vec<Envelope> = (0..9).map(message).collect();
    let outcomes = broker.publish(&to, &mut batch, &SendOptions::default()).await?;
    ensure_eq!(outcomes.len(), 9, "outcomes of a batch");
    for (number, outcome) in outcomes.into_iter().enumerate() {
        if is_large(number) {
            let error = refused(outcome, &[ErrorKind::TooLarge], &format!("entry {number}"))?;
            ensure!(!error.may_be_stored(), "what is too large is certainly not stored");
        } else {
            outcome?;
        }
    }
    let small: BTreeSet<usize> = (0..9).filter(|number| !is_large(*number)).collect();
    let handled = handle(&mut inbox, small.len(), scene.patience()).await?;
    ensure_eq!(distinct(&handled)?, small, "what was stored");
    Ok(())
}

/// There is no such topic and the application takes it for granted: nothing confirms that.
async fn a_failed_publish_is_reported_as_failed(scene: &Scene) -> Outcome {
    let bus = scene.builder().await?.topology(Topology::Assume).build()?;
    let publisher = bus.publisher(scene.topic())?;
    let outcomes = publisher.publish_all_envelopes((0..3).map(numbered).collect()).await;
    for outcome in outcomes.into_outcomes() {
        let kinds = [ErrorKind::NotFound, ErrorKind::Unroutable];
        let error = refused(outcome, &kinds, "a publish to a topic that does not exist")?;
        ensure!(!error.may_be_stored(), "it is certainly not stored: {error:?}");
    }
    Ok(())
}

/// The answers to a first try are lost. Each entry is sent once more, with its id, and then
/// confirmed; a consumer that tells duplicates by id sees each message once.
async fn an_unknown_outcome_is_sent_again_with_the_same_id(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let bus = scene.bus().await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let lost = |call: usize, _: &Envelope| if call == 0 { Step::LoseReply } else { Step::Pass };
    let scripted = Scripted::new(scene.broker().await?, lost);
    let sender = Scene::bus_over(Arc::clone(&scripted) as _).build()?;
    let confirmed = sender.publisher(&topic)?.publish_envelope(numbered(0)).await?;
    ensure_eq!(confirmed.id(), "m-0", "the id of the confirmation");
    ensure_eq!(scripted.sent(), ["m-0", "m-0"], "what was sent");

    let mut arrived = take(&mut inbox, 1, scene.patience()).await?;
    arrived.extend(rest(&mut inbox, scene.quiet()).await?);
    ensure!(arrived.len() <= 2, "{} copies of a message that was sent twice", arrived.len());
    for delivery in &arrived {
        ensure_eq!(delivery.id(), "m-0", "the id of a copy");
    }
    Ok(())
}

/// A reason that stays ends an entry at once; a reason that passes is tried again; both in one
/// batch.
async fn refused_entries_are_not_sent_again(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let bus = scene.bus().await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let script = |call: usize, entry: &Envelope| match entry.id() {
        "m-1" => Step::Refuse,
        "m-2" if call <= 1 => Step::Reject,
        _ => Step::Pass,
    };
    let scripted = Scripted::new(scene.broker().await?, script);
    let sender = Scene::bus_over(Arc::clone(&scripted) as _).build()?;
    let publisher = sender.publisher(&topic)?;
    let report = publisher.publish_all_envelopes((0..4).map(numbered).collect()).await;
    let failed: Vec<usize> = report.failures().map(|(index, _)| index).collect();
    ensure_eq!(failed, [1], "the entries that failed");
    let mut tries = BTreeMap::new();
    scripted.sent().into_iter().for_each(|id| *tries.entry(id).or_insert(0) += 1);
    ensure_eq!(tries.get("m-1"), Some(&1), "how often the refused entry was sent");
    ensure!(tries.get("m-2").is_some_and(|tries| *tries > 1), "it was not tried again: {tries:?}");
    ensure_eq!(tries.get("m-3"), Some(&1), "how often a confirmed entry was sent");
    let handled = handle(&mut inbox, 3, scene.patience()).await?;
    ensure_eq!(distinct(&handled)?, BTreeSet::from([0, 2, 3]), "what was stored");
    Ok(())
}

async fn more_than_the_native_batch_is_reported_entry_by_entry(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let count = bus.capabilities(Some(&topic))?.max_batch.min(1_000) + 37;
    let confirmed = publish(&bus.publisher(&topic)?, 0..count).await?;
    for (number, confirmed) in confirmed.iter().enumerate() {
        ensure_eq!(confirmed.id(), format!("m-{number}"), "the id of outcome {number}");
    }
    let handled = handle_all(&mut inbox, &up_to(count), scene.patience()).await?;
    distinct(&handled)?;
    Ok(())
}

/// Cut while messages are on their way, several times. Every publish ends; what is confirmed is
/// there, and no message is there that was reported as certainly not stored.
async fn entries_in_flight_at_a_cut_are_all_resolved(scene: &Scene) -> Outcome {
    let (topic, group) = (scene.topic(), scene.group("a"));
    let (bus, link) = scene.bus_through().await?;
    topic_with(&bus, &topic, &[&group]).await?;
    let load = Load::start(&bus.publisher(&topic)?, 0, Duration::from_secs(15));
    for _ in 0..3 {
        load.goes_on(100, scene.patience()).await?;
        link.cut().await;
    }
    load.goes_on(100, scene.patience()).await?;
    let (confirmed, failed) = load.stop(Duration::from_secs(20)).await?;
    let after = scene.bus().await?;
    let mut inbox = after.subscribe(&topic).group(&group).start().await?;
    let mut handled = handle_all(&mut inbox, &confirmed, scene.patience()).await?;
    for delivery in rest(&mut inbox, scene.quiet()).await? {
        handled.push(crate::send::number(delivery.envelope())?);
    }
    let certainly_not = failed.iter().filter(|(_, error)| !error.may_be_stored());
    for (number, error) in certainly_not {
        ensure!(!handled.contains(number), "{number} arrived, but was reported as {error:?}");
    }
    Ok(())
}

/// Eight tasks publish by one connection, each fourth message to a topic that is not there. Each
/// hears of its own message: those fail, and all others are stored.
async fn outcomes_beside_a_topic_that_is_not_there_do_not_mix(scene: &Scene) -> Outcome {
    const TASKS: usize = 8;
    const COUNT: usize = 320;
    let is_lost = |number: usize| (number / TASKS) % 4 == 3;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let owner = scene.bus().await?;
    let mut inbox = owner.subscribe(&topic).group(&group).start().await?;
    let bus = scene.builder().await?.topology(Topology::Assume).build()?;
    let (there, gone) = (bus.publisher(&topic)?, bus.publisher(scene.topic_called("gone"))?);
    // Tasks of their own, so that they publish at the same time and not by turns.
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (there, gone) = (there.clone(), gone.clone());
        tasks.spawn(async move {
            for number in (task..COUNT).step_by(TASKS) {
                if is_lost(number) {
                    let outcome = gone.publish_envelope(numbered(number)).await;
                    let kinds = [ErrorKind::NotFound, ErrorKind::Unroutable];
                    let error = refused(outcome, &kinds, "a publish to nothing")?;
                    ensure!(!error.may_be_stored(), "it is certainly not stored: {error:?}");
                } else {
                    let confirmed = there.publish_envelope(numbered(number)).await?;
                    ensure_eq!(confirmed.id(), format!("m-{number}"), "the id of an outcome");
                }
            }
            Ok::<_, Failed>(())
        });
    }
    let joining = async {
        while let Some(joined) = tasks.join_next().await {
            joined.map_err(|error| Failed::new(format!("a task: {error}")))??;
        }
        Ok::<_, Failed>(())
    };
    ends("publishing", scene.patience() * 2, joining).await??;
    let wanted: BTreeSet<usize> = (0..COUNT).filter(|number| !is_lost(*number)).collect();
    let handled = handle(&mut inbox, wanted.len(), scene.patience()).await?;
    ensure_eq!(distinct(&handled)?, wanted, "what was stored");
    nothing(&mut inbox, scene.quiet()).await
}

/// As many as a window holds are on their way when the connection is cut, three times. Every
/// receipt ends; what is confirmed is there, and what is certainly not stored is not.
async fn a_full_window_at_a_cut_is_all_resolved(scene: &Scene) -> Outcome {
    const WINDOW: usize = 1_000;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let (bus, link) = scene.bus_through().await?;
    topic_with(&bus, &topic, &[&group]).await?;
    let publisher = bus.publisher(&topic)?;
    let (mut confirmed, mut certainly_not) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..3 {
        let mut receipts: Vec<(usize, Receipt)> = Vec::with_capacity(WINDOW);
        for number in round * WINDOW..(round + 1) * WINDOW {
            let enqueuing = publisher.enqueue_envelope(numbered(number));
            receipts.push((number, ends("an enqueue", scene.patience(), enqueuing).await??));
        }
        link.cut().await;
        let resolving = async {
            for (number, receipt) in receipts {
                match receipt.await {
                    Ok(receipt) => {
                        ensure_eq!(receipt.id(), format!("m-{number}"), "the id of a receipt");
                        confirmed.insert(number);
                    }
                    Err(error) if error.may_be_stored() => {}
                    Err(_) => {
                        certainly_not.insert(number);
                    }
                }
            }
            Ok::<_, Failed>(())
        };
        // A publish ends within 30 s.
        ends("a thousand receipts", scene.patience() * 2, resolving).await??;
    }
    ensure!(!confirmed.is_empty(), "nothing was confirmed, also when the connection was back");
    let after = scene.bus().await?;
    let mut inbox = after.subscribe(&topic).group(&group).start().await?;
    let mut handled = handle_all(&mut inbox, &confirmed, scene.patience()).await?;
    for delivery in rest(&mut inbox, scene.quiet()).await? {
        handled.push(crate::send::number(delivery.envelope())?);
    }
    for number in certainly_not {
        ensure!(!handled.contains(&number), "{number} arrived, and was denied");
    }
    Ok(())
}
