//! The task of a subscription: shows that the member is there, moves what is due, divides lanes,
//! and tells a read to wait no longer when there is something else to do.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::Result;
use posthaste_core::broker::DriverEvent;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::line::{Line, TopicPlan};
use crate::link::Failure;
use crate::script::Script;
use crate::topology::groups_base;
use crate::{error, value};

/// How often what is due and what others gave back is looked for.
const TICK: Duration = Duration::from_millis(400);
/// How many messages that are due are moved at once.
const MOVED: usize = 256;
/// How often what is settled by everybody is removed.
const TIDY: Duration = Duration::from_secs(10);
/// After so long without having read or settled anything, a consumer that is no member is deleted.
const IDLE: Duration = Duration::from_secs(3_600);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// A command that was sent so long ago has arrived.
const ARRIVED: Duration = Duration::from_secs(1);
/// How soon a read that did not hear that it should end is told again.
const AGAIN: Duration = Duration::from_millis(30);

/// Runs until the driver is dropped, or the bus is closed; then says goodbye.
pub(crate) async fn run(line: Arc<Line>, ended: CancellationToken) {
    let mut work = Upkeep::new(Arc::clone(&line));
    tokio::select! {
        () = ended.cancelled() => {}
        () = line.hub.closed().cancelled() => {}
        () = work.run() => {}
    }
    {
        let mut state = line.state();
        for source in 0..line.sources.len() {
            if line.is_lane(source) {
                drop(state.lanes.lose(source));
            }
        }
        if !ended.is_cancelled() {
            state.failed = Some(error::closed());
            state.wake();
        }
    }
    let left = line.state().left;
    if !left {
        drop(tokio::time::timeout(GOODBYE, leave(&line)).await);
    }
}

async fn leave(line: &Line) -> Result<()> {
    let mut commands = Pipeline::with_capacity(line.plan.topics.len());
    for planned in &line.plan.topics {
        let keys = &planned.keys;
        let mut all = vec![planned.known.keys.record.clone(), keys.members(), keys.lanes()];
        all.extend([keys.waiting(), keys.waiting_entries(), keys.private()]);
        all.extend(planned.known.streams.iter().cloned());
        commands.add_command(line.hub.scripts.call(Script::Leave, &all, |call| {
            call.arg(&line.plan.name).arg(&line.plan.consumer);
        }));
    }
    let until = Instant::now() + GOODBYE;
    line.hub
        .scripts
        .send(&line.hub.commands, &commands, until)
        .await
        .map_err(Failure::into_error)?;
    Ok(())
}

struct Upkeep {
    line: Arc<Line>,
    /// How long the others believe that this member is there.
    lasts: Duration,
    /// Until when its lanes are its own, by its own clock.
    valid: Instant,
    tick: Duration,
    next: Instant,
    tidy: Instant,
}

impl Upkeep {
    fn new(line: Arc<Line>) -> Self {
        let lease = line.plan.lease;
        let now = Instant::now();
        Self {
            lasts: lease.clamp(Duration::from_secs(3), Duration::from_secs(10)),
            valid: now,
            tick: TICK.min(lease / 4).max(Duration::from_millis(25)),
            next: now,
            // Not all at once.
            tidy: now + TIDY.mul_f64(0.5 + fastrand::f64()),
            line,
        }
    }

    async fn run(&mut self) {
        loop {
            if self.line.state().leaving {
                drop(tokio::time::timeout(GOODBYE, leave(&self.line)).await);
                self.line.state().leave();
                return std::future::pending().await;
            }
            if Instant::now() >= self.next {
                self.tick().await;
                continue;
            }
            let unblocked = self.unblock().await;
            let due = self.line.state().due;
            let mut next = due.map_or(self.next, |due| due.min(self.next));
            if unblocked {
                next = next.min(Instant::now() + AGAIN);
            }
            let changed = tokio::select! {
                () = tokio::time::sleep_until(next) => false,
                () = self.line.changed.notified() => true,
            };
            if !changed && due.is_some_and(|due| due <= Instant::now()) {
                self.next = Instant::now();
            }
        }
    }

