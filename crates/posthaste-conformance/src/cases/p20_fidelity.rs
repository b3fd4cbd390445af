//! P20: everything arrives as it was sent, and what is too large is refused before it costs the
//! connection.

use std::collections::BTreeMap;

use fastrand::Rng;
use posthaste_core::broker::{Destination, SendOptions};
use posthaste_core::{Envelope, ErrorKind, Layout, PublishOptions, Timestamp};

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{handle, one, take};
use crate::scene::{SOURCE, Scene};
use crate::send::{numbered, publish, publish_each, sized};

cases![P20;
    Claim every_attribute_arrives_as_sent;
    Claim any_bytes_arrive_as_sent;
    Edge whatever_chance_makes_arrives_as_sent;
    Edge long_attributes_arrive_as_sent;
    Edge the_largest_message_arrives_and_a_larger_one_is_refused
        when |can| can.max_message_bytes.is_some();
    Edge an_adapter_survives_a_message_that_is_too_large when |can| can.max_message_bytes.is_some();
    Edge a_header_that_is_too_large_is_refused when |can| can.max_message_bytes.is_some();
    Edge headers_of_any_size_arrive_or_are_refused when |can| can.max_message_bytes.is_some();
    Edge what_an_application_may_not_say_is_refused;
    Edge envelopes_keep_everything_over_redelivery;
];

/// Publishes them, and finds each as it was.
async fn round_trip(scene: &Scene, sent: Vec<Envelope>) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let confirmed = publish_each(&bus.publisher(&topic)?, sent.clone()).await?;
    ensure_eq!(confirmed.len(), sent.len(), "confirmations");
    let mut missing: BTreeMap<&str, &Envelope> =
        sent.iter().map(|envelope| (envelope.id(), envelope)).collect();
    ensure_eq!(missing.len(), sent.len(), "different ids");
    for delivery in take(&mut inbox, sent.len(), scene.patience()).await? {
        let Some(sent) = missing.remove(delivery.id()) else {
            return Err(Failed::new(format!("{} was not sent, or came twice", delivery.id())));
        };
        same(delivery.envelope(), sent)?;
        delivery.ack().await?;
    }
    Ok(())
}

