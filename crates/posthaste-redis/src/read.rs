//! Reading: what is new by a connection that waits for it, and what comes again by scripts.
//!
//! Each function here is one step of a driver, which keeps its future until it is done: a read
//! that is given up would leave what it got with nobody.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{Attempt, Position, Received, Token};
use posthaste_core::{Error, ErrorKind, Result};
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::connect::Connected;
use crate::convert::{self, Place};
use crate::error::{self, BROKER};
use crate::line::Line;
use crate::link::Failure;
use crate::names::FREE;
use crate::script::Script;
use crate::{id, value};

/// How long the server waits for something new.
const BLOCK: Duration = Duration::from_secs(2);
/// How long an answer to that may take. Servers before 7.2.5 may begin to wait anew.
const ANSWER: Duration = Duration::from_secs(9);

/// How many messages of a lane are given back at once.
const MOST_GIVEN: usize = 256;

/// What a step brought.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) messages: Vec<Received>,
    /// How many are no more there, by topic of the plan.
    pub(crate) lost: Vec<(usize, u64)>,
    /// Whether there may be more of it.
    pub(crate) more: bool,
}

/// The connection of a reader, and its number at the server.
#[derive(Clone)]
pub(crate) struct Reader {
    connected: Connected,
    pub(crate) number: Option<i64>,
}

impl Reader {
    pub(crate) const fn new(connected: Connected) -> Self {
        Self { connected, number: None }
    }

    /// Nobody gets an answer by it any more.
    pub(crate) fn end(&self) {
        self.connected.life.cancel();
    }

    async fn ask(&mut self, command: &Cmd, within: Duration) -> Result<Value> {
        let life = self.connected.life.clone();
        let asked = self.connected.client.send_packed_command(command);
        let answered = tokio::select! {
            answered = tokio::time::timeout(within, asked) => answered,
            () = life.cancelled() => {
                return Err(Error::new(ErrorKind::Connection, "the connection was lost")
                    .with_broker(BROKER));
            }
        };
        match answered {
            Ok(Ok(answer)) => value::ok(answer),
            Ok(Err(native)) => Err(error::native(native)),
            Err(_) => Err(error::timed_out()),
        }
    }
}

/// Which connection this is for the server, so that it can be told to wait no longer.
pub(crate) async fn identify(mut reader: Reader) -> Result<Reader> {
    let mut command = redis::cmd("CLIENT");
    command.arg("ID");
    reader.number = value::int(&reader.ask(&command, ANSWER).await?);
    Ok(reader)
}

/// Reads what is new, or waits for it. At most `most` messages, of all sources together.
pub(crate) async fn new(
    line: Arc<Line>,
    mut reader: Reader,
    sources: Vec<usize>,
    most: usize,
) -> Result<Batch> {
    // The server counts for each stream.
    let each = most / sources.len().max(1);
    // A read of a lane that arrives late would take what is its next owner's: a script looks.
    let lanes = sources.iter().any(|source| line.is_lane(*source));
    if each > 0 && !lanes {
        let mut command = Cmd::new();
        command.arg("XREADGROUP").arg("GROUP").arg(&line.plan.name).arg(&line.plan.consumer);
        command.arg("COUNT").arg(each).arg("BLOCK").arg(BLOCK.as_millis().to_string());
        if line.settles_first() {
            command.arg("NOACK");
        }
        command.arg("STREAMS");
        for source in &sources {
            command.arg(&line.sources[*source].key);
        }
        for _ in &sources {
            command.arg(">");
        }
        let answer = reader.ask(&command, ANSWER).await?;
        return Ok(Batch { messages: fresh(&line, &sources, answer)?, ..Batch::default() });
    }
    few(&line, &mut reader, &sources, most).await
}

/// With less credit than streams, or of lanes: what there is, else waits on all of them without
/// taking it.
async fn few(
    line: &Arc<Line>,
    reader: &mut Reader,
    sources: &[usize],
    most: usize,
) -> Result<Batch> {
    let mut keys: Vec<String> =
        sources.iter().map(|source| line.sources[*source].key.clone()).collect();
    keys.extend(sources.iter().map(|source| line.lanes_key(*source)));
    let held = line.state().held(line.sources.len());
    let read = line.hub.call(Script::Fetch, &keys, |call| {
        call.arg(&line.plan.name).arg(&line.plan.consumer).arg(most);
        call.arg(u8::from(line.settles_first()));
        for source in sources {
            call.arg(line.lane_number(*source));
        }
        for source in sources {
            call.arg(held.get(*source).copied().unwrap_or(0));
        }
    });
    let mut parts = value::array(read.await?)?.into_iter();
    let found = value::next_count(&mut parts, "fetch")?;
    let what = value::next(&mut parts, "fetch")?;
    match found {
        0 => {}
        1 => {
            let messages = fresh(line, sources, what)?;
            return Ok(Batch { messages, ..Batch::default() });
        }
        // What nobody holds comes first.
        _ => {
            let places = value::array(what)?;
            let places =
                places.iter().filter_map(|place| usize::try_from(value::count(place)?).ok());
            for source in places.filter_map(|place| sources.get(place)) {
                give_back(line, *source).await?;
            }
            return Ok(Batch { more: true, ..Batch::default() });
        }
    }
    keys.truncate(sources.len());
    let mut command = Cmd::new();
    command.arg("XREAD").arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis().to_string());
    command.arg("STREAMS").arg(&keys);
    for last in value::array(what)? {
        command.arg(value::bytes(&last).unwrap_or(b"$"));
    }
    reader.ask(&command, ANSWER).await?;
    Ok(Batch::default())
}

