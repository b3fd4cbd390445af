//! Reading a lane so that its order holds: the part of a driver that is about one ordered source.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use posthaste_core::{Error, Result, Retry};

use crate::kept::Kept;
use crate::lanes::handle::LaneHandle;
use crate::lanes::nudge::{self, Prepared, Target};
use crate::lanes::recovery::{Collected, Recovery, window_end};
use crate::source::Boxed;

/// One ordered source.
pub(crate) struct Ordered {
    pub(crate) handle: Arc<LaneHandle>,
    state: State,
    /// What came before it was known what is outstanding.
    early: BTreeMap<u64, Kept>,
    /// The consumer's number of the last delivery that came. They follow each other without gaps.
    last_number: u64,
    /// Whether the application was told that the lane is ours, and that it goes.
    pub(crate) announced: bool,
    pub(crate) revoked: bool,
}

enum State {
    /// Messages go out as they come.
    Running,
    /// What is outstanding has to be looked at.
    Due,
    /// It is being looked at.
    Preparing(Boxed<Result<Option<Prepared>>>),
    /// What is outstanding comes again.
    Sweeping(Sweep),
    /// The next part of it is asked to come again.
    Nudging(Sweep, Boxed<Result<()>>),
}

struct Sweep {
    recovery: Recovery<Kept>,
    rest: Vec<u64>,
    number: u64,
    target: Target,
}

/// What a step brought.
pub(crate) enum Step {
    /// Nothing.
    Wait,
    /// These go out, in order.
    Release(Vec<Kept>),
    /// It could not be done now: after a pause again.
    Retry,
    /// It cannot be done.
    Failed(Error),
}

impl Ordered {
    /// `delivered` is the consumer's number of its last delivery. With `recover`, what is
    /// outstanding of those comes first.
    pub(crate) fn new(handle: Arc<LaneHandle>, recover: bool, delivered: u64) -> Self {
        let state = if recover { State::Due } else { State::Running };
        Self {
            handle,
            state,
            early: BTreeMap::new(),
            last_number: delivered,
            announced: false,
            revoked: false,
        }
    }

    /// A delivery came. If one before it did not, it went elsewhere: to a request of an earlier
    /// owner, or nowhere. Then everything outstanding is looked at again.
    pub(crate) fn count(&mut self, number: u64) {
        let skipped = number > self.last_number + 1;
        self.last_number = self.last_number.max(number);
        if skipped && matches!(self.state, State::Running) {
            self.state = State::Due;
        }
    }

    /// The consumer is another one now, which has delivered nothing yet.
    pub(crate) fn start_over(&mut self, delivered: u64) {
        self.last_number = delivered;
        self.begin_again();
    }

    /// The connection was lost, and with it perhaps what was on its way: everything outstanding
    /// is looked at again.
    pub(crate) fn begin_again(&mut self) {
        match std::mem::replace(&mut self.state, State::Due) {
            State::Sweeping(sweep) | State::Nudging(sweep, _) => {
                let kept = sweep.recovery.abandon().map(|kept| (kept.place, kept));
                self.early.extend(kept);
            }
            State::Running | State::Due | State::Preparing(_) => {}
        }
    }

    /// Whether messages may be asked for, and if it is a sweep.
    pub(crate) const fn asks(&self) -> Option<bool> {
        match &self.state {
            State::Running => Some(false),
            State::Sweeping(sweep) if !sweep.recovery.is_swept() => Some(true),
            _ => None,
        }
    }

    /// Messages that are kept here until their turn.
    pub(crate) fn kept(&self) -> usize {
        let collected = match &self.state {
            State::Sweeping(sweep) | State::Nudging(sweep, _) => sweep.recovery.len(),
            State::Running | State::Due | State::Preparing(_) => 0,
        };
        collected + self.early.len()
    }

    /// Takes a message that is due. Returns it if it may go out now.
    pub(crate) fn take(&mut self, kept: Kept, room: usize) -> Taken {
        match &mut self.state {
            State::Running => Taken::GoesOut(kept),
            State::Due | State::Preparing(_) => {
                self.early.insert(kept.place, kept);
                Taken::Kept
            }
            State::Sweeping(sweep) | State::Nudging(sweep, _) => {
                match sweep.recovery.collect(kept.place, kept, room) {
                    Collected::Kept(_) => Taken::Kept,
                    Collected::GiveBack(kept) => Taken::GiveBack(kept),
                }
            }
        }
    }

