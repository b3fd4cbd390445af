//! Reading what is retained, without a group.

use posthaste_core::broker::{Position, RangeQuery, Retained, Start};
use posthaste_core::{Error, Result, TopicName};
use redis::Pipeline;

use crate::convert::{self, Place};
use crate::error::BROKER;
use crate::hub::Hub;
use crate::link::Failure;
use crate::{id, topology, value};

/// Reads messages of all streams of the topic, the oldest first.
///
/// # Errors
/// `NotFound`; `Invalid` for a start that is none here.
pub(crate) async fn read(
    hub: &Hub,
    topic: &TopicName,
    query: &RangeQuery,
) -> Result<Vec<Retained>> {
    let (from, only) = match query.from {
        Start::Earliest => ("-".to_owned(), None),
        Start::At(at) => {
            let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
            (format!("{millis}-0"), None)
        }
        Start::AtOffset { partition, offset } => (id::text(offset), partition),
        _ => {
            return Err(Error::invalid("a range begins at Earliest, a time or an offset")
                .with_broker(BROKER));
        }
    };
    let known = topology::look(hub, topic).await?;
    let lanes = known.layout.partitions().map_or(0, u32::from);
    let streams = (0..).zip(&known.streams).map(|(number, key)| {
        let partition: Option<u32> = (number < lanes).then_some(number);
        (partition, key)
    });
    let streams: Vec<_> =
        streams.filter(|(partition, _)| only.is_none() || only == *partition).collect();
    let mut commands = Pipeline::with_capacity(streams.len());
    for (_, key) in &streams {
        commands.cmd("XRANGE").arg(key).arg(&from).arg("+").arg("COUNT").arg(query.limit);
    }
    let answers = hub.commands.send(&commands, hub.until()).await.map_err(Failure::into_error)?;
    let mut found = Vec::new();
    for ((partition, _), answer) in streams.into_iter().zip(answers) {
        for entry in value::array(answer)? {
            let mut parts = value::array(entry)?.into_iter();
            let name = value::next(&mut parts, "XRANGE")?;
            let fields = value::array(value::next(&mut parts, "XRANGE")?)?;
            let Some(offset) = value::bytes(&name).and_then(id::parse) else { continue };
            let read = convert::entry(fields, Place { topic, offset, private: false });
            let position = Position::offset(offset)
                .in_partition(partition)
                .stored_at(convert::time_of(offset));
            found.push((offset, Retained::new(read.envelope, position)));
        }
    }
    found.sort_by_key(|(offset, _)| *offset);
    found.truncate(query.limit);
    Ok(found.into_iter().map(|(_, retained)| retained).collect())
}