    /// Tells a read to end if there is something to do before it. Says whether it did.
    async fn unblock(&self) -> bool {
        let number = {
            let mut state = self.line.state();
            let Some(reading) = &state.reading else { return false };
            let (number, arrived) = (reading.number, reading.since.elapsed() >= ARRIVED);
            if reading.told {
                return false;
            }
            let leaves = reading.sources.iter().any(|source| !state.lanes.is_live(*source));
            let other = state.take || state.gone || state.stopping || leaves;
            if !(other || state.lanes.to_sweep().is_some()) {
                return false;
            }
            if let Some(reading) = &mut state.reading {
                // Before that it may not have begun, and will not hear of it.
                reading.told = arrived;
            }
            number
        };
        let Some(number) = number else { return false };
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(number);
        drop(self.line.hub.commands.ask(command, Instant::now() + GOODBYE).await);
        true
    }

    /// One round for all topics.
    async fn tick(&mut self) {
        let sent = Instant::now();
        self.next = sent + self.tick;
        {
            let mut state = self.line.state();
            state.due = None;
            state.expire();
        }
        let mut commands = Pipeline::with_capacity(self.line.plan.topics.len() * 2);
        for planned in &self.line.plan.topics {
            commands.add_command(self.sign_of_life(planned));
            if planned.lanes {
                commands.add_command(self.divide(planned));
            }
        }
        let until = sent + self.lasts.min(self.line.hub.settings.request_timeout);
        let hub = &self.line.hub;
        match hub.scripts.send(&hub.commands, &commands, until).await {
            Ok(answers) => {
                self.valid = sent + self.lasts.mul_f64(0.8);
                self.take_answers(answers);
            }
            Err(failure) => {
                tracing::debug!(error = %failure.error, "a sign of life was not answered");
                self.next = Instant::now() + self.tick / 2;
            }
        }
        self.fence();
        self.free_what_is_done().await;
        if self.tidy <= Instant::now() {
            self.tidy = Instant::now() + TIDY.mul_f64(0.75 + fastrand::f64() / 2.0);
            self.tidy_up().await;
        }
    }

    fn sign_of_life(&self, planned: &TopicPlan) -> Cmd {
        let (line, keys) = (&self.line, &planned.keys);
        let of = &planned.known.keys;
        let mut all = vec![of.record.clone(), keys.members(), keys.waiting()];
        all.extend([keys.waiting_entries(), keys.private(), of.later(), of.later_entries()]);
        {
            let state = line.state();
            let ours = planned.streams().filter(|source| state.lanes.is_live(*source));
            all.extend(ours.map(|source| line.sources[source].key.clone()));
        }
        line.hub.scripts.call(Script::Tick, &all, |call| {
            call.arg(&line.plan.name).arg(&line.plan.consumer);
            call.arg(self.lasts.as_millis().to_string());
            call.arg(line.plan.lease.as_millis().to_string()).arg(MOVED);
        })
    }

    fn divide(&self, planned: &TopicPlan) -> Cmd {
        let keys = [planned.keys.members(), planned.keys.lanes()];
        self.line.hub.scripts.call(Script::Lanes, &keys, |call| {
            call.arg(&self.line.plan.consumer).arg(planned.known.streams.len());
        })
    }

    fn take_answers(&mut self, answers: Vec<Value>) {
        let mut answers = answers.into_iter();
        let line = Arc::clone(&self.line);
        for planned in &line.plan.topics {
            let told = answers.next().map_or(Ok(false), |answer| self.told(planned, answer));
            if let Err(error) = told {
                tracing::debug!(%error, topic = %planned.topic, "a sign of life was refused");
            }
            if planned.lanes
                && let Some(answer) = answers.next()
                && let Err(error) = self.divided(planned, answer)
            {
                tracing::debug!(%error, topic = %planned.topic, "lanes were not divided");
            }
        }
    }

    /// What the sign of life found. `false` if the topic or its group is gone.
    fn told(&mut self, planned: &TopicPlan, answer: Value) -> Result<bool> {
        let answer = value::ok(answer)?;
        let mut state = self.line.state();
        if matches!(answer, Value::Nil) {
            state.gone = true;
            state.wake();
            return Ok(false);
        }
        let mut parts = value::array(answer)?.into_iter();
        let due = value::next(&mut parts, "tick")?;
        if let Some(millis) = value::count(&due) {
            let at = Instant::now() + Duration::from_millis(millis);
            state.due = Some(state.due.map_or(at, |due| due.min(at)));
        }
        if value::next_count(&mut parts, "tick")? > 0 {
            state.take = true;
            state.wake();
        }
        let lost = value::next_count(&mut parts, "tick")?;
        if lost > 0 {
            state.tell(DriverEvent::Lost {
                topic: planned.topic.clone(),
                count: Some(lost),
                reason: "removed from the stream before the group read it".to_owned(),
            });
        }
        Ok(true)
    }

