//! Receiving in cases: so many, or nothing for a while, always with a bound.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join_all;
use posthaste_core::{Delivery, Error, ErrorKind, Sharing, Subscription, SubscriptionEvent};
use tokio::time::{Instant, timeout, timeout_at};

use crate::failure::{Failed, Outcome};
use crate::send;

/// The next delivery.
#[track_caller]
pub(crate) fn one(
    inbox: &mut Subscription,
    within: Duration,
) -> impl Future<Output = Outcome<Delivery>> {
    let place = Failed::new(String::new());
    async move {
        match timeout(within, inbox.next()).await {
            Ok(Some(delivery)) => Ok(delivery?),
            Ok(None) => Err(place.saying("the subscription ended instead of a delivery")),
            Err(_) => Err(place.saying(format!("no delivery within {within:?}"))),
        }
    }
}

/// The prefetch of a member that holds one delivery for too long. What is held keeps its place; so
/// there is no other one, but where the member itself gets what comes again.
pub(crate) fn places(sharing: Sharing) -> usize {
    if sharing == Sharing::Lanes { 2 } else { 1 }
}

/// What comes again when a lease has ended: to the other member where a group shares messages, and
/// where it shares lanes to the one that has the lane.
#[track_caller]
pub(crate) fn again(
    sharing: Sharing,
    holder: &mut Subscription,
    other: &mut Subscription,
    within: Duration,
) -> impl Future<Output = Outcome<Delivery>> {
    let place = Failed::new(String::new());
    async move {
        let next = async {
            tokio::select! {
                next = holder.next(), if sharing == Sharing::Lanes => next,
                next = other.next() => next,
            }
        };
        match timeout(within, next).await {
            Ok(Some(delivery)) => Ok(delivery?),
            Ok(None) => Err(place.saying("a subscription ended, and nothing came again")),
            Err(_) => Err(place.saying(format!("nothing came again within {within:?}"))),
        }
    }
}

/// So many deliveries, which stay unsettled.
#[track_caller]
pub(crate) fn take(
    inbox: &mut Subscription,
    count: usize,
    within: Duration,
) -> impl Future<Output = Outcome<Vec<Delivery>>> {
    let place = Failed::new(String::new());
    async move {
        let end = Instant::now() + within;
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match timeout_at(end, inbox.next()).await {
                Ok(Some(delivery)) => taken.push(delivery?),
                Ok(None) => {
                    let got = taken.len();
                    return Err(place.saying(format!("the end after {got} of {count} deliveries")));
                }
                Err(_) => {
                    let ids: Vec<&str> = taken.iter().map(Delivery::id).take(20).collect();
                    let got = taken.len();
                    return Err(place.saying(format!(
                        "{got} of {count} deliveries within {within:?}, of them {ids:?}"
                    )));
                }
            }
        }
        Ok(taken)
    }
}

/// Takes and acknowledges so many, and returns their numbers in the order of arrival.
pub(crate) async fn handle(
    inbox: &mut Subscription,
    count: usize,
    within: Duration,
) -> Outcome<Vec<usize>> {
    let end = Instant::now() + within;
    let mut numbers = Vec::with_capacity(count);
    while numbers.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        let delivery = one(inbox, left).await.map_err(|failed| {
            failed.saying(format!("{} of {count} handled within {within:?}", numbers.len()))
        })?;
        numbers.push(send::number(delivery.envelope())?);
        delivery.ack().await?;
    }
    Ok(numbers)
}

/// Has two members take and acknowledge so many together; returns the numbers of each.
pub(crate) async fn handle_both(
    first: &mut Subscription,
    second: &mut Subscription,
    count: usize,
    within: Duration,
) -> Outcome<(Vec<usize>, Vec<usize>)> {
    let work = async {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (delivery, handled) = tokio::select! {
                Some(delivery) = first.next() => (delivery?, &mut ours),
                Some(delivery) = second.next() => (delivery?, &mut theirs),
                else => return Err(Failed::new("a member ended")),
            };
            handled.push(send::number(delivery.envelope())?);
            delivery.ack().await?;
        }
        Ok((ours, theirs))
    };
    send::ends("handling by two members", within, work).await?
}

/// Takes and acknowledges until every wanted number was there; returns all numbers in the order of
/// arrival. Others, and repetitions, are the caller's to judge.
pub(crate) async fn handle_all(
    inbox: &mut Subscription,
    wanted: &BTreeSet<usize>,
    within: Duration,
) -> Outcome<Vec<usize>> {
    let end = Instant::now() + within;
    let mut missing = wanted.clone();
    let mut numbers = Vec::new();
    while !missing.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let delivery = one(inbox, left).await.map_err(|failed| {
            let some: Vec<_> = missing.iter().take(20).collect();
            failed.saying(format!("{} are missing after {within:?}: {some:?}", missing.len()))
        })?;
        let number = send::number(delivery.envelope())?;
        missing.remove(&number);
        numbers.push(number);
        delivery.ack().await?;
    }
    Ok(numbers)
}

