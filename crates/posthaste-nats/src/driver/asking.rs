//! Asking for messages: as many as there is credit for, of whom it helps most.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Sink;
use posthaste_core::broker::{Credit, Received};
use tokio::time::Instant;

use super::Driver;
use crate::credit;
use crate::groups::Kind;
use crate::source::Source;

/// How long all consumers together are asked in turn where there is not credit for each.
const ROUND: Duration = Duration::from_secs(1);
/// With so much credit for each consumer, one that has nothing may keep a part of it.
const ROOMY: usize = 16;
/// Where there is less, none keeps it for longer.
const TIGHT: Duration = Duration::from_millis(500);
const SHORTEST: Duration = Duration::from_millis(20);

impl Driver {
    /// Asks for as much as there is credit for. `taken` is what this poll hands out.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context<'_>,
        credit: Credit,
        taken: &[Received],
    ) -> Poll<()> {
        let now = Instant::now();
        let mut budget = self.budget(credit, taken);
        ready!(self.sweep(cx, &mut budget, now));
        if budget.free == 0 {
            return Poll::Ready(());
        }
        let prefetch = self.request.prefetch.count;
        let data = self.sources.iter().filter(|source| source.spec.kind != Kind::Private);
        let (in_turn, busy) =
            (data.clone().count(), data.filter(|source| source.waiting > 0).count());
        let tight = busy > 0 && prefetch < ROOMY * in_turn;
        self.tight = tight;
        self.wants.clear();
        self.wants.extend(self.sources.iter().map(|source| source.want(tight, now)));
        let first = self.first % self.sources.len().max(1);
        credit::share(&self.wants, budget.free, prefetch, first, &mut self.grants);
        let mut unheard = self.wants.iter().zip(&self.grants);
        let scarce = unheard.any(|(w, grant)| !w.paused && w.outstanding == 0 && *grant == 0);
        for at in 0..self.sources.len() {
            let grant = self.grants[at];
            if grant == 0 {
                continue;
            }
            if ready!(Pin::new(&mut self.client).poll_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let source = &mut self.sources[at];
            let share = (budget.bytes / budget.free.max(1)).saturating_mul(grant).max(self.mean);
            let share = share.min(source.limits.bytes).min(budget.bytes.max(1));
            budget.bytes = budget.bytes.saturating_sub(share);
            budget.free = budget.free.saturating_sub(grant);
            let mut request = source.next_request(grant, share, tight);
            if prefetch < ROOMY * in_turn && in_turn > 1 {
                request.expires = request.expires.min(TIGHT);
            }
            if scarce {
                let turns = u32::try_from(in_turn.max(1)).unwrap_or(u32::MAX);
                request.expires = request.expires.min((ROUND / turns).max(SHORTEST));
                self.first = at + 1;
            }
            let message = source.request(request, now);
            // There was room for it just now; an error means that the client has ended, which
            // the link tells.
            let _ = Pin::new(&mut self.client).start_send(message);
        }
        Poll::Ready(())
    }

    /// Asks for what was outstanding when a lane was taken over. What is collected of it takes up
    /// credit, and goes out only when all of it is here: so one message is asked for even if there
    /// is no credit left.
    fn sweep(&mut self, cx: &mut Context<'_>, budget: &mut Budget, now: Instant) -> Poll<()> {
        for at in 0..self.sources.len() {
            if !self.sources[at].sweeps() {
                continue;
            }
            if ready!(Pin::new(&mut self.client).poll_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let grant = budget.free.clamp(1, self.sweep_room());
            budget.free = budget.free.saturating_sub(grant);
            budget.bytes = budget.bytes.saturating_sub(grant.saturating_mul(self.mean));
            let source = &mut self.sources[at];
            let request = source.next_request(grant, usize::MAX, false);
            let message = source.request(request, now);
            // As with every request: an error means that the client has ended.
            let _ = Pin::new(&mut self.client).start_send(message);
        }
        Poll::Ready(())
    }

    /// How many messages a part of a lane's recovery may have: half, so that the other lanes go on.
    pub(super) fn sweep_room(&self) -> usize {
        (self.request.prefetch.count / 2).max(1)
    }

    /// What may be asked for in addition to what was asked for and what is here.
    fn budget(&self, credit: Credit, taken: &[Received]) -> Budget {
        let outstanding: usize = self.sources.iter().map(|s| s.pulls.outstanding()).sum();
        let kept: usize = self.sources.iter().map(Source::kept).sum();
        let here = self.queue.len() + taken.len() + kept;
        let free = credit.messages.saturating_sub(outstanding + here);
        let taken_bytes: usize = taken.iter().map(|received| received.envelope.size()).sum();
        let promised = (outstanding + self.queue.len() + kept).saturating_mul(self.mean);
        let bytes = credit.bytes.saturating_sub(promised.saturating_add(taken_bytes));
        let fit = bytes / self.mean.max(1);
        // One message at least, or a subscription with one large message would stand still.
        let nothing_comes = outstanding == 0 && here == 0;
        let free = free.min(if nothing_comes { fit.max(1) } else { fit });
        Budget { free, bytes }
    }
}

struct Budget {
    free: usize,
    bytes: usize,
}
