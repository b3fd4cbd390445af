//! From the inboxes to core.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::Message;
use async_nats::message::OutboundMessage;
use futures_util::Sink;
use posthaste_core::broker::{DeliveryMode, Received};
use tokio::time::Instant;

use super::Driver;
use crate::groups::Kind;
use crate::kept::Kept;
use crate::lanes::book::Arrival;
use crate::ordered::Taken;
use crate::reply::Delivered;
use crate::settle;
use crate::topology;
use crate::word::Word;

/// How often a stream is asked what it still has.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

impl Driver {
    /// Hands out what waits, and reads every inbox until it is empty.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, out: &mut Vec<Received>, room: usize) {
        self.hand_out_queue(cx, out, room);
        for at in 0..self.sources.len() {
            let now = Instant::now();
            let mut arrived = None;
            while let Poll::Ready(Some(message)) = self.sources[at].poll_inbox(cx) {
                let arrived = *arrived.get_or_insert_with(|| self.sources[at].arrived(now));
                if let Some(kept) = self.take(cx, at, message, arrived, now) {
                    self.queue.push_back(kept);
                }
            }
            if arrived.is_some() {
                self.sources[at].heard(now);
                self.hand_out_queue(cx, out, room);
            }
        }
    }

    /// Takes one message of an inbox. Returns it if it may go out.
    pub(super) fn take(
        &mut self,
        cx: &mut Context<'_>,
        at: usize,
        message: Message,
        arrived: Instant,
        now: Instant,
    ) -> Option<Kept> {
        let source = &mut self.sources[at];
        if let Some(code) = message.status {
            match source.status(code, &message) {
                Word::Nothing | Word::Oversized => {}
                // An owner before us has asked for more than there is; that ends soon.
                Word::Taken if source.order.is_some() => source.pause(now),
                Word::Taken => source.waiting = 0,
                Word::Pause => source.pause(now),
                Word::Check => self.suspect(at),
            }
            return None;
        }
        let answered = message.reply.clone();
        let answered = answered.and_then(|reply| Some((Delivered::parse(&reply)?, reply)));
        let Some((delivered, reply)) = answered else {
            tracing::warn!(subject = %message.subject, "a message that is no delivery was ignored");
            return None;
        };
        source.received(now);
        source.waiting = delivered.pending;
        source.last_sequence = source.last_sequence.max(delivered.stream_sequence);
        self.mean = (self.mean * 7 + message.length.max(1)) / 8;
        self.watch_for_loss(at, &delivered, now);
        let source = &self.sources[at];
        if source.is_going() {
            // The next owner gets it; to give it back would only count against it.
            return None;
        }
        let kept = Kept::new(source, message, reply, &delivered, arrived);
        if let Some(order) = &mut self.sources[at].order {
            order.count(delivered.consumer_sequence);
            return self.take_in_order(cx, at, kept);
        }
        Some(kept)
    }

    /// Takes a message of a lane.
    fn take_in_order(&mut self, cx: &mut Context<'_>, at: usize, kept: Kept) -> Option<Kept> {
        let clock = self.settler.clock();
        let room = self.request.prefetch.count;
        let order = self.sources[at].order.as_mut()?;
        let arrival = order.handle.book().arrive(kept.place, |token| clock.is_over(token));
        let (payload, subject) = match arrival {
            Arrival::Due => match order.take(kept, room) {
                Taken::GoesOut(kept) => return Some(kept),
                Taken::Kept => return None,
                Taken::GiveBack(kept) => (settle::delayed(clock.lease()), kept.reply),
            },
            // Its handler runs still: the server is told so.
            Arrival::Held => (settle::PROGRESS, kept.reply),
            // Its acknowledgement was lost on the way.
            Arrival::Settled => (settle::ACK, kept.reply),
        };
        self.send(cx, settle::answer(subject, payload));
        None
    }

    fn watch_for_loss(&mut self, at: usize, delivered: &Delivered, now: Instant) {
        let source = &mut self.sources[at];
        if source.spec.kind == Kind::Private {
            return;
        }
        let gap = source.loss.see(delivered, source.spec.reads_all);
        let (Some(gap), None) = (gap, &source.loss_check) else { return };
        if now < self.next_loss_check {
            return;
        }
        self.next_loss_check = now + LOSS_PAUSE;
        let (hub, stream) = (Arc::clone(&self.hub), source.spec.stream.clone());
        source.loss_check = Some(Box::pin(async move {
            let info = topology::info(&hub, &stream).await;
            (gap, info.map(|info| info.state.first_sequence))
        }));
    }

    /// Hands out what waits, as far as there is room.
    pub(super) fn hand_out_queue(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        room: usize,
    ) {
        while out.len() < room {
            let Some(kept) = self.queue.pop_front() else { return };
            if let Some(kept) = self.hand_out(cx, kept, out) {
                self.queue.push_front(kept);
                return;
            }
        }
    }

    /// Gives a message to core. Under at-most-once it is acknowledged before; if that cannot be
    /// sent now, the message is returned.
    fn hand_out(
        &mut self,
        cx: &mut Context<'_>,
        kept: Kept,
        out: &mut Vec<Received>,
    ) -> Option<Kept> {
        if self.request.mode == DeliveryMode::AtMostOnce {
            if !self.send(cx, settle::answer(kept.reply.clone(), settle::ACK)) {
                return Some(kept);
            }
            let handle = kept.order.clone();
            let stamp = self.settler.clock().stamp(Instant::now());
            let received = kept.into_received(stamp);
            if let Some(handle) = handle {
                // Known as settled from now on.
                handle.update(|book| {
                    book.hand_out(received.token.sequence, received.token.clone());
                    book.settle(received.token.sequence, received.token.handle.clone());
                    book.told(received.token.sequence);
                });
            }
            out.push(received);
            return None;
        }
        // One whose lease is over goes to somebody else, perhaps to us.
        let stamp = self.lease_from(cx, &kept)?;
        let handle = kept.order.clone();
        let received = kept.into_received(stamp);
        let (place, token) = (received.token.sequence, &received.token);
        // A lane that goes keeps what was not handed out for its next owner.
        if handle.is_none_or(|handle| handle.hand_out(place, token.clone())) {
            out.push(received);
        }
        None
    }

    /// From when on the lease counts, as the token says it. `None` if it has ended already. One
    /// that has lasted for a while is prolonged first, so that the handler has all of it.
    fn lease_from(&mut self, cx: &mut Context<'_>, kept: &Kept) -> Option<u32> {
        let now = Instant::now();
        let age = now.saturating_duration_since(kept.arrived);
        let lease = self.settler.clock().lease();
        if age * 3 < lease {
            return Some(self.settler.clock().stamp(kept.arrived));
        }
        // A lane has one reader: what the server takes for free comes back to us, and is known.
        if age >= lease && kept.order.is_none() {
            return None;
        }
        let sent = self.send(cx, settle::answer(kept.reply.clone(), settle::PROGRESS));
        Some(self.settler.clock().stamp(if sent { now } else { kept.arrived }))
    }

    /// Gives a message to the client, if it takes one now.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, message: OutboundMessage) -> bool {
        let mut client = Pin::new(&mut self.client);
        match client.as_mut().poll_ready(cx) {
            Poll::Ready(Ok(())) => client.start_send(message).is_ok(),
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }
}
