//! Asking the server for messages, as far as there is credit.

use super::*;

impl Driver {
    /// Asks for as much as there is credit for.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context<'_>,
        credit: Credit,
        taken: &[Received],
    ) -> Poll<()> {
        let now = Instant::now();
        let outstanding: usize = self.sources.iter().map(|s| s.pulls.outstanding()).sum();
        let busy = outstanding + self.surplus.len() + taken.len();
        let mut free = credit.messages.saturating_sub(busy);
        let taken_bytes: usize = taken.iter().map(|received| received.envelope.size()).sum();
        let promised = outstanding.saturating_mul(self.mean).saturating_add(taken_bytes);
        let mut bytes = credit.bytes.saturating_sub(promised);
        let fit = bytes / self.mean.max(1);
        // One message at least, or a subscription with one large message would stand still.
        free = free.min(if outstanding == 0 && taken.is_empty() { fit.max(1) } else { fit });
        if free == 0 {
            return Poll::Ready(());
        }
        self.wants.clear();
        self.wants.extend(self.sources.iter().map(|source| Want {
            outstanding: source.pulls.outstanding(),
            waiting: source.waiting,
            paused: !matches!(source.state, State::Open),
        }));
        let prefetch = self.request.prefetch.count;
        let first = self.first % self.sources.len().max(1);
        credit::share(&self.wants, free, prefetch, first, &mut self.grants);
        let unheard = self.wants.iter().zip(&self.grants);
        let scarce =
            unheard.clone().any(|(w, grant)| !w.paused && w.outstanding == 0 && *grant == 0);
        let in_turn = self.sources.iter().filter(|s| s.spec.kind != Kind::Private).count();
        for at in 0..self.sources.len() {
            let grant = self.grants[at];
            if grant == 0 {
                continue;
            }
            if ready!(Pin::new(&mut self.client).poll_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let source = &mut self.sources[at];
            let limits = source.limits;
            let batch = if source.oversized { 1 } else { grant.min(limits.batch) };
            let share = (bytes / free.max(1)).saturating_mul(grant).max(self.mean);
            let share = share.min(limits.bytes).min(bytes.max(1));
            let max_bytes = (!source.oversized).then_some(share);
            let (mut expires, mut no_wait) = (limits.expires, false);
            if scarce {
                let turns = u32::try_from(in_turn.max(1)).unwrap_or(u32::MAX);
                expires = expires.min((ROUND / turns).max(SHORTEST));
                no_wait = source.spec.kind == Kind::Private;
                self.first = at + 1;
            }
            let message = source.request(batch, max_bytes, expires, no_wait, now);
            // There was room for it just now; an error means that the client has ended, which
            // the link tells.
            let _ = Pin::new(&mut self.client).start_send(message);
            bytes = bytes.saturating_sub(share);
            free = free.saturating_sub(grant);
        }
        Poll::Ready(())
    }
}