/// Names what differs, because two envelopes side by side are hard to read.
fn same(found: &Envelope, sent: &Envelope) -> Outcome {
    let id = sent.id();
    ensure!(!found.is_foreign(), "{id} is taken for foreign");
    ensure_eq!(found.id(), sent.id(), "the id");
    ensure_eq!(found.source(), sent.source(), "the source of {id}");
    ensure_eq!(found.event_type(), sent.event_type(), "the type of {id}");
    ensure_eq!(found.subject(), sent.subject(), "the subject of {id}");
    ensure_eq!(found.time(), sent.time(), "the time of {id}");
    ensure_eq!(found.content_type(), sent.content_type(), "the content type of {id}");
    ensure_eq!(found.data_schema(), sent.data_schema(), "the schema of {id}");
    ensure_eq!(found.key(), sent.key(), "the key of {id}");
    ensure_eq!(found.correlation_id(), sent.correlation_id(), "the correlation of {id}");
    ensure_eq!(found.causation_id(), sent.causation_id(), "the causation of {id}");
    ensure_eq!(found.reply_to(), sent.reply_to(), "the reply address of {id}");
    ensure_eq!(found.trace_parent(), sent.trace_parent(), "the trace of {id}");
    ensure_eq!(found.trace_state(), sent.trace_state(), "the trace state of {id}");
    ensure_eq!(found.sequence(), sent.sequence(), "the sequence of {id}");
    ensure_eq!(found.expires_at(), sent.expires_at(), "the expiry of {id}");
    ensure_eq!(found.data_ref(), sent.data_ref(), "the reference of {id}");
    ensure_eq!(found.schema_version(), sent.schema_version(), "the version of {id}");
    // The values of one name keep their order; brokers keep names in a map.
    let headers = |envelope: &Envelope| -> BTreeMap<String, Vec<Vec<u8>>> {
        let mut headers = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in envelope.headers() {
            headers.entry(name.to_owned()).or_default().push(value.to_vec());
        }
        headers
    };
    ensure_eq!(headers(found), headers(sent), "the headers of {id}");
    let extensions = |envelope: &Envelope| -> BTreeMap<String, String> {
        let all = envelope.extensions();
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    ensure_eq!(extensions(found), extensions(sent), "the extensions of {id}");
    ensure_eq!(found.payload().len(), sent.payload().len(), "the length of {id}");
    ensure!(found.payload() == sent.payload(), "the payload of {id} differs");
    Ok(())
}

async fn every_attribute_arrives_as_sent(scene: &Scene) -> Outcome {
    let time: Timestamp = "2026-02-03T04:05:06.789012Z".parse()?;
    let all = Envelope::builder("order.placed.v\u{fc}")
        .source("urn:shop:%C3%BC?x=1#f")
        .id("all \u{2603} \u{1f980} id")
        .subject("orders/7 \u{4e2d}\u{6587}")
        .time(time)
        .content_type("application/json; charset=utf-8")
        .data_schema("https://example.org/schema?v=1#order")
        .key("key \u{fc}")
        .correlation_id("cart-7 %2F")
        .causation_id("cause \"quoted\" \\ back")
        .reply_to("answers.here")
        .trace_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .trace_state("vendor=value,other=1")
        .sequence(u64::MAX)
        .expires_at(Timestamp::now() + std::time::Duration::from_secs(3600))
        .data_ref("s3://bucket/key")
        .schema_version(u32::MAX)
        .extension("tenantid", "acme \u{e9}")
        .extension("x1", "1")
        .header("tenant", "acme")
        .payload(r#"{"total":12.5}"#)
        .build()?;
    let least = Envelope::builder("t").source("/s").id("least").build()?;
    round_trip(scene, vec![all, least]).await
}

/// Binary, empty and repeated headers, in their order; payloads of every byte and of none.
async fn any_bytes_arrive_as_sent(scene: &Scene) -> Outcome {
    let every_byte: Vec<u8> = (0..=255).collect();
    let headers = Envelope::builder("t")
        .source(SOURCE)
        .id("headers")
        .header("binary", &every_byte)
        .header("empty", "")
        .header("again", "1")
        .header("Again", "upper case")
        .header("again", "2")
        .header("lines", "a\r\nb\0c")
        .header("again", [0xff, 0xfe])
        .header("unicode", "\u{fc}\u{4e2d}\u{1f980}")
        .header("spaces", "  both ends  ")
        .header("percent", "100% %00 %zz")
        .header("!#$%&'*+-.^_`|~", "every mark")
        .header(&"n".repeat(255), "a long name")
        .payload(every_byte.clone())
        .build()?;
    let empty = Envelope::builder("t").source(SOURCE).id("empty").payload("").build()?;
    let zeros =
        Envelope::builder("t").source(SOURCE).id("zeros").payload(vec![0_u8; 5_000]).build()?;
    let key =
        Envelope::builder("t").source(SOURCE).id("key").key(every_byte).payload("k").build()?;
    let large = sized(1, 100_000);
    round_trip(scene, vec![headers, empty, zeros, key, large]).await
}

/// Sixty messages of random parts, the same for the same seed.
async fn whatever_chance_makes_arrives_as_sent(scene: &Scene) -> Outcome {
    let mut chance = scene.chance();
    let sent: Result<Vec<_>, _> = (0..60).map(|number| random(&mut chance, number)).collect();
    round_trip(scene, sent?).await
}

fn random(chance: &mut Rng, number: usize) -> Outcome<Envelope> {
    let bytes = |chance: &mut Rng, most: usize| -> Vec<u8> {
        let length = chance.usize(..most);
        (0..length).map(|_| chance.u8(..)).collect()
    };
    let text = |chance: &mut Rng| -> String {
        let length = chance.usize(1..30);
        let letters = ['a', 'Z', '0', ' ', '%', '"', '\\', ';', '=', '\u{fc}', '\u{4e2d}'];
        (0..length).filter_map(|_| chance.choice(letters)).collect()
    };
    let mut builder =
        Envelope::builder(text(chance)).source(SOURCE).id(format!("r-{number}-{}", text(chance)));
    if chance.bool() {
        builder = builder.subject(text(chance));
    }
    if chance.bool() {
        builder = builder.correlation_id(text(chance)).causation_id(text(chance));
    }
    if chance.bool() {
        let mut key = bytes(chance, 40);
        key.push(1);
        builder = builder.key(key);
    }
    if chance.bool() {
        builder = builder.sequence(chance.u64(..)).schema_version(chance.u32(..));
    }
    for _ in 0..chance.usize(..6) {
        let names = ["a", "b", "long-name.with_marks", "c"];
        let name = names[chance.usize(..names.len())];
        let value = bytes(chance, 60);
        builder = builder.header(name, value);
    }
    let payload = bytes(chance, 3_000);
    Ok(builder.payload(payload).build()?)
}

/// Around and above what the fields of a protocol hold that gives them one byte for their length.
async fn long_attributes_arrive_as_sent(scene: &Scene) -> Outcome {
    let envelope = |length: usize| {
        let text = |first: &str| format!("{first}{}", "x".repeat(length - first.len()));
        let umlauts = "\u{fc}".repeat(length / 2);
        Envelope::builder(text("t"))
            .source(text("/"))
            .id(text("i"))
            .subject(umlauts.as_str())
            .content_type(text("text/plain; a="))
            .data_schema(text("https://"))
            .key(text("k"))
            .correlation_id(text("c"))
            .causation_id(umlauts.as_str())
            .reply_to(text("r"))
            .data_ref(text("s3://"))
            .extension("tenantid", umlauts.as_str())
            .header("long", text("v"))
            .payload("p")
            .build()
    };
    let lengths = [254, 255, 256, 257, 300, 1_024];
    let sent: Result<Vec<_>, _> = lengths.into_iter().map(envelope).collect();
    round_trip(scene, sent?).await
}

/// Refused as `TooLarge`, again and again, while the same connection goes on for others.
async fn the_largest_message_arrives_and_a_larger_one_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    let limit = bus.capabilities(Some(&topic))?.max_message_bytes.unwrap_or_default();
    let overhead = numbered(0).size();
    // Room for what the wire adds to a message.
    let largest = sized(0, limit.saturating_sub(overhead + 2_048));
    publisher.publish_envelope(largest.clone()).await?;
    let delivery = one(&mut inbox, scene.patience()).await?;
    ensure!(delivery.payload() == largest.payload(), "the largest message differs");
    delivery.ack().await?;
    for more in [1, 1_000_000] {
        let larger = publisher.publish_envelope(sized(1, limit + more)).await;
        let error = refused(larger, &[ErrorKind::TooLarge], "a message above the limit")?;
        ensure!(!error.may_be_stored(), "it is certainly not stored");
        publish(&publisher, more..more + 1).await?;
        ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [more], "the next message");
    }
    Ok(())
}

