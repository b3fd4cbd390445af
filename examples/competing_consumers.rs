//! Two members of one group share the work: each message goes to one of them, and what a member
//! leaves unsettled goes to the other.
//!
//! ```sh
//! cargo run --example competing_consumers
//! cargo run --example competing_consumers --features nats -- --url nats://localhost:4222
//! ```
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste::prelude::*;
use posthaste::{Error, Result, Sharing, SubscriptionEvent};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "picture.uploaded", key = number)]
struct PictureUploaded {
    number: u32,
}

const PICTURES: u32 = 20;
const SOON: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    let bus = posthaste_examples::connect().await?;
    app(&bus).await?;
    bus.close(SOON).await
}

async fn app(bus: &Bus) -> Result<()> {
    let topic = posthaste_examples::fresh("pictures");
    bus.ensure(TopicConfig::new(&topic).group("resize")).await?;

    // With a small prefetch, a member that is busy takes little that another could do.
    let member = || bus.subscribe(&topic).group("resize").prefetch(2).start();
    let (mut first, mut second) = (member().await?, member().await?);
    println!("group      resize, with two members");
    if bus.capabilities(Some(&topic))?.sharing == Sharing::Lanes {
        // Where members share lanes, as on Kafka, the second one gets its share a moment later.
        until_it_has_lanes(&mut second).await?;
    }

    let pictures: Vec<_> = (1..=PICTURES).map(|number| PictureUploaded { number }).collect();
    bus.publisher(&topic)?.publish_all(&pictures).await?.into_result()?;
    println!("published  {PICTURES} pictures");

    let (mine, theirs) = (next(&mut first).await?, next(&mut second).await?);
    let different = number(&mine)? != number(&theirs)?;
    println!("in hand    one each, different ones: {different}");

    // The first member leaves with its message unsettled: it comes again, for the second.
    let left = number(&mine)?;
    drop(mine);
    first.stop(SOON).await?;
    println!("left       the first member, without settling its message");

    let mut done = BTreeSet::from([number(&theirs)?]);
    theirs.ack().await?;
    let mut attempts_of_left = 0;
    while done.len() < pictures.len() {
        let delivery = next(&mut second).await?;
        if number(&delivery)? == left {
            attempts_of_left = delivery.attempt();
        }
        if !done.insert(number(&delivery)?) {
            println!("again      {}, which at least once allows", number(&delivery)?);
        }
        delivery.ack().await?;
    }
    println!("done       all {}, by the second member", done.len());
    println!("came again the first member's message, at attempt {attempts_of_left}");

    second.stop(SOON).await?;
    bus.admin().delete_topic(&topic).await
}

/// Nothing is published yet: whatever comes before a lane is an error.
async fn until_it_has_lanes(inbox: &mut Subscription) -> Result<()> {
    let mut events = inbox.events();
    loop {
        tokio::select! {
            Some(event) = events.next() => {
                if let SubscriptionEvent::LaneAssigned { partition: Some(_), .. } = event {
                    return Ok(());
                }
            }
            early = next(inbox) => return early.and_then(|_| Err(Error::closed("it came early"))),
        }
    }
}

async fn next(inbox: &mut Subscription) -> Result<Delivery> {
    inbox.next().await.unwrap_or_else(|| Err(Error::closed("the subscription ended")))
}

fn number(delivery: &Delivery) -> Result<u32> {
    Ok(delivery.decode::<PictureUploaded>()?.number)
}
