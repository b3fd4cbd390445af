//! Dead letters: a stream for each group.

use posthaste_core::broker::{DeadLetterPage, DeadLetterQuery, StoredLetter};
use posthaste_core::{Error, ErrorKind, GroupName, LetterId, Result, TopicName};
use redis::{Pipeline, Value};

use crate::convert::{self, Place};
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::link::Failure;
use crate::script::Script;
use crate::{id, topology, value};

/// How many are asked for at once at most.
const PAGE: usize = 1_000;

/// Lists letters.
///
/// # Errors
/// `NotFound` for a group that never was.
pub(crate) async fn list(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    query: &DeadLetterQuery,
) -> Result<DeadLetterPage> {
    let known = topology::look(hub, topic).await?;
    let key = known.keys.letters(group);
    let from = match &query.after {
        Some(letter) => format!("({}", letter.as_str()),
        None => "-".to_owned(),
    };
    let mut commands = Pipeline::with_capacity(3);
    commands.cmd("HEXISTS").arg(&known.keys.record).arg(format!("g:{group}"));
    commands.cmd("EXISTS").arg(&key);
    commands.cmd("XRANGE").arg(&key).arg(from).arg("+").arg("COUNT").arg(query.limit.min(PAGE));
    let answers = hub.commands.send(&commands, hub.until()).await.map_err(Failure::into_error)?;
    let mut answers = answers.into_iter();
    let group_is_there = value::next_count(&mut answers, "HEXISTS")? > 0;
    if value::next_count(&mut answers, "EXISTS")? == 0 && !group_is_there {
        return Err(error::no_group());
    }
    let mut letters = Vec::new();
    for entry in value::array(value::next(&mut answers, "XRANGE")?)? {
        let mut parts = value::array(entry)?.into_iter();
        let name = value::next(&mut parts, "XRANGE")?;
        let fields = value::array(value::next(&mut parts, "XRANGE")?)?;
        let offset = value::bytes(&name).and_then(id::parse).unwrap_or_default();
        let place = Place { topic, offset, private: false };
        let read = convert::entry(fields.clone(), place);
        let letter = convert::letter(&fields, read.envelope, topic, group);
        let name = LetterId::new(value::text(&name).unwrap_or_default());
        letters.push(StoredLetter::new(name, letter));
    }
    Ok(DeadLetterPage::new(letters, true))
}

/// Sends letters back to their group. One outcome for each.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn replay(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Result<Vec<Result<()>>> {
    let known = topology::look(hub, topic).await?;
    let keys = [known.keys.letters(group), known.keys.group(group.as_str()).private()];
    each(hub, letters, |commands, letter| {
        commands.add_command(hub.scripts.call(Script::Replay, &keys, |call| {
            call.arg(letter).arg(group.as_str());
        }));
    })
    .await
}

/// Removes letters for good. One outcome for each.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn discard(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Result<Vec<Result<()>>> {
    let known = topology::look(hub, topic).await?;
    let key = known.keys.letters(group);
    each(hub, letters, |commands, letter| {
        let keys = [key.clone()];
        commands.add_command(hub.scripts.call(Script::Discard, &keys, |call| {
            call.arg(letter);
        }));
    })
    .await
}

/// Does something with each letter. A name that cannot be one is not there.
async fn each(
    hub: &Hub,
    letters: &[LetterId],
    mut act: impl FnMut(&mut Pipeline, &str),
) -> Result<Vec<Result<()>>> {
    let mut commands = Pipeline::with_capacity(letters.len());
    let sound = |letter: &LetterId| id::parse(letter.as_str().as_bytes()).is_some();
    for letter in letters.iter().filter(|letter| sound(letter)) {
        act(&mut commands, letter.as_str());
    }
    let mut answers = Vec::new().into_iter();
    if !commands.is_empty() {
        let sent = hub.scripts.send(&hub.commands, &commands, hub.until()).await;
        answers = sent.map_err(Failure::into_error)?.into_iter();
    }
    let missing = |letter: &LetterId| {
        Error::new(ErrorKind::NotFound, "there is no such dead letter")
            .with_context("letter", letter.as_str().escape_debug())
            .with_broker(BROKER)
    };
    let outcomes = letters.iter().map(|letter| {
        let answer = if sound(letter) { answers.next() } else { None };
        match answer.map(value::ok) {
            Some(Ok(Value::Int(-2))) => Err(error::no_group()),
            Some(Ok(Value::Int(-1))) | None => Err(missing(letter)),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    });
    Ok(outcomes.collect())
}