/// The messages of an answer to `XREADGROUP`.
fn fresh(line: &Line, sources: &[usize], answer: Value) -> Result<Vec<Received>> {
    let mut messages = Vec::new();
    for stream in value::array(answer)? {
        let mut parts = value::array(stream)?.into_iter();
        let key = value::next(&mut parts, "XREADGROUP")?;
        let key = value::bytes(&key);
        let at = sources.iter().find(|at| Some(line.sources[**at].key.as_bytes()) == key);
        let Some(source) = at else { return Err(error::unexpected("XREADGROUP")) };
        let entries = value::array(value::next(&mut parts, "XREADGROUP")?)?;
        messages.reserve(entries.len());
        let state = line.state();
        for entry in entries {
            let mut parts = value::array(entry)?.into_iter();
            let id = value::next(&mut parts, "XREADGROUP")?;
            let fields = value::array(value::next(&mut parts, "XREADGROUP")?)?;
            messages.extend(received(line, &state, *source, &id, 1, fields));
        }
    }
    Ok(messages)
}

/// One message; nothing if its lane is not ours any more.
fn received(
    line: &Line,
    state: &crate::line::State,
    source: usize,
    id: &Value,
    count: u32,
    fields: Vec<Value>,
) -> Option<Received> {
    let lane = state.lanes.lane(source)?;
    let of = &line.sources[source];
    let planned = line.topic(of)?;
    let offset = value::bytes(id).and_then(id::parse)?;
    let place = Place { topic: &planned.topic, offset, private: of.private };
    let entry = convert::entry(fields, place);
    let mut token = Token::sequence(u32::try_from(source).ok()?, count, offset);
    if entry.before > 0 {
        // The settler has to know it; only what comes again has it.
        token = token.with_handle(bytes::Bytes::copy_from_slice(&entry.before.to_le_bytes()));
    }
    let position = Position::offset(entry.offset)
        .in_partition(of.partition)
        .stored_at(convert::time_of(entry.offset));
    Some(
        Received::new(entry.envelope, token, Arc::clone(lane))
            .with_attempt(Attempt::exact(count.saturating_add(entry.before)))
            .with_position(position),
    )
}

/// How often the message of a copy was delivered before.
pub(crate) fn before(token: &Token) -> u32 {
    token.handle.as_ref().try_into().map_or(0, u32::from_le_bytes)
}

/// Takes what was given back, what nobody holds any more, and what is in the private channels.
pub(crate) async fn take(line: Arc<Line>, most: usize) -> Result<Batch> {
    let mut batch = Batch::default();
    for (at, planned) in line.plan.topics.iter().enumerate() {
        let left = most - batch.messages.len();
        if left == 0 {
            batch.more = true;
            break;
        }
        let mut sources: Vec<usize> = {
            let state = line.state();
            planned.streams().filter(|source| state.lanes.is_live(*source)).collect()
        };
        sources.push(planned.private());
        let mut keys = vec![planned.keys.lanes()];
        keys.extend(sources.iter().map(|source| line.sources[*source].key.clone()));
        let taken = line.hub.call(Script::Take, &keys, |call| {
            call.arg(&line.plan.name).arg(&line.plan.consumer);
            call.arg(line.plan.lease.as_millis().to_string()).arg(left);
            call.arg(u8::from(line.settles_first()));
            for source in &sources {
                call.arg(line.lane_number(*source));
            }
        });
        let answers = value::array(taken.await?)?;
        let mut lost = 0;
        for (source, answer) in sources.into_iter().zip(answers) {
            let mut parts = value::array(answer)?.into_iter();
            let entries = value::next(&mut parts, "take")?;
            again(&line, source, entries, &mut batch.messages)?;
            lost += value::next_count(&mut parts, "take")?;
        }
        if lost > 0 {
            batch.lost.push((at, lost));
        }
    }
    batch.more |= batch.messages.len() >= most;
    Ok(batch)
}

