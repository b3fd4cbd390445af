//! Settling: acknowledgements of a stream together, everything else by a script that looks whose
//! the delivery is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, DriverEvent, Extended, Parcel, SettleOutcome, SettleReport, Settlement, Settler,
    Token, Verdict,
};
use posthaste_core::{Error, ErrorKind, Result};
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::line::{Line, Source, TopicPlan};
use crate::link::Failure;
use crate::script::Script;
use crate::{convert, id, read, value};

/// The way back of one subscription.
#[derive(Debug)]
pub(crate) struct RedisSettler {
    line: Arc<Line>,
}

/// What an answer is about.
enum Of {
    /// Acknowledgements, by their place in the batch.
    Acks(Vec<usize>),
    /// What acknowledgements leave behind.
    Rest,
    /// One verdict.
    Verdict(usize),
}

impl RedisSettler {
    pub(crate) const fn new(line: Arc<Line>) -> Self {
        Self { line }
    }

    fn at(&self, token: &Token) -> Result<(&Source, &TopicPlan)> {
        let source = self.line.source(token);
        source.and_then(|source| Some((source, self.line.topic(source)?))).ok_or_else(|| {
            Error::invalid("the message is none of this subscription").with_broker(BROKER)
        })
    }

    /// The acknowledgements of a batch: one command for each stream.
    fn acks(&self, batch: &[Settlement], commands: &mut Pipeline, of: &mut Vec<Of>) {
        let mut lanes: Vec<u32> = Vec::new();
        for settlement in batch {
            let lane = settlement.token.lane;
            if matches!(settlement.verdict, Verdict::Ack) && !lanes.contains(&lane) {
                lanes.push(lane);
            }
        }
        for lane in lanes {
            let mine = |(_, settlement): &(usize, &Settlement)| {
                settlement.token.lane == lane && matches!(settlement.verdict, Verdict::Ack)
            };
            let mine: Vec<(usize, &Settlement)> = batch.iter().enumerate().filter(mine).collect();
            let Some(source) = mine.first().and_then(|(_, first)| self.line.source(&first.token))
            else {
                continue;
            };
            let ids = || mine.iter().map(|(_, settlement)| id::text(settlement.token.sequence));
            let mut ack =
                Cmd::with_capacity(mine.len() + 3, mine.len() * 20 + source.key.len() + 64);
            ack.arg("XACK").arg(&source.key).arg(&self.line.plan.name);
            ids().for_each(|id| {
                ack.arg(id);
            });
            commands.add_command(ack);
            of.push(Of::Acks(mine.iter().map(|(at, _)| *at).collect()));
            if source.private {
                // It is nobody else's.
                let delete = commands.cmd("XDEL").arg(&source.key);
                ids().for_each(|id| {
                    delete.arg(id);
                });
                of.push(Of::Rest);
            }
        }
    }

    fn verdict(&self, settlement: &Settlement, copied: bool) -> Result<Cmd> {
        let token = &settlement.token;
        let (source, planned) = self.at(token)?;
        let plan = &self.line.plan;
        let whose = |call: &mut Cmd| {
            call.arg(&plan.name).arg(&plan.consumer);
            call.arg(id::text(token.sequence)).arg(token.generation);
        };
        let keys = &planned.keys;
        let scripts = &self.line.hub.scripts;
        Ok(match &settlement.verdict {
            Verdict::Release(parcel) | Verdict::Requeue(parcel) => {
                scripts.call(Script::Release, std::slice::from_ref(&source.key), |call| {
                    whose(call);
                    call.arg(parcel.attempt.saturating_sub(read::before(token)));
                })
            }
            Verdict::After(delay, parcel) => {
                let all =
                    [source.key.clone(), keys.waiting(), keys.waiting_entries(), keys.private()];
                scripts.call(Script::Later, &all, |call| {
                    whose(call);
                    call.arg(millis(*delay)).arg(parcel.attempt).arg(u8::from(source.private));
                    if copied {
                        copy(parcel, call);
                    }
                })
            }
            Verdict::DeadLetter(letter) => {
                let all = [source.key.clone(), planned.known.keys.letters(&letter.group)];
                scripts.call(Script::Letter, &all, |call| {
                    whose(call);
                    call.arg(u8::from(source.private));
                    convert::letter_fields(letter, call);
                })
            }
            _ => return Err(Error::unsupported("this verdict is not known").with_broker(BROKER)),
        })
    }

    /// What a verdict brought; `true` if the message of a copy is not in its stream any more.
    fn judged(&self, settlement: &Settlement, answer: Value) -> (Option<SettleOutcome>, bool) {
        match value::ok(answer).map(|answer| value::int(&answer)) {
            Ok(Some(1)) => {
                self.done(settlement);
                (None, false)
            }
            Ok(Some(-1)) => (None, true),
            Ok(_) => (Some(self.lost(settlement)), false),
            Err(error) if error::is_gone(&error) => (Some(self.lost(settlement)), false),
            Err(error) => {
                self.line.state().settled(&settlement.token);
                (Some(SettleOutcome::Failed(error)), false)
            }
        }
    }

    fn lost(&self, settlement: &Settlement) -> SettleOutcome {
        self.line.state().settled(&settlement.token);
        SettleOutcome::LeaseLost
    }

    /// It is not out any more.
    fn done(&self, settlement: &Settlement) {
        let mut state = self.line.state();
        state.settled(&settlement.token);
        if let Verdict::After(delay, _) = settlement.verdict {
            let at = Instant::now() + delay + Duration::from_millis(1);
            state.due = Some(state.due.map_or(at, |due| due.min(at)));
            drop(state);
            self.line.changed.notify_one();
        }
    }

