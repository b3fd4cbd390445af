//! Where messages come in, and when they came, although nobody was looking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt as _};
use tokio::task::coop;
use tokio::time::Instant;

/// What came and was not read yet, and since when it may have waited.
///
/// A subscription that is not polled for a while still has to know how old its messages are,
/// because their leases run from the time the server sent them. The first one that comes to an
/// empty inbox wakes the waker here; what comes later is at most younger.
#[derive(Debug)]
pub(crate) struct Inbox<S> {
    stream: Option<S>,
    /// What is left of the one before.
    before: Option<S>,
    arrival: Arc<Arrival>,
    waker: Waker,
    /// How many messages were read.
    read: u64,
    /// When the first message that was not read yet came, as far as that was seen.
    first: Option<Instant>,
}

impl<S: Stream + Unpin> Inbox<S> {
    pub(crate) fn new(stream: S) -> Self {
        let arrival = Arrival::new();
        let waker = Waker::from(Arc::clone(&arrival));
        Self { stream: Some(stream), before: None, arrival, waker, read: 0, first: None }
    }

    /// Reads one message. Only as long as this is `Ready` there may be more.
    pub(crate) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<S::Item>> {
        self.arrival.task.register(cx.waker());
        let (woken, has_budget) = (self.arrival.take(), coop::has_budget_remaining());
        let polled = self.poll_streams(has_budget);
        self.first = match &polled {
            // It was woken for what was read already: the next message is younger than that.
            Poll::Pending if has_budget => None,
            _ => self.first.or(woken),
        };
        self.read += u64::from(self.before.is_none() && matches!(polled, Poll::Ready(Some(_))));
        polled
    }

    fn poll_streams(&mut self, has_budget: bool) -> Poll<Option<S::Item>> {
        let mut cx = Context::from_waker(&self.waker);
        if let Some(before) = &mut self.before {
            match before.poll_next_unpin(&mut cx) {
                Poll::Ready(None) => self.before = None,
                // Nothing comes to it any more.
                Poll::Pending if has_budget => self.before = None,
                polled => return polled,
            }
        }
        match &mut self.stream {
            Some(stream) => stream.poll_next_unpin(&mut cx),
            None => Poll::Ready(None),
        }
    }

    /// Goes on with another stream, after what is left of this one.
    pub(crate) fn replace(&mut self, stream: S) {
        self.before = self.stream.replace(stream);
        self.read = 0;
    }

    /// How many messages were read of the present stream.
    pub(crate) const fn read(&self) -> u64 {
        self.read
    }

    /// When the message that was just read came, at the earliest; `None` is just now. It holds for
    /// those that are read after it without a pause, and has to be asked once for all of them.
    pub(crate) fn since(&mut self) -> Option<Instant> {
        self.first.take()
    }

    /// Ends it. What has still to be read is in what it returns.
    pub(crate) fn take(&mut self) -> Option<S> {
        self.stream.take()
    }
}

/// A waker that notes when it was woken first, and passes it on.
#[derive(Debug)]
struct Arrival {
    began: Instant,
    // Microseconds since `began`, plus one; 0 is nothing.
    at: AtomicU64,
    task: AtomicWaker,
}

impl Arrival {
    fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), at: AtomicU64::new(0), task: AtomicWaker::new() })
    }

    /// When the first came since this was asked last.
    fn take(&self) -> Option<Instant> {
        let micros = self.at.swap(0, Ordering::AcqRel).checked_sub(1)?;
        Some(self.began + Duration::from_micros(micros))
    }
}

impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1;
        let _ = self.at.compare_exchange(0, micros, Ordering::AcqRel, Ordering::Acquire);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::stream;
    use tokio::sync::mpsc::{self, Sender};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    type Numbers = Pin<Box<dyn Stream<Item = u8>>>;

    fn numbers() -> (Sender<u8>, Numbers) {
        let (sender, mut receiver) = mpsc::channel(8);
        (sender, Box::pin(stream::poll_fn(move |cx| receiver.poll_recv(cx))))
    }

    fn inbox() -> (Sender<u8>, Inbox<Numbers>) {
        let (sender, numbers) = numbers();
        (sender, Inbox::new(numbers))
    }

    async fn pass() -> Instant {
        tokio::time::advance(SECOND).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_wake_counts() {
        let arrival = Arrival::new();
        assert_eq!(arrival.take(), None);
        let first = pass().await;
        Waker::from(Arc::clone(&arrival)).wake();
        pass().await;
        Waker::from(Arc::clone(&arrival)).wake();
        assert_eq!(arrival.take(), Some(first));
        assert_eq!(arrival.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_unread_is_as_old_as_the_first_of_it() {
        let (sender, mut inbox) = inbox();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(inbox.poll_next(&cx), Poll::Pending);
        let first = pass().await;
        sender.try_send(1).unwrap();
        pass().await;
        sender.try_send(2).unwrap();
        pass().await;
        assert_eq!(inbox.poll_next(&cx), Poll::Ready(Some(1)));
        assert_eq!(inbox.since(), Some(first));
        assert_eq!(inbox.poll_next(&cx), Poll::Ready(Some(2)));
        assert_eq!(inbox.poll_next(&cx), Poll::Pending);
    }

    /// A wake for a message that was read in the same poll must not age the one behind it.
    #[tokio::test(start_paused = true)]
    async fn a_wake_for_what_was_read_ages_nothing() {
        let (sender, mut inbox) = inbox();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(inbox.poll_next(&cx), Poll::Pending);
        // Woken as if for a second message, which the first poll has read already.
        inbox.waker.wake_by_ref();
        assert_eq!(inbox.poll_next(&cx), Poll::Pending);
        let sent = pass().await;
        sender.try_send(1).unwrap();
        pass().await;
        assert_eq!(inbox.poll_next(&cx), Poll::Ready(Some(1)));
        assert_eq!(inbox.since(), Some(sent));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_comes_before_what_replaces_it() {
        let (sender, mut inbox) = inbox();
        let cx = Context::from_waker(Waker::noop());
        sender.try_send(1).unwrap();
        assert_eq!(inbox.poll_next(&cx), Poll::Ready(Some(1)));
        sender.try_send(2).unwrap();
        let (other, fresh) = numbers();
        other.try_send(3).unwrap();
        inbox.replace(fresh);
        assert_eq!(inbox.poll_next(&cx), Poll::Ready(Some(2)));
        assert_eq!(inbox.poll_next(&cx), Poll::Ready(Some(3)));
        assert_eq!((inbox.read(), inbox.poll_next(&cx)), (1, Poll::Pending));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_ended_is_empty() {
        let (_sender, mut inbox) = inbox();
        assert!(inbox.take().is_some());
        assert_eq!(inbox.poll_next(&Context::from_waker(Waker::noop())), Poll::Ready(None));
    }
}