    /// Which lanes are ours.
    fn divided(&self, planned: &TopicPlan, answer: Value) -> Result<()> {
        let mut parts = value::array(answer)?.into_iter();
        let numbers = |value: Value| -> Result<Vec<usize>> {
            let numbers = value::array(value)?;
            let numbers = numbers.iter().filter_map(value::count);
            Ok(numbers.filter_map(|number| usize::try_from(number).ok()).collect())
        };
        let ours = numbers(value::next(&mut parts, "lanes")?)?;
        let going = numbers(value::next(&mut parts, "lanes")?)?;
        let mut state = self.line.state();
        if state.stopping {
            return Ok(());
        }
        for source in planned.streams() {
            let lane = source - planned.first;
            let event = if going.contains(&lane) {
                state.lanes.give_up(source)
            } else if ours.contains(&lane) {
                state.lanes.gain(source, &planned.topic, self.line.sources[source].partition)
            } else {
                state.lose(source)
            };
            if let Some(event) = event {
                state.tell(event);
            }
        }
        Ok(())
    }

    /// Lanes that the others may take end here before that.
    fn fence(&self) {
        if Instant::now() < self.valid {
            return;
        }
        let mut state = self.line.state();
        for source in 0..self.line.sources.len() {
            if self.line.is_lane(source)
                && let Some(event) = state.lose(source)
            {
                state.tell(event);
            }
        }
    }

    /// Frees the lanes that are given up and of which nothing is held.
    async fn free_what_is_done(&self) {
        let going = {
            let state = self.line.state();
            let mut going = state.lanes.going();
            for (source, over) in &mut going {
                // What the server has for us beyond that is nobody's: the next owner takes it.
                *over |= !state.holds(*source) && !state.expects(*source);
            }
            going.retain(|(source, over)| *over || !state.holds(*source));
            going
        };
        if going.is_empty() {
            return;
        }
        let mut commands = Pipeline::with_capacity(going.len());
        for (source, over) in &going {
            let of = &self.line.sources[*source];
            let Some(planned) = self.line.topic(of) else { return };
            let keys = [of.key.clone(), planned.keys.lanes()];
            commands.add_command(self.line.hub.scripts.call(Script::Free, &keys, |call| {
                call.arg(&self.line.plan.name).arg(&self.line.plan.consumer);
                call.arg(source - planned.first).arg(u8::from(*over));
            }));
        }
        let (hub, until) = (&self.line.hub, Instant::now() + GOODBYE);
        let Ok(answers) = hub.scripts.send(&hub.commands, &commands, until).await else { return };
        let mut state = self.line.state();
        for ((source, _), answer) in going.into_iter().zip(answers) {
            if value::int(&answer) == Some(1) {
                drop(state.lose(source));
            }
        }
    }

    async fn tidy_up(&self) {
        let hub = &self.line.hub;
        let mut commands = Pipeline::with_capacity(self.line.plan.topics.len());
        for planned in &self.line.plan.topics {
            let known = &planned.known;
            let mut keys = vec![known.keys.record.clone()];
            keys.extend(known.streams.iter().cloned());
            commands.add_command(hub.scripts.call(Script::Tidy, &keys, |call| {
                call.arg(groups_base(&known.keys)).arg(hub.settings.keep.as_millis().to_string());
                let age = known.max_age.map(|age| age.as_millis().to_string());
                call.arg(age.unwrap_or_default()).arg(IDLE.as_millis().to_string());
            }));
        }
        let until = Instant::now() + hub.settings.request_timeout;
        match hub.scripts.send(&hub.commands, &commands, until).await {
            Ok(answers) => {
                for answer in answers {
                    if let Err(error) = value::ok(answer) {
                        tracing::warn!(%error, "a stream could not be tidied");
                    }
                }
            }
            Err(failure) => tracing::debug!(error = %failure.error, "streams were not tidied"),
        }
    }
}
