//! What goes wrong while reading: what passes, what is a loss, and what is the end.

use posthaste_core::broker::DriverEvent;
use posthaste_core::{Error, ErrorKind, Result, Topology};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::{COMMIT_EVERY, Consumer, SIGN_OF_LIFE, books, start};
use crate::error;

impl Consumer {
    /// Something failed. What passes is an event, if it lasts.
    pub(super) fn look_at(&mut self, native: &KafkaError) -> Result<()> {
        use RDKafkaErrorCode as C;
        let error = error::of(native);
        match native.rdkafka_error_code() {
            _ if matches!(native, KafkaError::MessageConsumptionFatal(_)) => Err(error),
            Some(C::PollExceeded) => {
                // The group has gone on without us; the next poll joins again.
                self.shared.lose(self.source, &self.shared.assigned(self.source));
                self.parked.clear();
                Ok(())
            }
            Some(C::AutoOffsetReset | C::OffsetOutOfRange) => {
                self.look_for_loss();
                Ok(())
            }
            Some(C::UnknownTopic | C::UnknownTopicOrPartition)
                if self.topology != Topology::Create =>
            {
                Err(error)
            }
            _ if error.kind() == ErrorKind::Auth => Err(error),
            _ => {
                tracing::debug!(topic = self.client.context().topics.main, %native, "a poll failed");
                if matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) {
                    self.is_suspect = true;
                    self.cut_off(&error);
                }
                Ok(())
            }
        }
    }

    /// The client says that an offset is gone, but not of which partition.
    fn look_for_loss(&self) {
        let context = self.client.context();
        let until = Instant::now() + SIGN_OF_LIFE * 10;
        for (partition, at) in self.shared.positions(self.source) {
            let place = context.topics.place(partition);
            let ends = start::ends(&self.client, place, until);
            let Ok((first, end)) = ends else { continue };
            if (first..=end).contains(&at) {
                continue;
            }
            let count = u64::try_from(first.saturating_sub(at)).unwrap_or(0);
            self.shared.tell(books::loss(&context.topics.topic, count));
            self.shared.skip(self.source, partition, first);
            let mut list = TopicPartitionList::with_capacity(1);
            let added = list.add_partition_offset(place.0, place.1, Offset::Offset(first));
            context.say(added);
            // The client has stopped reading it, and does not seek where it does not read.
            context.say(self.client.incremental_unassign(&context.list(&[partition])));
            context.say(self.client.incremental_assign(&list));
        }
    }

    /// Asks whether the broker is there, where that is in doubt.
    pub(super) fn look_at_broker(&mut self) {
        let name = &self.client.context().topics.main;
        let answer = self.client.fetch_metadata(Some(name), SIGN_OF_LIFE);
        self.next_look = Instant::now() + COMMIT_EVERY;
        match answer {
            Ok(_) => self.well(),
            Err(native) => self.cut_off(&error::of(&native)),
        }
    }

    /// A connection is lost. The client makes another one.
    fn cut_off(&mut self, error: &Error) {
        if std::mem::replace(&mut self.is_cut_off, true) {
            return;
        }
        let reason = match self.client.context().signs.trouble() {
            Some(trouble) => trouble.text,
            None => error.to_string(),
        };
        self.shared.tell(DriverEvent::Disconnected { reason });
    }

    /// The broker is there.
    pub(super) fn well(&mut self) {
        self.is_suspect = false;
        if std::mem::take(&mut self.is_cut_off) {
            self.shared.tell(DriverEvent::Reconnected);
        }
    }
}
