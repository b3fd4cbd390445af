//! Receiving gone wrong.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use posthaste_core::broker::{Credit, DriverEvent, Polled, Received, Settler, SubscriptionDriver};
use posthaste_core::{Envelope, ErrorKind, Result, Timestamp};

use super::mutant::Mutant;
use super::plot::{Plot, copied};
use super::settle::SabotagedSettler;

#[derive(Debug)]
pub(super) struct SabotagedDriver {
    pub(super) inner: Box<dyn SubscriptionDriver>,
    pub(super) settler: Arc<SabotagedSettler>,
    pub(super) mutant: Mutant,
    pub(super) plot: Arc<Plot>,
    pub(super) member: u64,
    /// Which of the topic's groups ours is, by age.
    pub(super) rank: usize,
    pub(super) queue: bool,
    /// Nothing comes any more.
    pub(super) deaf: bool,
    pub(super) seen: usize,
    /// The ids of messages that are not passed on any more.
    pub(super) withheld: HashSet<String>,
    pub(super) stopped: bool,
}

impl SubscriptionDriver for SabotagedDriver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let stalls = self.mutant == Mutant::OneSlowStallsTheOthers
            && !self.stopped
            && self.plot.others_hold(self.member);
        if self.deaf || stalls {
            return Poll::Pending;
        }
        let copies = self.copies(credit);
        if !copies.is_empty() {
            out.extend(copies);
            return Poll::Ready(Ok(Polled::Batch));
        }
        let credit = self.credit(credit);
        loop {
            let from = out.len();
            match self.inner.poll_batch(cx, out, credit) {
                Poll::Ready(Ok(Polled::Batch)) => {
                    let fresh = out.split_off(from);
                    out.extend(self.twist(fresh));
                    if out.len() > from {
                        return Poll::Ready(Ok(Polled::Batch));
                    }
                }
                Poll::Ready(Ok(Polled::Event(event))) => {
                    if self.passes(&event) {
                        return Poll::Ready(Ok(Polled::Event(event)));
                    }
                }
                Poll::Ready(Err(error))
                    if self.mutant == Mutant::VanishInSilence
                        && error.kind() == ErrorKind::NotFound =>
                {
                    self.deaf = true;
                }
                polled => return polled,
            }
            if self.deaf {
                return Poll::Pending;
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.deaf = false;
        self.inner.stop();
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl SabotagedDriver {
    const fn credit(&self, credit: Credit) -> Credit {
        match self.mutant {
            Mutant::ExceedTheCredit if !self.stopped => {
                Credit::new(credit.messages.saturating_mul(2), credit.bytes)
            }
            Mutant::IgnoreTheBytes => Credit::new(credit.messages, usize::MAX),
            _ => credit,
        }
    }

    fn copies(&self, credit: Credit) -> Vec<Received> {
        let takes =
            matches!(self.mutant, Mutant::DeliverToASecondMember | Mutant::TakeFromTheHolder);
        if takes && !self.stopped {
            self.plot.copies(self.member, credit.messages)
        } else {
            Vec::new()
        }
    }

    /// Whether the event is passed on.
    fn passes(&mut self, event: &DriverEvent) -> bool {
        match (self.mutant, event) {
            (Mutant::HideLoss, DriverEvent::Lost { .. })
            | (Mutant::HideDifferingLeases, DriverEvent::Differs(_)) => false,
            (Mutant::StayAway, DriverEvent::Disconnected { .. }) => {
                self.deaf = true;
                true
            }
            (Mutant::LoseWhatWasInFlight, DriverEvent::Disconnected { .. }) => {
                self.withheld.extend(self.plot.held(self.member));
                true
            }
            _ => true,
        }
    }

    fn twist(&mut self, batch: Vec<Received>) -> Vec<Received> {
        let mut kept = Vec::with_capacity(batch.len());
        for mut received in batch {
            self.seen += 1;
            if self.drops(&received) {
                continue;
            }
            match self.mutant {
                Mutant::ForgetTheFlag => received.attempt.count = 1,
                Mutant::AttemptsEndAtTwo => {
                    received.attempt.count = received.attempt.count.min(2);
                }
                _ => {}
            }
            if let Some(envelope) = twisted(self.mutant, &received.envelope) {
                received.envelope = envelope;
            }
            self.settler.note(&received);
            self.plot.note(self.member, &received);
            let double = self.mutant == Mutant::DoubleCommands && self.queue;
            let second = double.then(|| {
                let Received { envelope, lane, attempt, position, .. } = &received;
                copied(envelope, lane, *attempt, *position)
            });
            kept.push(received);
            kept.extend(second);
        }
        if self.mutant == Mutant::SwapTwoOfAKey {
            swap_two_of_a_key(&mut kept);
        }
        kept
    }

    /// Dropped without a word: it stays unsettled at the broker.
    fn drops(&self, received: &Received) -> bool {
        match self.mutant {
            Mutant::NeverAgain => received.attempt.count > 1,
            Mutant::SkipAGroup => self.rank > 0 && self.seen.is_multiple_of(5),
            Mutant::DropForeign => received.envelope.is_foreign(),
            Mutant::LoseWhatWasInFlight => self.withheld.contains(received.envelope.id()),
            _ => false,
        }
    }
}

impl Drop for SabotagedDriver {
    fn drop(&mut self) {
        self.plot.leave(self.member);
    }
}

fn swap_two_of_a_key(batch: &mut [Received]) {
    for second in 1..batch.len() {
        let key = batch[second].envelope.key();
        let first =
            (0..second).rev().find(|first| key.is_some() && batch[*first].envelope.key() == key);
        if let Some(first) = first {
            batch.swap(first, second);
            return;
        }
    }
}

/// The envelope with something missing; nothing if the mutant leaves it alone.
fn twisted(mutant: Mutant, envelope: &Envelope) -> Option<Envelope> {
    let builder = envelope.to_builder();
    let builder = match mutant {
        Mutant::LoseTheExpiry => builder.expires_at(envelope.expires_at().map(|_| Timestamp::MAX)?),
        Mutant::TruncateThePayload if envelope.payload().len() > 1_000 => {
            let end = envelope.payload().len() - 1;
            builder.payload(envelope.payload().slice(..end))
        }
        Mutant::LoseARepeatedHeader => {
            let names: Vec<&str> = envelope.headers().map(|(name, _)| name).collect();
            let repeated =
                names.iter().enumerate().find(|(at, name)| names[..*at].contains(name))?.1;
            let values: Vec<&[u8]> = envelope.header_all(repeated).collect();
            let builder = builder.remove_header(repeated);
            let kept = values.iter().take(values.len() - 1);
            kept.fold(builder, |builder, value| builder.header(repeated, value))
        }
        Mutant::LoseTheTrace => {
            envelope.trace_parent()?;
            return without_trace(envelope);
        }
        _ => return None,
    };
    Some(builder.build_lenient())
}

/// There is no way to take an attribute out, so it is built anew from all others.
fn without_trace(envelope: &Envelope) -> Option<Envelope> {
    let mut builder = Envelope::builder(envelope.event_type())
        .source(envelope.source())
        .id(envelope.id())
        .payload(envelope.payload().clone());
    macro_rules! keep {
        ($($name:ident),*) => {
            $( if let Some(value) = envelope.$name() { builder = builder.$name(value); } )*
        };
    }
    keep!(subject, time, content_type, data_schema, correlation_id, causation_id, reply_to);
    keep!(trace_state, sequence, expires_at, data_ref, schema_version);
    if let Some(key) = envelope.key() {
        builder = builder.key_ref(key);
    }
    for (name, value) in envelope.extensions() {
        builder = builder.extension(name, value);
    }
    for (name, value) in envelope.headers() {
        builder = builder.header(name, value);
    }
    builder.build().ok()
}