/// By the adapter's own call. One of exactly the limit arrives whole or is refused; one above it is
/// refused; and the same connection goes on in both directions.
async fn an_adapter_survives_a_message_that_is_too_large(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let bus = Scene::bus_over(std::sync::Arc::clone(&broker)).build()?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let name = scene.topic_name()?;
    let limit = broker.capabilities(Some(&name)).max_message_bytes.unwrap_or(1 << 20);
    let to = Destination::new(name, Layout::Plain, false);
    let options = SendOptions::default();
    let exact = sized(0, limit.saturating_sub(sized(0, 0).size() - sized(0, 0).payload().len()));
    ensure_eq!(exact.size(), limit, "the size of a message of exactly the limit");
    let sizes = [(exact.clone(), true), (sized(1, 2 * limit), false)];
    for (number, (envelope, may_pass)) in sizes.into_iter().enumerate() {
        let outcomes = broker.publish(&to, &mut [envelope], &options).await?;
        for outcome in outcomes {
            match outcome {
                Ok(_) => {
                    ensure!(may_pass, "twice the limit was confirmed");
                    let delivery = one(&mut inbox, scene.patience()).await?;
                    ensure!(delivery.payload() == exact.payload(), "the largest message differs");
                    delivery.ack().await?;
                }
                Err(error) => {
                    ensure_eq!(error.kind(), ErrorKind::TooLarge, "message {number}");
                    ensure!(!error.may_be_stored(), "it is certainly not stored");
                }
            }
        }
        let next = 10 + number;
        crate::send::send(&*broker, &to, vec![numbered(next)]).await?;
        ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [next], "the next message");
    }
    Ok(())
}