/// Takes what the former owner of a lane has left.
pub(crate) async fn sweep(
    line: Arc<Line>,
    source: usize,
    after: String,
    most: usize,
) -> Result<Batch> {
    let of = &line.sources[source];
    let keys = [of.key.clone(), line.lanes_key(source)];
    let swept = line.hub.call(Script::Sweep, &keys, |call| {
        call.arg(&line.plan.name).arg(&line.plan.consumer).arg(after).arg(most);
        call.arg(u8::from(line.settles_first())).arg(line.lane_number(source));
    });
    let mut parts = value::array(swept.await?)?.into_iter();
    let mut batch = Batch::default();
    again(&line, source, value::next(&mut parts, "sweep")?, &mut batch.messages)?;
    let lost = value::next_count(&mut parts, "sweep")?;
    if lost > 0 {
        batch.lost.push((of.topic, lost));
    }
    let last = value::next(&mut parts, "sweep")?;
    line.state().lanes.swept(source, value::text(&last).unwrap_or(""));
    Ok(batch)
}

/// The entries of a script, each with the count of its deliveries, in their order.
fn again(line: &Line, source: usize, entries: Value, out: &mut Vec<Received>) -> Result<()> {
    let before = out.len();
    let state = line.state();
    for entry in value::array(entries)? {
        let mut parts = value::array(entry)?.into_iter();
        let id = value::next(&mut parts, "a script")?;
        let count = value::next_count(&mut parts, "a script")?;
        let fields = value::array(value::next(&mut parts, "a script")?)?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        out.extend(received(line, &state, source, &id, count, fields));
    }
    out[before..].sort_by_key(|received| received.token.sequence);
    Ok(())
}

/// Gives back what is pending on a lane of ours and is not held here: an answer about it was lost,
/// or its lease is over. What was delivered stays counted.
async fn give_back(line: &Line, source: usize) -> Result<()> {
    let held: Vec<String> = {
        let state = line.state();
        let of_lane = state.out.keys().filter(|(lane, _)| usize::try_from(*lane) == Ok(source));
        of_lane.map(|(_, offset)| id::text(*offset)).collect()
    };
    let most = held.len().saturating_add(MOST_GIVEN);
    let keys = [line.sources[source].key.clone(), line.lanes_key(source)];
    let given = line.hub.call(Script::GiveBack, &keys, |call| {
        call.arg(&line.plan.name).arg(&line.plan.consumer).arg(line.lane_number(source));
        call.arg(most);
        held.iter().for_each(|id| {
            call.arg(id);
        });
    });
    value::ok(given.await?).map(drop)
}

/// Gives back what this member has at the server and has never seen, because the answer to a read
/// was lost.
pub(crate) async fn recover(line: Arc<Line>) -> Result<()> {
    let sources: Vec<usize> = {
        let state = line.state();
        (0..line.sources.len()).filter(|source| state.lanes.lane(*source).is_some()).collect()
    };
    if sources.is_empty() || line.settles_first() {
        return Ok(());
    }
    let mut commands = Pipeline::with_capacity(sources.len());
    let most = line.plan.prefetch.saturating_mul(2).saturating_add(256);
    for source in &sources {
        let key = &line.sources[*source].key;
        let pending = commands.cmd("XPENDING").arg(key).arg(&line.plan.name);
        pending.arg("-").arg("+").arg(most).arg(&line.plan.consumer);
    }
    let until = Instant::now() + line.hub.settings.request_timeout;
    let answers = line.hub.commands.send(&commands, until).await.map_err(Failure::into_error)?;
    let mut commands = Pipeline::new();
    for (source, answer) in sources.into_iter().zip(answers) {
        let state = line.state();
        for pending in value::array(answer)? {
            let parts = value::array(pending)?;
            let id = parts.first().and_then(value::text);
            let count = parts.get(3).and_then(value::count).unwrap_or(1);
            let Some((id, offset)) = id.and_then(|id| Some((id, id::parse(id.as_bytes())?))) else {
                continue;
            };
            let number = u32::try_from(source).unwrap_or(u32::MAX);
            if state.out.contains_key(&(number, offset)) {
                continue;
            }
            // Nobody saw it: it counts as never delivered to us.
            let free = commands.cmd("XCLAIM").arg(&line.sources[source].key).arg(&line.plan.name);
            free.arg(FREE).arg(0).arg(id);
            free.arg("RETRYCOUNT").arg(count.saturating_sub(1)).arg("JUSTID");
        }
    }
    if !commands.is_empty() {
        line.hub.commands.send(&commands, until).await.map_err(Failure::into_error)?;
    }
    line.state().take = true;
    Ok(())
}
