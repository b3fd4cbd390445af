//! Publishing: a whole batch is handed to the client, then the fate of each entry is awaited.
//!
//! Nothing is sent again here. The client does it by its protocol, which stores nothing twice; what
//! is in doubt after that is unknown, and core publishes it again. The client tells the fate of
//! each message within its own timeout, so that the wait needs no deadline.

use std::sync::Arc;

use posthaste_core::broker::{Destination, Outcomes, SendOptions, Stored};
use posthaste_core::{Difference, Envelope, Error, ErrorKind, Result};
use rdkafka::error::RDKafkaErrorCode;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::completion::{Fate, Waiting};
use crate::error::{self, BROKER};
use crate::hub::{Hub, Known};
use crate::producer::{Producer, Record};
use crate::{convert, settings};

pub(crate) async fn publish(
    hub: &Hub,
    to: &Destination,
    batch: &[Envelope],
    options: &SendOptions,
) -> Result<Outcomes> {
    hub.open()?;
    refuse(options)?;
    let until = hub.deadline();
    let name = hub.native_name(&to.topic, to.layout, to.queue);
    let producer = match ready(hub, to, &name, until).await {
        Ok(producer) => producer,
        Err(error) => return Ok(Outcomes::failed(batch.len(), &error)),
    };
    let mut flight = Flight {
        hub,
        to,
        name,
        batch,
        waiting: Waiting::for_batch(batch.len()),
        refused: SmallVec::with_capacity(batch.len()),
    };
    flight.send(&producer, until).await;
    // Whoever waits only for answers does not keep the client from its end.
    drop(producer);
    Ok(flight.land().await)
}

/// # Errors
/// `Unsupported` for what a log without timers and an index of ids cannot do.
fn refuse(options: &SendOptions) -> Result<()> {
    let what = if options.deliver_at.is_some() {
        "Kafka delivers no message later"
    } else if options.deduplicate {
        "Kafka does not know messages by their ids"
    } else {
        return Ok(());
    };
    Err(Error::unsupported(what).with_broker(BROKER))
}

/// By whom it can be sent there, if it can.
async fn ready(hub: &Hub, to: &Destination, name: &str, until: Instant) -> Result<Arc<Producer>> {
    let mut known = hub.find(name, until).await?;
    if check_layout(hub, to, known).is_err() {
        // It may have got partitions since it was found.
        hub.forget(name);
        known = hub.find(name, until).await?;
        check_layout(hub, to, known)?;
    }
    let producer = hub.producer(known, until).await?;
    match producer.fatal() {
        Some(fatal) => Err(fatal),
        None => Ok(producer),
    }
}

/// Whether the topic orders as whoever publishes believes. Its name vouches for most of that, but
/// not where it is bound.
///
/// # Errors
/// `Conflict` naming what differs.
fn check_layout(hub: &Hub, to: &Destination, known: Known) -> Result<()> {
    let found = known.partitions;
    if let Some(binding) = hub.binding(&to.topic) {
        let found = (binding.layout(found)?, false);
        return Difference::refuse(&settings::shape((to.layout, to.queue), found))
            .map_err(|error| error.with_topic(&to.topic).with_broker(BROKER));
    }
    match to.layout.partitions() {
        // Zero: they are being made.
        Some(wanted) if found > 0 && found < i32::from(wanted) => {
            Err(Error::new(ErrorKind::Conflict, "the topic has fewer partitions than its layout")
                .with_context("wanted", wanted)
                .with_context("found", found)
                .with_broker(BROKER))
        }
        _ => Ok(()),
    }
}

/// A batch on its way.
struct Flight<'a> {
    hub: &'a Hub,
    to: &'a Destination,
    /// The topic at the broker.
    name: String,
    batch: &'a [Envelope],
    waiting: Waiting,
    /// Why entries were not handed over; `None` for one that was.
    refused: SmallVec<[Option<Error>; 1]>,
}

impl Flight<'_> {
    /// Hands everything to the client, in order. Once it takes nothing, none of the later ones is
    /// tried: it might overtake.
    async fn send(&mut self, producer: &Producer, until: Instant) {
        let mut stopped: Option<Error> = None;
        for (at, envelope) in self.batch.iter().enumerate() {
            let refused = match &stopped {
                Some(error) => {
                    self.waiting.forgo(1);
                    Some(error.duplicate())
                }
                None => match self.record(envelope) {
                    Err(error) => {
                        self.waiting.forgo(1);
                        Some(error)
                    }
                    Ok(record) => {
                        let ticket = self.waiting.ticket(at);
                        let refused = tokio::select! {
                            biased;
                            taken = producer.send(record, ticket, until) => {
                                (!taken).then(|| self.hub.explain(full()))
                            }
                            () = self.hub.closing() => Some(error::closed()),
                        };
                        stopped = refused.as_ref().map(Error::duplicate);
                        refused
                    }
                },
            };
            self.refused.push(refused);
        }
    }

    fn record<'a>(&'a self, envelope: &'a Envelope) -> Result<Record<'a>> {
        convert::check_size(envelope, self.hub.config.max_message_bytes())?;
        Ok(Record {
            topic: &self.name,
            partition: self.to.layout.partition(envelope).map(i32::from),
            key: envelope.key(),
            // Not to be left out when it is empty: without it, the message would be a tombstone.
            payload: Some(envelope.payload()),
            headers: convert::headers(envelope),
        })
    }

    /// Awaits the fates.
    async fn land(mut self) -> Outcomes {
        self.waiting.complete().await;
        let refused = std::mem::take(&mut self.refused);
        let outcome = |(at, refused)| match (refused, self.waiting.fate(at)) {
            (Some(error), _) => Err(error),
            (None, Some(Fate::Stored { partition, offset })) => Ok(stored(partition, offset)),
            (None, Some(Fate::Failed { code, maybe_written })) => {
                Err(self.failed(code, maybe_written))
            }
            // Whoever was handed over has a ticket.
            (None, None) => Err(self.failed(RDKafkaErrorCode::Fail, true)),
        };
        refused.into_iter().enumerate().map(outcome).collect()
    }

    #[cold]
    fn failed(&self, code: RDKafkaErrorCode, maybe_written: bool) -> Error {
        use RDKafkaErrorCode as C;
        if matches!(
            code,
            C::UnknownTopic
                | C::UnknownTopicOrPartition
                | C::UnknownPartition
                | C::MessageSizeTooLarge
                | C::TopicAuthorizationFailed
        ) {
            // The topic or a right is gone or was changed: the next publish asks the broker. Until
            // it is asked, the client takes nothing for a topic that was forbidden once.
            self.hub.forget(&self.name);
        }
        self.hub.not_stored(code, maybe_written)
    }
}