async fn a_header_that_is_too_large_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    let limit = bus.capabilities(Some(&topic))?.max_message_bytes.unwrap_or_default();
    let value = vec![b'x'; limit.min((1 << 20) - 4_096) + 1];
    let envelope = numbered(0).to_builder().header("large", &value).build();
    // Refused by the envelope itself where the broker takes more than an envelope may have.
    let outcome = match envelope {
        Ok(envelope) => publisher.publish_envelope(envelope).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(_) => handle(&mut inbox, 1, scene.patience()).await.map(drop)?,
        Err(error) => ensure_eq!(error.kind(), ErrorKind::TooLarge, "a large header"),
    }
    publish(&publisher, 1..2).await?;
    ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [1], "the next message");
    Ok(())
}

/// Some protocols have all headers of a message in one frame, which is much smaller than a message
/// may be. What does not fit is refused before it costs the connection.
async fn headers_of_any_size_arrive_or_are_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let publisher = bus.publisher(&topic)?;
    let sizes = [60_000, 100_000, 126_000, 130_000, 131_000, 131_072, 140_000, 200_000, 400_000];
    for (round, size) in sizes.into_iter().enumerate() {
        let sent = numbered(round).to_builder().header("large", vec![b'x'; size]).build()?;
        match publisher.publish_envelope(sent.clone()).await {
            Ok(_) => {
                let delivery = one(&mut inbox, scene.patience()).await?;
                same(delivery.envelope(), &sent)?;
                delivery.ack().await?;
            }
            Err(error) => {
                ensure_eq!(error.kind(), ErrorKind::TooLarge, "a header of {size} bytes");
                ensure!(!error.may_be_stored(), "it is certainly not stored");
            }
        }
        let next = 1_000 + round;
        publish(&publisher, next..next + 1).await?;
        ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [next], "the next message");
    }
    Ok(())
}

/// Names that brokers and this library keep for themselves, and names that no wire carries.
async fn what_an_application_may_not_say_is_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let publisher = bus.publisher(scene.topic())?;
    let long = "n".repeat(256);
    let names = ["", "with space", "with:colon", "ph-own", "ce-id", "Nats-Msg-Id", &long, "\u{fc}"];
    for name in names {
        let options = PublishOptions::new().header(name, "x");
        let outcome = publisher.publish_envelope_with(numbered(0), options).await;
        refused(outcome, &[ErrorKind::Invalid], &format!("a header {name:?}"))?;
    }
    let id = PublishOptions::new().id("i".repeat(1_025));
    let outcome = publisher.publish_envelope_with(numbered(0), id).await;
    refused(outcome, &[ErrorKind::TooLarge, ErrorKind::Invalid], "an id of 1,025 bytes")?;
    let key = PublishOptions::new().key("");
    let outcome = publisher.publish_envelope_with(numbered(0), key).await;
    refused(outcome, &[ErrorKind::Invalid], "an empty key")?;
    Ok(())
}

/// The same message, whole, at each attempt, and its headers do not grow.
async fn envelopes_keep_everything_over_redelivery(scene: &Scene) -> Outcome {
    use std::time::Duration;
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    let mut inbox = bus.subscribe(&topic).group(&group).start().await?;
    let sent = numbered(1)
        .to_builder()
        .key("k")
        .trace_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .extension("tenantid", "acme")
        .header("twice", "1")
        .header("twice", [0xff])
        .build()?;
    bus.publisher(&topic)?.publish_envelope(sent.clone()).await?;
    for round in 0..4 {
        let delivery = one(&mut inbox, scene.patience()).await?;
        same(delivery.envelope(), &sent)?;
        match round {
            0 => delivery.nack(posthaste_core::Nack::requeue()).await?,
            1 => delivery.nack(posthaste_core::Nack::after(Duration::from_millis(50))).await?,
            2 => delivery.release().await?,
            _ => delivery.ack().await?,
        }
    }
    Ok(())
}
