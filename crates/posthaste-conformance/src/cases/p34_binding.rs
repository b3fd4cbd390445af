//! P34: what exists under another name can be bound, and the native client is within reach.

use posthaste_core::{ErrorKind, Promise};

use crate::case::cases;
use crate::failure::{Outcome, ensure, ensure_eq, refused};
use crate::receive::handle_all;
use crate::scene::Scene;
use crate::send::{publish, topic_with, up_to};

cases![P34;
    Claim the_native_client_is_within_reach, needs [Native];
    Claim an_existing_thing_is_bound when |can| can.binding.is_kept(), needs [Bind];
    Edge the_broker_says_which_it_is;
    Denial(Binding) binding_is_refused;
];

async fn the_native_client_is_within_reach(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    ensure!(broker.native().is_some(), "the adapter hides its client");
    // As an application asks for it: by a type; a wrong one is nothing, not a panic.
    let bus = Scene::bus_over(broker).build()?;
    ensure!(bus.native::<std::convert::Infallible>().is_none(), "it is of every type");
    Ok(())
}

/// A name that is not portable: published to, consumed from and described by the portable one.
async fn an_existing_thing_is_bound(scene: &Scene) -> Outcome {
    let (broker, native) = scene.instance().bind(&scene.topic_name()?).await?;
    let bus = Scene::bus_over(broker).build()?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    publish(&bus.publisher(&topic)?, 0..10).await?;
    handle_all(&mut inbox, &up_to(10), scene.patience()).await?;
    let described = bus.admin().describe(&topic).await?;
    ensure_eq!(described.native, native, "what the topic is called at the broker");
    // By the default name there is nothing.
    let unbound = scene.bus().await?;
    let described = unbound.admin().describe(&topic).await;
    refused(described, &[ErrorKind::NotFound], "the topic under its default name")?;
    Ok(())
}

async fn the_broker_says_which_it_is(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let can = bus.capabilities(None)?;
    ensure!(!can.broker.is_empty(), "a broker without a name");
    if let Some(version) = scene.expected_version() {
        ensure_eq!(can.server.as_deref(), Some(version), "the version of the server");
    }
    for promise in Promise::ALL {
        // Every promise has an answer, in words where it is limited or refused.
        let support = can.promise(*promise);
        let words = match &support {
            posthaste_core::Support::Limited(text) | posthaste_core::Support::Refused(text) => {
                !text.is_empty()
            }
            _ => true,
        };
        ensure!(words, "{promise} is limited or refused without a word");
    }
    let topic = scene.topic();
    topic_with(&bus, &topic, &[]).await?;
    let described = bus.admin().describe(&topic).await?;
    ensure!(!described.native.is_empty(), "a topic without a name at the broker");
    Ok(())
}

async fn binding_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let inbox = bus.subscribe(scene.topic()).group(scene.group("a")).require(Promise::P34);
    refused(inbox.start().await, &[ErrorKind::Unsupported], "a subscription that requires P34")?;
    Ok(())
}
