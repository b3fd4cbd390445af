//! Publishing: a batch is one pipeline, and each entry has its answer.

use posthaste_core::broker::{Destination, Outcomes, SendOptions, Stored};
use posthaste_core::{Envelope, Error, ErrorKind, Result, Timestamp};
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;

use crate::error::{self, BROKER};
use crate::hub::{Hub, Known};
use crate::link::Failure;
use crate::script::Script;
use crate::{convert, id, topology, value};

/// What an `XADD` holds besides payload, attributes and key.
const OVERHEAD: usize = 64;

pub(crate) async fn publish(
    hub: &Hub,
    to: &Destination,
    batch: &[Envelope],
    options: &SendOptions,
) -> Result<Outcomes> {
    hub.open()?;
    let known = match known(hub, to).await {
        Ok(known) => known,
        Err(error) => return Ok(Outcomes::failed(batch.len(), &error)),
    };
    let how = How::of(hub, &known, options);
    let mut refused: Vec<(usize, Error)> = Vec::new();
    let mut commands = Pipeline::with_capacity(batch.len());
    for (at, envelope) in batch.iter().enumerate() {
        match how.command(hub, &known, to, envelope) {
            Ok(command) => {
                commands.add_command(command);
            }
            Err(error) => refused.push((at, error)),
        }
    }
    let answers = if commands.is_empty() {
        Ok(Vec::new())
    } else {
        hub.scripts.send(&hub.publish, &commands, hub.until()).await
    };
    let mut refused = refused.into_iter().peekable();
    let mut outcomes = Outcomes::with_capacity(batch.len());
    let mut answers = answers.map(Vec::into_iter);
    for (at, envelope) in batch.iter().enumerate() {
        if refused.peek().is_some_and(|(refused, _)| *refused == at)
            && let Some((_, error)) = refused.next()
        {
            outcomes.push(Err(error));
            continue;
        }
        outcomes.push(match &mut answers {
            Ok(answers) => match answers.next() {
                Some(answer) => outcome(to, envelope, answer),
                // There is an answer to each command.
                None => Err(error::unexpected("XADD")),
            },
            Err(failure) => Err(unknown(failure)),
        });
    }
    if outcomes.iter().any(|outcome| matches!(outcome, Err(e) if e.kind() == ErrorKind::NotFound)) {
        // What is there now is looked at before the next batch.
        hub.forget(&to.topic);
    }
    Ok(outcomes)
}

/// Looks at the topic once.
async fn known(hub: &Hub, to: &Destination) -> Result<Arc<Known>> {
    let known = match hub.known(&to.topic) {
        Some(known) => known,
        None => topology::look(hub, &to.topic).await?,
    };
    if known.layout != to.layout || known.queue != to.queue {
        return Err(Error::new(ErrorKind::Conflict, "the topic is laid out in another way")
            .with_context("wanted", format_args!("{:?}", to.layout))
            .with_context("found", format_args!("{:?}", known.layout))
            .with_topic(&to.topic)
            .with_broker(BROKER));
    }
    Ok(known)
}

/// What of a batch is more than a plain `XADD`.
struct How {
    window: Option<u128>,
    most: Option<u64>,
    due: Option<i64>,
}

impl How {
    fn of(hub: &Hub, known: &Known, options: &SendOptions) -> Self {
        let window = known.deduplication_window.unwrap_or(hub.settings.deduplication_window);
        let due = options.deliver_at.filter(|at| !at.since(Timestamp::now()).is_zero());
        Self {
            window: options.deduplicate.then(|| window.as_millis().max(1)),
            most: known.max_messages,
            // Not before: what is left of a millisecond counts as a whole one.
            due: due.map(|at| at.as_micros().saturating_add(999).div_euclid(1_000)),
        }
    }

    fn command(
        &self,
        hub: &Hub,
        known: &Known,
        to: &Destination,
        envelope: &Envelope,
    ) -> Result<Cmd> {
        let partition = to.layout.partition(envelope).map(usize::from);
        // What the topic has no stream for is not there.
        let at = partition.unwrap_or(known.streams.len().saturating_sub(1));
        let stream = known.streams.get(at).map_or("", String::as_str);
        let limit = hub.settings.max_message_bytes;
        if self.window.is_none() && self.most.is_none() && self.due.is_none() {
            let size = envelope.size() * 2 + stream.len() + OVERHEAD;
            let mut command = Cmd::with_capacity(8, size);
            command.arg("XADD").arg(stream).arg("NOMKSTREAM").arg("*");
            convert::fields(envelope, limit, &mut command)?;
            return Ok(command);
        }
        let keys = [
            stream.to_owned(),
            known.keys.record.clone(),
            known.keys.published(envelope.id()),
            known.keys.later(),
            known.keys.later_entries(),
        ];
        let mut made = Ok(());
        let command = hub.scripts.call(Script::Publish, &keys, |call| {
            let text = |number: Option<String>| number.unwrap_or_default();
            call.arg(text(self.window.map(|window| window.to_string())));
            call.arg(text(self.most.map(|most| most.to_string())));
            call.arg(text(self.due.map(|due| due.to_string())));
            made = convert::fields(envelope, limit, call);
        });
        made.map(|()| command)
    }
}

fn outcome(to: &Destination, envelope: &Envelope, answer: Value) -> Result<Stored> {
    let mut stored = Stored::default();
    stored.partition = to.layout.partition(envelope).map(u32::from);
    match answer {
        Value::ServerError(refused) => return Err(error::server(&refused)),
        Value::Nil => return Err(error::no_topic().with_topic(&to.topic)),
        Value::Array(parts) => {
            stored.offset = parts.first().and_then(value::bytes).and_then(id::parse);
            stored.duplicate = parts.get(1).and_then(value::int) == Some(1);
        }
        id => stored.offset = value::bytes(&id).and_then(id::parse),
    }
    Ok(stored)
}

/// Nothing is known of what was sent and not answered.
#[cold]
fn unknown(failure: &Failure) -> Error {
    failure.error.duplicate().with_may_be_stored(failure.sent)
}