    /// What was given back and is not in its stream any more.
    fn tell_lost(&self, lost: &[&Settlement]) {
        for (topic, planned) in self.line.plan.topics.iter().enumerate() {
            let of = |settlement: &&&Settlement| {
                self.line.source(&settlement.token).is_some_and(|source| source.topic == topic)
            };
            let count = lost.iter().filter(of).count();
            if count > 0 {
                self.line.state().tell(DriverEvent::Lost {
                    topic: planned.topic.clone(),
                    count: u64::try_from(count).ok(),
                    reason: "removed from the stream before it was settled".to_owned(),
                });
            }
        }
    }

    /// Tries once more what is not in its stream, with a copy of ours.
    async fn copy(
        &self,
        batch: &[Settlement],
        gone: Vec<usize>,
        report: &mut SettleReport,
    ) -> Result<()> {
        let mut commands = Pipeline::with_capacity(gone.len());
        for at in &gone {
            commands.add_command(self.verdict(&batch[*at], true)?);
        }
        let hub = &self.line.hub;
        let answers = hub.scripts.send(&hub.commands, &commands, hub.until()).await;
        let answers = answers.map_err(Failure::into_error)?;
        for (at, answer) in gone.into_iter().zip(answers) {
            if let (Some(outcome), _) = self.judged(&batch[at], answer) {
                report.except(at, outcome);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Settler for RedisSettler {
    // The server answers each command: both confirmations are the same.
    async fn settle(&self, batch: &[Settlement], _: Confirmation) -> Result<SettleReport> {
        let mut report = SettleReport::done();
        let mut commands = Pipeline::with_capacity(8);
        let mut of = Vec::new();
        self.acks(batch, &mut commands, &mut of);
        for (at, settlement) in batch.iter().enumerate() {
            if matches!(settlement.verdict, Verdict::Ack) {
                continue;
            }
            match self.verdict(settlement, false) {
                Ok(command) => {
                    commands.add_command(command);
                    of.push(Of::Verdict(at));
                }
                Err(error) => report.except(at, SettleOutcome::Failed(error)),
            }
        }
        if commands.is_empty() {
            return Ok(report);
        }
        let hub = &self.line.hub;
        let answers = hub.scripts.send(&hub.commands, &commands, hub.until()).await;
        let answers = answers.map_err(|failure| failure.error.with_operation("settle"))?;
        let (mut back, mut gone, mut lost) = (false, Vec::new(), Vec::new());
        for (of, answer) in of.into_iter().zip(answers) {
            match of {
                Of::Rest => {}
                Of::Acks(all) => match value::ok(answer) {
                    Ok(_) => all.iter().for_each(|at| self.done(&batch[*at])),
                    Err(error) if error::is_gone(&error) => {}
                    Err(error) => {
                        for at in all {
                            report.except(at, SettleOutcome::Failed(error.duplicate()));
                        }
                    }
                },
                Of::Verdict(at) => {
                    let settlement = &batch[at];
                    let (outcome, is_gone) = self.judged(settlement, answer);
                    let given_back =
                        matches!(settlement.verdict, Verdict::Release(_) | Verdict::Requeue(_));
                    back |= given_back && outcome.is_none();
                    if is_gone && given_back {
                        self.done(settlement);
                        lost.push(settlement);
                    } else if is_gone {
                        gone.push(at);
                    }
                    if let Some(outcome) = outcome {
                        report.except(at, outcome);
                    }
                }
            }
        }
        if !gone.is_empty() {
            self.copy(batch, gone, &mut report).await?;
        }
        self.tell_lost(&lost);
        if back {
            self.line.take();
        }
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        let mut lanes: Vec<u32> = tokens.iter().map(|token| token.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let (mut commands, mut of) = (Pipeline::with_capacity(lanes.len()), Vec::new());
        let plan = &self.line.plan;
        for lane in lanes {
            let mine: Vec<usize> =
                (0..tokens.len()).filter(|at| tokens[*at].lane == lane).collect();
            let Some(first) = mine.first() else { continue };
            let (source, _) = self.at(&tokens[*first])?;
            commands.add_command(self.line.hub.scripts.call(
                Script::Extend,
                std::slice::from_ref(&source.key),
                |call| {
                    call.arg(&plan.name).arg(&plan.consumer);
                    for at in &mine {
                        call.arg(id::text(tokens[*at].sequence)).arg(tokens[*at].generation);
                    }
                },
            ));
            of.push(mine);
        }
        let hub = &self.line.hub;
        let answers = hub.scripts.send(&hub.commands, &commands, hub.until()).await;
        let answers = answers.map_err(|failure| failure.error.with_operation("extend"))?;
        let mut lost = Vec::new();
        for (mine, answer) in of.into_iter().zip(answers) {
            match value::array(answer) {
                Ok(places) => lost.extend(places.iter().filter_map(|place| {
                    mine.get(usize::try_from(value::count(place)?).ok()?).copied()
                })),
                Err(error) if error.kind() == ErrorKind::NotFound => lost.extend(mine),
                Err(error) => return Err(error),
            }
        }
        let until = Instant::now() + plan.lease;
        let mut state = self.line.state();
        for (at, token) in tokens.iter().enumerate() {
            if lost.contains(&at) {
                state.settled(token);
            } else if let Some(out) = state.out.get_mut(&(token.lane, token.sequence)) {
                out.until = until;
            }
        }
        Ok(Extended::except(lost))
    }
}

/// What is left of a millisecond counts as a whole one: not before its time.
fn millis(delay: Duration) -> String {
    (delay.as_micros().div_ceil(1_000)).to_string()
}

fn copy(parcel: &Parcel, call: &mut Cmd) {
    // What was received is not held to the limits for what is sent.
    drop(convert::fields(&parcel.envelope, usize::MAX, call));
}