/// Everything until nothing more comes for that long; deliveries stay unsettled.
pub(crate) async fn rest(inbox: &mut Subscription, quiet: Duration) -> Outcome<Vec<Delivery>> {
    let mut taken = Vec::new();
    while let Ok(next) = timeout(quiet, inbox.next()).await {
        match next {
            Some(delivery) => taken.push(delivery?),
            None => break,
        }
    }
    Ok(taken)
}

/// Nothing arrives for that long. The clock is the measure: a slow machine only weakens it.
#[track_caller]
pub(crate) fn nothing(inbox: &mut Subscription, quiet: Duration) -> impl Future<Output = Outcome> {
    let place = Failed::new(String::new());
    async move {
        match timeout(quiet, inbox.next()).await {
            Err(_) | Ok(None) => Ok(()),
            Ok(Some(Err(error))) => {
                Err(place.saying(format!("the subscription failed: {error:?}")))
            }
            Ok(Some(Ok(delivery))) => Err(place.saying(format!(
                "nothing was to come, but {} did, attempt {}",
                delivery.id(),
                delivery.attempt()
            ))),
        }
    }
}

/// Nothing arrives for that long but copies of that one message, which are acknowledged.
pub(crate) async fn only(inbox: &mut Subscription, id: &str, quiet: Duration) -> Outcome {
    for delivery in rest(inbox, quiet).await? {
        if delivery.id() != id {
            return Err(Failed::new(format!("nothing but {id} was to come: {}", delivery.id())));
        }
        delivery.ack().await?;
    }
    Ok(())
}

/// The end of a subscription that fails: its error, after which there is nothing.
pub(crate) async fn end(inbox: &mut Subscription, within: Duration) -> Outcome<Error> {
    let until = Instant::now() + within;
    loop {
        match timeout_at(until, inbox.next()).await {
            Ok(Some(Ok(delivery))) => delivery.ack().await?,
            Ok(Some(Err(error))) => return Ok(error),
            Ok(None) => return Err(Failed::new("the subscription ended without an error")),
            Err(_) => return Err(Failed::new(format!("no end within {within:?}"))),
        }
    }
}

/// The first event that the question recognises.
#[track_caller]
pub(crate) fn event<T>(
    events: &mut posthaste_core::Events,
    within: Duration,
    what: &str,
    mut recognise: impl FnMut(SubscriptionEvent) -> Option<T>,
) -> impl Future<Output = Outcome<T>> {
    let place = Failed::new(String::new());
    async move {
        let end = Instant::now() + within;
        loop {
            match timeout_at(end, events.next()).await {
                Ok(Some(event)) => {
                    if let Some(found) = recognise(event) {
                        return Ok(found);
                    }
                }
                Ok(None) => return Err(place.saying(format!("the end instead of {what}"))),
                Err(_) => return Err(place.saying(format!("no event within {within:?}: {what}"))),
            }
        }
    }
}

/// Acknowledges, and waits for the broker's word.
pub(crate) async fn settle_all(deliveries: impl IntoIterator<Item = Delivery>) -> Outcome {
    for delivery in deliveries {
        delivery.ack_confirmed().await?;
    }
    Ok(())
}

/// Acknowledges all of them at once, and waits for the broker's word on each.
pub(crate) async fn settle_together(deliveries: impl IntoIterator<Item = Delivery>) -> Outcome {
    try_join_all(deliveries.into_iter().map(Delivery::ack_confirmed)).await?;
    Ok(())
}

/// The numbers of deliveries, in the order of arrival.
pub(crate) fn numbers(deliveries: &[Delivery]) -> Outcome<Vec<usize>> {
    deliveries.iter().map(|delivery| send::number(delivery.envelope())).collect()
}

/// The numbers as a set; a number that is there twice is a failure.
pub(crate) fn distinct(numbers: &[usize]) -> Outcome<BTreeSet<usize>> {
    let mut set = BTreeSet::new();
    for number in numbers {
        if !set.insert(*number) {
            return Err(Failed::new(format!("message {number} was delivered twice")));
        }
    }
    Ok(set)
}

/// The outcome of a late settlement: done, or refused as lost; nothing else.
pub(crate) fn done_or_lost(outcome: Result<(), Error>) -> Outcome {
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(()),
        Err(error) => Err(Failed::from(error)),
    }
}
