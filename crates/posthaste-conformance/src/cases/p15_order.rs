//! P15: on an ordered topic the messages of a key are handled in publish order, keys in parallel.

use std::sync::Arc;

use posthaste_core::{
    Bus, Envelope, ErrorKind, Layout, Order, SubscribeBuilder, Subscription, TopicConfig,
};

use crate::case::cases;
use crate::failure::{Outcome, ensure_eq, refused};
use crate::order::{Book, Habits, Worker, enqueue, interleaved, keys};
use crate::scene::Scene;
use crate::seam::{Member, create, request};
use crate::send::{keyed, number, publish_each, send, topic_with};

cases![P15;
    Claim keys_are_handled_in_publish_order when |can| can.order.is_kept();
    Claim a_confirmation_names_the_partition_of_the_key when |can| can.order.is_kept();
    Edge order_holds_while_handlers_fail when |can| can.order.is_kept();
    Edge order_holds_while_members_come_and_go when |can| can.order.is_kept();
    Edge a_dead_member_is_followed_in_order when |can| can.order.is_kept();
    Edge a_plain_topic_refuses_an_ordered_subscription;
    Fault order_holds_over_a_restart when |can| can.order.is_kept(), needs [Restart];
    Denial(Order) ordered_topics_are_refused;
];

pub(super) const PARTITIONS: u16 = 4;

/// An ordered topic with a group.
pub(super) async fn ordered(scene: &Scene, bus: &Bus) -> Outcome {
    let topic = TopicConfig::new(scene.topic()).ordered(PARTITIONS).group(scene.group("a"));
    let made = bus.ensure(topic).await?;
    ensure_eq!(made.layout, Layout::Ordered(PARTITIONS), "the layout of the topic");
    Ok(())
}

/// A member that asks for order; attempts are not what is tried here.
pub(super) fn member(scene: &Scene, bus: &Bus) -> SubscribeBuilder {
    let member = bus.subscribe(scene.topic()).group(scene.group("a"));
    member.order(Order::PerKey).max_attempts(1_000)
}

async fn joined(scene: &Scene, bus: &Bus) -> Outcome<Subscription> {
    Ok(member(scene, bus).start().await?)
}

/// Two members, twelve keys, handlers of all keys at once.
async fn keys_are_handled_in_publish_order(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    ordered(scene, &one).await?;
    let book = Arc::new(Book::default());
    let first = Worker::start(joined(scene, &one).await?, &book, Habits::GOOD, scene.seed());
    let second = Worker::start(joined(scene, &two).await?, &book, Habits::GOOD, scene.seed() + 1);
    enqueue(&one.publisher(scene.topic())?, interleaved(&keys(12), 0..20)).await?;
    book.reaches(240, scene.patience()).await?;
    first.stop(scene.patience()).await?;
    second.stop(scene.patience()).await?;
    book.check()?;
    ensure_eq!(book.repeated(), 0, "messages that were handled again without any fault");
    Ok(())
}

async fn a_confirmation_names_the_partition_of_the_key(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    let mut inbox = joined(scene, &bus).await?;
    let sent: Vec<_> = keys(20).iter().map(|key| keyed(key, 0)).collect();
    let confirmed = publish_each(&bus.publisher(scene.topic())?, sent.clone()).await?;
    let partition =
        |envelope: &Envelope| Layout::Ordered(PARTITIONS).partition(envelope).map(u32::from);
    for (envelope, confirmed) in sent.iter().zip(&confirmed) {
        if confirmed.partition().is_some() {
            ensure_eq!(confirmed.partition(), partition(envelope), "{}", envelope.id());
        }
    }
    for delivery in crate::receive::take(&mut inbox, 20, scene.patience()).await? {
        if delivery.partition().is_some() {
            let wanted = partition(delivery.envelope());
            ensure_eq!(delivery.partition(), wanted, "the delivery of {}", delivery.id());
        }
        delivery.ack().await?;
    }
    Ok(())
}

/// One of six deliveries fails and is asked for again; what follows in its key waits.
async fn order_holds_while_handlers_fail(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    ordered(scene, &one).await?;
    let book = Arc::new(Book::default());
    let first = Worker::start(joined(scene, &one).await?, &book, Habits::CLUMSY, scene.seed());
    let second = Worker::start(joined(scene, &two).await?, &book, Habits::CLUMSY, scene.seed() + 1);
    enqueue(&one.publisher(scene.topic())?, interleaved(&keys(8), 0..15)).await?;
    book.reaches(120, scene.patience()).await?;
    first.stop(scene.patience()).await?;
    second.stop(scene.patience()).await?;
    book.check()
}

