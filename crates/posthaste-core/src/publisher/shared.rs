//! A piece of work that whoever holds a clone can move on.
//!
//! Nobody's progress depends on another holder being polled: a holder that meets another at it is
//! woken when that one is done with its turn. Dropping a holder takes nothing from the others.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};

use smallvec::SmallVec;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One handle of the work. Resolves for every holder once the work is done; with the last holder
/// the work is dropped.
#[derive(Clone)]
pub(super) struct Shared {
    /// `None` once it is done.
    work: Arc<Mutex<Option<Work>>>,
    // Apart from the work, which holds it as its waker.
    holders: Arc<Holders>,
}

#[derive(Default)]
struct Holders {
    done: AtomicBool,
    /// Somebody found the work taken.
    contended: AtomicBool,
    /// Those who are to be woken: a caller and the window's task, as a rule.
    waiting: Mutex<SmallVec<[Waker; 2]>>,
}

impl Shared {
    pub(super) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let work: Work = Box::pin(work);
        Self { work: Arc::new(Mutex::new(Some(work))), holders: Arc::default() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.holders.done.load(Ordering::Acquire)
    }

    /// Polls the work, unless somebody else does so just now.
    fn try_poll(&self) -> Option<Poll<()>> {
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let Some(future) = &mut *work else { return Some(Poll::Ready(())) };
        let waker = Waker::from(Arc::clone(&self.holders));
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            *work = None;
            self.holders.done.store(true, Ordering::Release);
        }
        Some(polled)
    }
}

impl Future for Shared {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let holders = &self.holders;
        if self.is_done() {
            return Poll::Ready(());
        }
        // Before the work is tried, so that no wake-up from now on is missed.
        holders.register(cx.waker());
        let polled = self.try_poll().or_else(|| {
            holders.contended.store(true, Ordering::SeqCst);
            // Whoever had it may have left before it could see that.
            self.try_poll()
        });
        let Some(polled) = polled else { return Poll::Pending };
        if polled.is_ready() {
            holders.wake_others(cx.waker());
        } else if holders.contended.swap(false, Ordering::SeqCst) {
            // Those who came in between may have come too late for a wake-up of the work.
            holders.wake_all();
        }
        polled
    }
}

impl Holders {
    fn register(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        self.take().into_iter().for_each(Waker::wake);
    }

    /// Whoever saw the end by itself needs no wake-up for it.
    fn wake_others(&self, own: &Waker) {
        self.take().into_iter().filter(|waker| !waker.will_wake(own)).for_each(Waker::wake);
    }

    fn take(&self) -> SmallVec<[Waker; 2]> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting)
    }
}

impl Wake for Holders {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the tests join their tasks by themselves")]
    fn spawn<T: Send + 'static>(
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        tokio::spawn(task)
    }

    #[test]
    fn every_holder_hears_of_the_end_and_none_is_needed_for_it() {
        let (tell, told) = oneshot::channel::<()>();
        let work = Shared::new(async move { told.await.unwrap() });
        let (mut first, second) = (work.clone(), work);
        let mut idle = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut first).poll(&mut idle).is_pending());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let waiting = tokio::time::timeout(Duration::from_secs(5), second);
            tell.send(()).unwrap();
            waiting.await.unwrap();
        });
        assert!(first.is_done());
        assert!(Pin::new(&mut first).poll(&mut idle).is_ready());
    }

    #[test]
    fn with_the_last_holder_the_work_is_dropped() {
        let (held, dropped) = oneshot::channel::<()>();
        let mut work = Shared::new(async move {
            let _held = held;
            // It keeps the waker it is polled with.
            let (_tell, told) = oneshot::channel::<()>();
            let _ = told.await;
        });
        let mut idle = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut work).poll(&mut idle).is_pending());
        drop(work);
        assert!(dropped.blocking_recv().is_err(), "it was not dropped");
    }

    /// While one holder polls the work, it is woken, and only then another one comes. The first
    /// is never polled again: the other one has to hear of it.
    #[test]
    fn who_comes_while_another_polls_is_not_forgotten() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (inside, outside) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let work = Shared::new({
            let (inside, outside) = (Arc::clone(&inside), Arc::clone(&outside));
            let mut polled = false;
            std::future::poll_fn(move |cx| {
                if std::mem::replace(&mut polled, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                inside.wait();
                outside.wait();
                Poll::Pending
            })
        });
        let mut first = work.clone();
        let first = std::thread::spawn(move || {
            let mut idle = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut first).poll(&mut idle).is_pending());
            first
        });
        inside.wait();
        let woken = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut other = work;
        assert!(Pin::new(&mut other).poll(&mut Context::from_waker(&waker)).is_pending());
        outside.wait();
        let first = first.join().unwrap();
        assert!(woken.0.load(Ordering::SeqCst), "it waits for a holder that is not polled");
        assert!(Pin::new(&mut other).poll(&mut Context::from_waker(&waker)).is_ready());
        assert!(first.is_done());
    }

    /// Holders on several threads meet at the work; some of them are never polled again, although
    /// they are woken. Those who stay see it done.
    #[test]
    fn a_holder_that_goes_away_holds_up_nobody() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..2_000 {
                let work = Shared::new(async {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                });
                let stays = spawn(work.clone());
                let goes = [work.clone(), work].map(|mut work| {
                    spawn(async move {
                        let polled = std::future::poll_fn(|cx| {
                            Poll::Ready(Pin::new(&mut work).poll(cx).is_ready())
                        });
                        polled.await;
                        // Held, and not polled any more.
                        vec![work]
                    })
                });
                tokio::time::timeout(Duration::from_secs(5), stays).await.unwrap().unwrap();
                for gone in goes {
                    drop(gone.await);
                }
            }
        });
    }
}