    /// A request ended before it was filled: there is nothing more that comes again.
    pub(crate) fn request_ended(&mut self) {
        if let State::Sweeping(sweep) = &mut self.state {
            sweep.recovery.request_ended();
        }
    }

    /// Moves on. `idle` is whether no request is open, `queued` the places that wait to be handed
    /// out, `room` how many messages a part of the recovery may have.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        target: &Target,
        queued: &[u64],
        idle: bool,
        room: usize,
    ) -> Step {
        loop {
            match &mut self.state {
                State::Running => return Step::Wait,
                State::Due => {
                    let mut mine: Vec<u64> = self.handle.book().held().collect();
                    mine.extend(queued);
                    mine.extend(self.early.keys());
                    mine.sort_unstable();
                    let prepare = nudge::prepare(target.clone(), mine, room);
                    self.state = State::Preparing(Box::pin(prepare));
                }
                State::Preparing(prepare) => {
                    let Poll::Ready(prepared) = prepare.as_mut().poll(cx) else {
                        return Step::Wait;
                    };
                    match prepared {
                        Ok(None) => {
                            self.state = State::Running;
                            let early = std::mem::take(&mut self.early);
                            return Step::Release(early.into_values().collect());
                        }
                        Ok(Some(prepared)) => self.sweep(prepared, target),
                        Err(error) => return self.failed(error),
                    }
                }
                State::Sweeping(sweep) => {
                    if !sweep.recovery.is_swept() || !idle {
                        return Step::Wait;
                    }
                    return self.release(room);
                }
                State::Nudging(_, nudge) => {
                    let Poll::Ready(nudged) = nudge.as_mut().poll(cx) else { return Step::Wait };
                    let State::Nudging(sweep, _) = std::mem::replace(&mut self.state, State::Due)
                    else {
                        return Step::Wait;
                    };
                    self.state = State::Sweeping(sweep);
                    if let Err(error) = nudged {
                        self.begin_again();
                        return self.failed(error);
                    }
                }
            }
        }
    }

    fn sweep(&mut self, prepared: Prepared, target: &Target) {
        let Prepared { boundary, window, rest, number } = prepared;
        let mut recovery = Recovery::new(boundary, window);
        // They came before the server was asked to deliver again what is older.
        for (place, kept) in std::mem::take(&mut self.early) {
            recovery.keep(place, kept);
        }
        self.state = State::Sweeping(Sweep { recovery, rest, number, target: target.clone() });
    }

    fn release(&mut self, room: usize) -> Step {
        let State::Sweeping(mut sweep) = std::mem::replace(&mut self.state, State::Running) else {
            return Step::Wait;
        };
        let (out, is_done) = sweep.recovery.release();
        if !is_done {
            let window = window_end(&sweep.rest, room, sweep.recovery.boundary());
            let behind = sweep.rest.partition_point(|place| *place <= window);
            let rest = sweep.rest.split_off(behind);
            let next = std::mem::replace(&mut sweep.rest, rest);
            sweep.recovery.next_window(window);
            let (target, number) = (sweep.target.clone(), sweep.number);
            let nudge = async move { nudge::nudge(&target, &next, number).await };
            self.state = State::Nudging(sweep, Box::pin(nudge));
        }
        Step::Release(out.into_iter().map(|(_, kept)| kept).collect())
    }

    fn failed(&mut self, error: Error) -> Step {
        self.state = State::Due;
        if error.retry() == Retry::Transient { Step::Retry } else { Step::Failed(error) }
    }
}

/// What became of a message.
pub(crate) enum Taken {
    GoesOut(Kept),
    Kept,
    GiveBack(Kept),
}

impl fmt::Debug for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Running => "running",
            State::Due => "due",
            State::Preparing(_) => "preparing",
            State::Sweeping(_) => "sweeping",
            State::Nudging(..) => "nudging",
        };
        f.debug_struct("Ordered").field("lane", &self.handle.lane).field("state", &state).finish()
    }
}