/// Members join and stop in good order while messages come: nothing is handled twice.
async fn order_holds_while_members_come_and_go(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    ordered(scene, &bus).await?;
    let book = Arc::new(Book::default());
    let publisher = bus.publisher(scene.topic())?;
    let keys = keys(10);
    let mut members = Vec::new();
    for round in 0..4_usize {
        let connection = scene.bus().await?;
        let inbox = joined(scene, &connection).await?;
        let seed = scene.seed() + round as u64;
        members.push(Worker::start(inbox, &book, Habits::GOOD, seed));
        enqueue(&publisher, interleaved(&keys, round * 10..round * 10 + 5)).await?;
        if members.len() > 2 {
            members.remove(0).stop(scene.patience()).await?;
        }
        enqueue(&publisher, interleaved(&keys, round * 10 + 5..round * 10 + 10)).await?;
    }
    book.reaches(400, scene.patience()).await?;
    for member in members {
        member.stop(scene.patience()).await?;
    }
    book.check()?;
    ensure_eq!(book.repeated(), 0, "messages that were handled again by an orderly change");
    Ok(())
}

/// It dies with the first messages of a key in hand: the next member begins with them.
async fn a_dead_member_is_followed_in_order(scene: &Scene) -> Outcome {
    let broker = scene.broker().await?;
    let (topic, group) = (scene.topic_name()?, scene.group_name("a")?);
    let layout = Layout::Ordered(PARTITIONS);
    let to = create(&*broker, &topic, layout).await?;
    let mut ordered = request(&topic, &group, "dying", scene.lease());
    ordered.order = Order::PerKey;
    let mut dying = Member::join(&*broker, ordered.clone()).await?;
    send(&*broker, &to, (0..6).map(|number| keyed("k", number)).collect()).await?;
    let first = dying.next(1, scene.patience()).await?;
    ensure_eq!(number(&first.envelope)?, 0, "the first message");
    dying.ack(&first).await?;
    let held = dying.next(1, scene.patience()).await?;
    ensure_eq!(number(&held.envelope)?, 1, "the second message");
    drop(dying);

    ordered.member = "heir".to_owned();
    let mut heir = Member::join(&*broker, ordered).await?;
    for wanted in 1..6 {
        let received = heir.next(1, scene.patience()).await?;
        ensure_eq!(number(&received.envelope)?, wanted, "the next message of the key");
        heir.ack(&received).await?;
    }
    Ok(())
}

/// Refused on every broker, also where it would work by accident.
async fn a_plain_topic_refuses_an_ordered_subscription(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (topic, group) = (scene.topic(), scene.group("a"));
    topic_with(&bus, &topic, &[&group]).await?;
    let inbox = member(scene, &bus).start().await;
    refused(inbox, &[ErrorKind::Unsupported], "order on a plain topic")?;

    // The adapter refuses it by itself, too: under Assume core does not look.
    let broker = scene.broker().await?;
    let mut ordered = request(&scene.topic_name()?, &scene.group_name("a")?, "m", scene.lease());
    ordered.order = Order::PerKey;
    let joined = Member::join(&*broker, ordered).await;
    refused(joined, &[ErrorKind::Unsupported], "order on a plain topic, at the adapter")?;
    Ok(())
}

/// Messages may be handled again then; none is skipped, and no key goes out of order.
async fn order_holds_over_a_restart(scene: &Scene) -> Outcome {
    let (one, two) = (scene.bus().await?, scene.bus().await?);
    // Without a group: it keeps the lease that it is created with, which is that of its members.
    one.ensure(TopicConfig::new(scene.topic()).ordered(PARTITIONS)).await?;
    let book = Arc::new(Book::default());
    let mut workers = Vec::new();
    for (seed, bus) in (scene.seed()..).zip([&one, &two]) {
        let inbox = member(scene, bus).lease(scene.lease()).start().await?;
        workers.push(Worker::start(inbox, &book, Habits::CLUMSY, seed));
    }
    let publisher = one.publisher(scene.topic())?;
    let keys = keys(8);
    enqueue(&publisher, interleaved(&keys, 0..10)).await?;
    // In the middle of both publishing and handling.
    let publishing = enqueue(&publisher, interleaved(&keys, 10..40));
    let breaking = async {
        book.reaches(60, scene.patience()).await?;
        scene.instance().stop().await?;
        scene.instance().start().await?;
        Ok(())
    };
    let (published, broken): (Outcome, Outcome) = tokio::join!(publishing, breaking);
    broken?;
    published?;
    book.reaches(320, scene.patience()).await?;
    for worker in workers {
        worker.stop(scene.patience()).await?;
    }
    book.check()
}

async fn ordered_topics_are_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let unsupported = &[ErrorKind::Unsupported];
    let topic = TopicConfig::new(scene.topic_called("ordered")).ordered(PARTITIONS);
    refused(bus.ensure(topic).await, unsupported, "an ordered topic")?;
    topic_with(&bus, &scene.topic(), &[&scene.group("a")]).await?;
    let inbox = member(scene, &bus).start().await;
    refused(inbox, unsupported, "an ordered subscription")?;
    Ok(())
}