fn stored(partition: i32, offset: i64) -> Stored {
    let mut stored = Stored::default();
    stored.partition = u32::try_from(partition).ok();
    stored.offset = u64::try_from(offset).ok();
    stored
}

#[cold]
fn full() -> Error {
    Error::new(ErrorKind::Backpressure, "too many messages wait to be sent").with_broker(BROKER)
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Layout, Retry, Timestamp, TopicName};
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::config::KafkaConfig;

    #[test]
    fn what_a_log_cannot_do_is_refused() {
        assert!(refuse(&SendOptions::default()).is_ok());
        for options in [
            SendOptions::default().deliver_at(Some(Timestamp::now())),
            SendOptions::default().deduplicate(true),
        ] {
            let error = refuse(&options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }

    #[test]
    fn what_the_broker_does_not_tell_is_left_out() {
        assert_eq!(stored(3, 7), {
            let mut s = Stored::at(7);
            s.partition = Some(3);
            s
        });
        assert_eq!(stored(-1, -1), Stored::default());
    }

    /// A topic of one partition on a broker inside of the client.
    async fn simulated() -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, Hub) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        let hub = Hub::connect(KafkaConfig::new(cluster.bootstrap_servers())).await.unwrap();
        (cluster, hub)
    }

    async fn send(hub: &Hub, entries: usize) -> Vec<Result<Stored>> {
        let to = Destination::new(TopicName::new("orders").unwrap(), Layout::Plain, false);
        let one = || Envelope::builder("test").source("/it").build().unwrap();
        let batch: Vec<_> = std::iter::repeat_with(one).take(entries).collect();
        let outcomes = publish(hub, &to, &batch, &SendOptions::default()).await.unwrap();
        outcomes.into_iter().collect()
    }

    #[tokio::test]
    async fn what_the_broker_says_is_told_for_each_entry() {
        use RDKafkaRespErr as R;
        let (cluster, hub) = simulated().await;
        let stored: Vec<_> = send(&hub, 3).await.into_iter().map(|s| s.unwrap().offset).collect();
        assert_eq!(stored, [Some(0), Some(1), Some(2)]);
        // What passes is tried again by the client. One entry, since several may go in several
        // requests, and the simulated broker takes the second for one it has when the first fails.
        let passing =
            [R::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, R::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE];
        cluster.request_errors(RDKafkaApiKey::Produce, &passing);
        let passed = send(&hub, 1).await.pop().unwrap().unwrap();
        assert_eq!(passed.offset, Some(3));
        // An answer for each request, of which there may be as many as entries.
        let forbidden = [R::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3];
        cluster.request_errors(RDKafkaApiKey::Produce, &forbidden);
        for outcome in send(&hub, 3).await {
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Auth, Retry::Never), "{error}");
            assert!(!error.may_be_stored(), "{error}");
        }
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        // The right may come back.
        let again = send(&hub, 3).await;
        assert!(again.iter().all(Result::is_ok), "{again:?}");
    }

    /// The client takes that answer for a success, and the broker gives it to a batch that was
    /// refused while the next one was taken, if both are the first ones of a partition.
    #[tokio::test]
    async fn who_is_told_no_place_is_not_told_that_it_is_stored() {
        let (cluster, hub) = simulated().await;
        let known = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER];
        cluster.request_errors(RDKafkaApiKey::Produce, &known);
        let error = send(&hub, 1).await.pop().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Connection, Retry::Transient));
        assert!(error.may_be_stored(), "{error:?}");
        send(&hub, 1).await.pop().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_fails_for_good_says_so_and_is_made_anew_once_a_second() {
        let (cluster, hub) = simulated().await;
        send(&hub, 1).await.pop().unwrap().unwrap();
        let lost = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER];
        cluster.request_errors(RDKafkaApiKey::Produce, &lost);
        let error = send(&hub, 1).await.pop().unwrap().unwrap_err();
        assert!(error.may_be_stored(), "{error:?}");
        let renewed = Instant::now();
        send(&hub, 1).await.pop().unwrap().unwrap();
        // The reason lasts.
        cluster.request_errors(RDKafkaApiKey::Produce, &lost);
        let error = send(&hub, 1).await.pop().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Fatal, Retry::Never), "{error}");
        let until = Instant::now() + std::time::Duration::from_secs(5);
        loop {
            match send(&hub, 1).await.pop().unwrap() {
                Ok(_) => break assert!(renewed.elapsed() >= std::time::Duration::from_secs(1)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Fatal, "{error}");
                    assert!(!error.may_be_stored() && Instant::now() < until, "{error:?}");
                    let told = hub.ping(until).await.unwrap_err();
                    assert_eq!(told.kind(), ErrorKind::Fatal, "{told}");
                }
            }
        }
    }
}
