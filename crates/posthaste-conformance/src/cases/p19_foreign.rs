//! P19: what this library did not write, or what the application cannot read, is delivered, and
//! never ends the stream or spins.

use std::time::Duration;

use posthaste_core::codec::Text;
use posthaste_core::{Bytes, Envelope, ErrorKind, Event, Nack, Order, Reason, TopicConfig};
use tokio::time::Instant;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq};
use crate::harness::Foreign;
use crate::receive::{handle, one};
use crate::scene::{SOURCE, Scene};
use crate::send::{numbered, publish, topic_with, until};

cases![P19;
    Claim a_foreign_message_is_delivered_with_what_is_known, needs [Foreign];
    Claim an_undecodable_message_is_the_callers_to_settle;
    Edge foreign_messages_come_to_ordered_groups when |can| can.order.is_kept(), needs [Foreign];
    Edge a_delivery_that_is_dropped_comes_again_later_each_time;
];

/// Text with headers, nothing at all, and bytes that are neither text nor JSON.
async fn a_foreign_message_is_delivered_with_what_is_known(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let bytes: Vec<u8> = (0..=255).collect();
    let sent = [
        Foreign::new("plain words").header("tenant", "acme").header("trace", "7"),
        Foreign::new(Bytes::new()),
        Foreign::new(bytes),
    ];
    let name = scene.topic_name()?;
    for message in &sent {
        scene.instance().make_foreign(&name, message).await?;
    }
    publish(&bus.publisher(&topic)?, 0..1).await?;
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let mut missing: Vec<&Foreign> = sent.iter().collect();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let delivery = one(&mut inbox, scene.patience()).await?;
        ensure!(ids.insert(delivery.id().to_owned()), "two messages have one id");
        ensure!(!delivery.id().is_empty(), "a message without an id");
        if !delivery.envelope().is_foreign() {
            ensure_eq!(delivery.id(), "m-0", "the only message of ours");
            delivery.ack().await?;
            continue;
        }
        let Some(at) = missing.iter().position(|sent| sent.payload == *delivery.payload()) else {
            return Err(Failed::new(format!("{:?} was not sent", delivery.envelope())));
        };
        for (header, value) in &missing.remove(at).headers {
            ensure_eq!(delivery.header(header), Some(value.as_bytes()), "the header {header}");
        }
        delivery.ack().await?;
    }
    ensure!(missing.is_empty(), "{} foreign messages did not come", missing.len());
    publish(&bus.publisher(&topic)?, 1..3).await?;
    handle(&mut inbox, 2, scene.patience()).await?;
    Ok(())
}

/// An event that is text.
struct Words(String);

impl From<String> for Words {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Event for Words {
    const TYPE: &'static str = "words.said";
    type Codec = Text;
}

/// Of another type, of another format, and of bytes that are no text: each is an error to the
/// caller, who makes it a dead letter, and the next message comes.
async fn an_undecodable_message_is_the_callers_to_settle(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    let words = |id: &'static str| Envelope::builder(Words::TYPE).source(SOURCE).id(id);
    let broken: &[u8] = b"\xff\xfe not text";
    let sent = [
        words("good").content_type("text/plain").payload("hello").build()?,
        words("broken").content_type("text/plain").payload(broken).build()?,
        words("format").content_type("application/pdf").payload("%PDF").build()?,
        numbered(7),
    ];
    crate::send::publish_each(&publisher, sent.to_vec()).await?;
    let mut wrong = 0;
    for _ in 0..4 {
        let delivery = one(&mut inbox, scene.patience()).await?;
        match delivery.decode::<Words>() {
            Ok(Words(text)) => {
                ensure_eq!((delivery.id(), text.as_str()), ("good", "hello"), "what was decoded");
                delivery.ack().await?;
            }
            Err(error) => {
                ensure_eq!(error.kind(), ErrorKind::Decode, "decoding {}", delivery.id());
                ensure_eq!(error.topic(), Some(topic.as_str()), "the topic of the error");
                wrong += 1;
                delivery.nack(Nack::dead_letter(error)).await?;
            }
        }
    }
    ensure_eq!(wrong, 3, "messages that cannot be decoded");
    if bus.capabilities(Some(&topic))?.dead_letters.is_kept() {
        let letters = until("the letters are stored", scene.patience(), || async {
            let page = bus.admin().dead_letters(&topic, &group, 10).await;
            let letters = page.map_err(|error| format!("{error:?}"))?.letters;
            if letters.len() == 3 { Ok(letters) } else { Err(format!("{}", letters.len())) }
        })
        .await?;
        for stored in letters {
            ensure_eq!(stored.letter.reason, Reason::Undecodable, "the reason");
        }
    }
    publish(&publisher, 0..1).await?;
    handle(&mut inbox, 1, scene.patience()).await?;
    Ok(())
}

/// No key, no partition, and still in the group's one stream.
async fn foreign_messages_come_to_ordered_groups(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    bus.ensure(TopicConfig::new(&topic).ordered(4).group(&group)).await?;
    let member = bus.subscribe(&topic).group(&group).order(Order::PerKey);
    let mut inbox = member.start().await?;
    let name = scene.topic_name()?;
    scene.instance().make_foreign(&name, &Foreign::new("before")).await?;
    let keyed = crate::send::keyed("k", 1);
    crate::send::publish_each(&bus.publisher(&topic)?, vec![keyed]).await?;
    scene.instance().make_foreign(&name, &Foreign::new("after")).await?;
    let mut payloads = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let delivery = one(&mut inbox, scene.patience()).await?;
        payloads.insert(delivery.payload().to_vec());
        delivery.ack().await?;
    }
    let wanted: [&[u8]; 3] = [b"1", b"after", b"before"];
    ensure!(payloads.iter().eq(wanted), "the three messages: {payloads:?}");
    Ok(())
}

/// Given back without a word: after 100 ms, 200 ms, 400 ms at least, so that nothing spins.
async fn a_delivery_that_is_dropped_comes_again_later_each_time(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let mut inbox = bus.subscribe(scene.topic()).group(scene.group("a")).start().await?;
    publish(&bus.publisher(scene.topic())?, 0..1).await?;
    let mut held = one(&mut inbox, scene.patience()).await?;
    for least in [100, 200, 400].map(Duration::from_millis) {
        let dropped = Instant::now();
        drop(held);
        held = one(&mut inbox, scene.patience()).await?;
        let waited = dropped.elapsed();
        ensure!(waited >= least, "attempt {} came after {waited:?}", held.attempt());
        ensure!(held.is_redelivered(), "it is not flagged");
    }
    held.ack().await?;
    Ok(())
}
