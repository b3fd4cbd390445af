//! P6: a queue is a topic with exactly one group, addressed directly.

use posthaste_core::{ErrorKind, TopicConfig};
use tokio::time::timeout;

use crate::case::cases;
use crate::failure::{Failed, Outcome, ensure, ensure_eq, refused};
use crate::receive::{distinct, handle, nothing};
use crate::scene::Scene;
use crate::seam::{Member, request};
use crate::send::{number, numbered, topic_with, up_to};

cases![P6;
    Claim each_command_goes_to_one_consumer when |can| can.queue.is_kept();
    Edge a_queue_has_no_second_group when |can| can.queue.is_kept();
    Edge an_adapter_lets_no_second_group_onto_a_queue when |can| can.queue.is_kept();
    Edge a_queue_is_no_topic_and_a_topic_no_queue when |can| can.queue.is_kept();
    Denial(Queue) queues_are_refused;
];

async fn each_command_goes_to_one_consumer(scene: &Scene) -> Outcome {
    let (sender, one, two) = (scene.bus().await?, scene.bus().await?, scene.bus().await?);
    let name = scene.topic();
    let queue = sender.queue(&name)?;
    // Nobody is there yet: commands wait.
    let report = queue.publish_all_envelopes((0..40).map(numbered).collect()).await;
    report.into_result()?;
    let described = sender.admin().describe(&name).await?;
    ensure!(described.queue, "what the queue is described as: {described:?}");

    let mut first = one.queue(&name)?.subscribe().start().await?;
    let mut second = two.queue(&name)?.subscribe().start().await?;
    queue.publish_all_envelopes((40..80).map(numbered).collect()).await.into_result()?;
    let mut handled = Vec::new();
    let work = async {
        while handled.len() < 80 {
            let delivery = tokio::select! {
                Some(delivery) = first.next() => delivery?,
                Some(delivery) = second.next() => delivery?,
                else => break,
            };
            handled.push(number(delivery.envelope())?);
            delivery.ack().await?;
        }
        Ok::<_, Failed>(())
    };
    let ended = timeout(scene.patience(), work).await;
    ensure!(ended.is_ok(), "{} of 80 commands within {:?}", handled.len(), scene.patience());
    ended.unwrap_or(Ok(()))?;
    ensure_eq!(distinct(&handled)?, up_to(80), "the commands that were handled");
    nothing(&mut first, scene.quiet()).await?;
    nothing(&mut second, scene.quiet()).await
}

/// A second group would take commands from the first one's consumers, or double them.
async fn a_queue_has_no_second_group(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let name = scene.topic();
    bus.ensure(TopicConfig::queue(&name)).await?;
    let other = bus.subscribe(&name).group(scene.group("b")).start().await;
    let kinds = [ErrorKind::Conflict, ErrorKind::Unsupported, ErrorKind::Invalid];
    refused(other, &kinds, "another group on a queue")?;
    let two = bus.ensure(TopicConfig::queue(&name).group(scene.group("b"))).await;
    refused(two, &kinds, "a queue with two groups")?;

    let queue = bus.queue(&name)?;
    let mut inbox = queue.subscribe().start().await?;
    queue.publish_envelope(numbered(0)).await?;
    ensure_eq!(handle(&mut inbox, 1, scene.patience()).await?, [0], "the command");
    Ok(())
}

/// Asked by itself, without core that would refuse before: the commands stay with the queue's own
/// consumer.
async fn an_adapter_lets_no_second_group_onto_a_queue(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let name = scene.topic();
    bus.ensure(TopicConfig::queue(&name)).await?;
    let broker = scene.broker().await?;
    let other = request(&scene.topic_name()?, &scene.group_name("b")?, "m", scene.lease());
    let joined = Member::join(&*broker, other).await;
    let kinds = [ErrorKind::Conflict, ErrorKind::Unsupported, ErrorKind::Invalid];
    refused(joined, &kinds, "another group on a queue, at the adapter")?;

    let queue = bus.queue(&name)?;
    let mut inbox = queue.subscribe().start().await?;
    queue.publish_all_envelopes((0..5).map(numbered).collect()).await.into_result()?;
    let handled = handle(&mut inbox, 5, scene.patience()).await?;
    ensure_eq!(distinct(&handled)?, up_to(5), "the commands that the queue's consumer got");
    Ok(())
}

async fn a_queue_is_no_topic_and_a_topic_no_queue(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let (queue, topic) = (scene.topic_called("queue"), scene.topic_called("topic"));
    bus.ensure(TopicConfig::queue(&queue)).await?;
    topic_with(&bus, &topic, &[&scene.group("a")]).await?;
    let conflict = &[ErrorKind::Conflict];
    let sent = bus.publisher(&queue)?.publish_envelope(numbered(0)).await;
    refused(sent, conflict, "a queue addressed as a topic")?;
    let other = scene.bus().await?;
    let sent = other.queue(&topic)?.publish_envelope(numbered(0)).await;
    refused(sent, conflict, "a topic addressed as a queue")?;
    refused(bus.ensure(TopicConfig::new(&queue)).await, conflict, "a queue ensured as a topic")?;
    refused(bus.ensure(TopicConfig::queue(&topic)).await, conflict, "a topic ensured as a queue")?;
    Ok(())
}

async fn queues_are_refused(scene: &Scene) -> Outcome {
    let bus = scene.bus().await?;
    let unsupported = &[ErrorKind::Unsupported];
    refused(bus.queue(scene.topic()), unsupported, "a queue")?;
    let ensured = bus.ensure(TopicConfig::queue(scene.topic())).await;
    refused(ensured, unsupported, "ensure of a queue")?;
    Ok(())
}
