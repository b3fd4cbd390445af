//! Where a worker runs a handler: a place for one future of a known type, used again and again.
//!
//! A future is put where the last one was, so a call allocates nothing. The place is boxed once
//! for each worker and route, because only a route knows the type of its handler's future.

use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use posthaste_core::{Delivery, Error};

use crate::context::Context;
use crate::{
    Arguments, BatchArguments, FromDelivery, HandlerFn, Incoming, IntoReplies, IntoReply, Replies,
};

/// A handler's place at a worker.
pub(crate) trait Slot: Send {
    /// Calls the handler with these messages. Those that no argument can be made of are refused, by
    /// index, in order. `false` if none is left, and the handler was not called.
    fn start(
        &mut self,
        deliveries: &[Delivery],
        context: Context<'_>,
        refused: &mut Vec<(usize, Error)>,
    ) -> bool;

    /// Polls the call.
    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Replies>;

    /// Drops what is running.
    fn clear(&mut self);
}

/// For one message at a time.
pub(crate) struct Single<H: HandlerFn<A>, A, S> {
    handler: Arc<H>,
    state: Arc<S>,
    running: Pin<Box<Option<H::Returned>>>,
    arguments: PhantomData<fn(A)>,
}

impl<H: HandlerFn<A>, A, S> Single<H, A, S> {
    pub(crate) fn new(handler: &Arc<H>, state: &Arc<S>) -> Self {
        let (handler, state) = (Arc::clone(handler), Arc::clone(state));
        Self { handler, state, running: Box::pin(None), arguments: PhantomData }
    }
}

impl<H, A, S> Slot for Single<H, A, S>
where
    H: HandlerFn<A>,
    A: Arguments<S>,
    S: Send + Sync,
    H::Returned: Future + Send,
    <H::Returned as Future>::Output: IntoReply,
{
    fn start(
        &mut self,
        deliveries: &[Delivery],
        context: Context<'_>,
        refused: &mut Vec<(usize, Error)>,
    ) -> bool {
        let Some(delivery) = deliveries.first() else { return false };
        match A::from_delivery(&Incoming { delivery, context }, &self.state) {
            Ok(arguments) => {
                self.running.set(Some(self.handler.call(arguments)));
                true
            }
            Err(error) => {
                refused.push((0, error));
                false
            }
        }
    }

    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Replies> {
        let Some(running) = self.running.as_mut().as_pin_mut() else { return Poll::Pending };
        let returned = task::ready!(running.poll(cx));
        self.running.set(None);
        Poll::Ready(Replies::All(returned.into_reply()))
    }

    fn clear(&mut self) {
        self.running.set(None);
    }
}

/// For several messages at a time.
pub(crate) struct Many<H: HandlerFn<A>, A, S> {
    handler: Arc<H>,
    state: Arc<S>,
    running: Pin<Box<Option<H::Returned>>>,
    arguments: PhantomData<fn(A)>,
}

impl<H: HandlerFn<A>, A, S> Many<H, A, S> {
    pub(crate) fn new(handler: &Arc<H>, state: &Arc<S>) -> Self {
        let (handler, state) = (Arc::clone(handler), Arc::clone(state));
        Self { handler, state, running: Box::pin(None), arguments: PhantomData }
    }
}

impl<H, A, S> Slot for Many<H, A, S>
where
    H: HandlerFn<A>,
    A: BatchArguments<S>,
    S: Send + Sync,
    H::Returned: Future + Send,
    <H::Returned as Future>::Output: IntoReplies,
{
    fn start(
        &mut self,
        deliveries: &[Delivery],
        context: Context<'_>,
        refused: &mut Vec<(usize, Error)>,
    ) -> bool {
        let mut items = Vec::with_capacity(deliveries.len());
        for (index, delivery) in deliveries.iter().enumerate() {
            match A::Item::from_delivery(&Incoming { delivery, context }, &self.state) {
                Ok(item) => items.push(item),
                Err(error) => refused.push((index, error)),
            }
        }
        let any = !items.is_empty();
        if any {
            self.running.set(Some(self.handler.call(A::gather(items, &self.state))));
        }
        any
    }

    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Replies> {
        let Some(running) = self.running.as_mut().as_pin_mut() else { return Poll::Pending };
        let returned = task::ready!(running.poll(cx));
        self.running.set(None);
        Poll::Ready(returned.into_replies())
    }

    fn clear(&mut self) {
        self.running.set(None);
    }
}

/// What a panic said.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

/// Calls into a slot: a panic of the handler, or of the making of its arguments, is its failure
/// and nobody else's. Whatever it left half-done is dropped.
pub(crate) fn guarded<T>(
    slot: &mut Box<dyn Slot>,
    call: impl FnOnce(&mut dyn Slot) -> T,
) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(|| call(slot.as_mut()))).map_err(|panic| {
        clear(slot);
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Panicked(text.unwrap_or_else(|| "without a text".to_owned()))
    })
}

/// Drops what is running, even if that panics.
pub(crate) fn clear(slot: &mut Box<dyn Slot>) {
    if catch_unwind(AssertUnwindSafe(|| slot.clear())).is_err() {
        tracing::warn!("a handler panicked while it was dropped");
    }
}
