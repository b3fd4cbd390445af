//! Calls of the client that block, on threads of our own.
//!
//! The client answers some questions only to a thread that waits: metadata, watermarks, lists of
//! groups. A thread of the runtime must not. So a few threads ask, for callers that await the
//! answer; a caller that went away is not asked for any more.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use rdkafka::client::Client;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connect::Owned;
use crate::context::PublishContext;
use crate::error::{self, BROKER};
use crate::producer::Threaded;

/// How many calls may be under way. One that waits for an absent broker must not hold up others.
const THREADS: usize = 4;
/// How many calls may wait for a thread.
const QUEUE: usize = 256;

/// The client that is asked: that of the producer, so that there is one connection less.
pub(crate) type Asked = Client<PublishContext>;

type Call = Box<dyn FnOnce(&Asked) + Send>;

/// The threads, and what waits for them.
pub(crate) struct Worker {
    calls: SyncSender<Call>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopped: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the threads. They end by themselves when the worker is dropped.
    ///
    /// # Errors
    /// `Fatal` if the system gives no thread.
    pub(crate) fn start(client: &Arc<Owned<Threaded>>) -> Result<Self> {
        let (calls, waiting) = sync_channel::<Call>(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let stopped = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::with_capacity(THREADS);
        for _ in 0..THREADS {
            let (client, waiting) = (Arc::clone(client), Arc::clone(&waiting));
            let stopped = Arc::clone(&stopped);
            let thread = thread::Builder::new().name("posthaste-kafka-ask".to_owned());
            let run = move || answer(&client, &waiting, &stopped);
            threads.push(thread.spawn(run).map_err(no_thread)?);
        }
        Ok(Self { calls, threads: Mutex::new(threads), stopped })
    }

    /// Has the client asked, which gets the time that is left for it.
    ///
    /// # Errors
    /// What the call says; `Timeout` if there is no answer until then, `Backpressure` if too many
    /// calls wait, `Closed` after [`stop`](Self::stop).
    ///
    /// # Cancel safety
    /// Cancel safe: what was not begun is not asked.
    pub(crate) async fn run<T, F>(&self, until: Instant, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Asked, Duration) -> Result<T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let call: Call = Box::new(move |client| {
            let left = until.saturating_duration_since(Instant::now());
            if tell.is_closed() || left.is_zero() {
                return;
            }
            // Nobody may wait any more.
            let _ = tell.send(call(client, left));
        });
        if self.is_stopped() {
            return Err(error::closed());
        }
        match self.calls.try_send(call) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(busy()),
            Err(TrySendError::Disconnected(_)) => return Err(error::closed()),
        }
        match tokio::time::timeout_at(until, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if self.is_stopped() => Err(error::closed()),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    /// Takes no more calls and gives the threads, to be joined where that may block. What waits is
    /// not asked any more; what is under way ends with its deadline.
    pub(crate) fn stop(&self) -> Vec<JoinHandle<()>> {
        self.stopped.store(true, Ordering::Release);
        // A thread that waits for a call sees it only when it gets one.
        for _ in 0..THREADS {
            // If there is no room, there are calls enough.
            let _ = self.calls.try_send(Box::new(|_| {}));
        }
        std::mem::take(&mut *lock(&self.threads))
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Asks one call after the other until the worker is stopped or dropped.
fn answer(client: &Owned<Threaded>, waiting: &Mutex<Receiver<Call>>, stopped: &AtomicBool) {
    use rdkafka::producer::Producer as _;
    loop {
        // One thread waits for the next call, the others for it: the lock is held meanwhile.
        let call = lock(waiting).recv();
        let Ok(call) = call else { return };
        if stopped.load(Ordering::Acquire) {
            return;
        }
        call(client.client());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held but an allocation that failed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cold]
pub(crate) fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Fatal, "the system gives no thread")
        .with_source(error)
        .with_broker(BROKER)
}

#[cold]
fn busy() -> Error {
    Error::new(ErrorKind::Backpressure, "too many requests wait for the broker").with_broker(BROKER)
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not answer in time").with_broker(BROKER)
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::producer::offline;

    fn soon(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    /// Blocks as the client does; nothing else stops it.
    fn block(millis: u64) {
        let never = std::sync::Condvar::new();
        let held = Mutex::new(());
        let until = std::time::Instant::now() + Duration::from_millis(millis);
        let mut guard = held.lock().unwrap();
        while let left @ 1.. =
            until.saturating_duration_since(std::time::Instant::now()).as_millis()
        {
            let left = Duration::from_millis(u64::try_from(left).unwrap());
            guard = never.wait_timeout(guard, left).unwrap().0;
        }
    }

    #[tokio::test]
    async fn answers_come_back_and_late_ones_do_not() {
        let worker = Worker::start(&offline()).unwrap();
        assert_eq!(worker.run(soon(5_000), |_, _| Ok(7)).await.unwrap(), 7);
        let failed = worker.run(soon(5_000), |_, _| Err::<(), _>(Error::invalid("so"))).await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Invalid);
        let slow = |_: &Asked, left: Duration| {
            assert!(left <= Duration::from_millis(50));
            block(500);
            Ok(())
        };
        let late = worker.run(soon(50), slow).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
        let over = worker.run(soon(0), |_, _| Ok(())).await.unwrap_err();
        assert_eq!(over.kind(), ErrorKind::Timeout);
    }

    #[tokio::test]
    async fn a_call_whose_caller_is_gone_is_not_asked() {
        let worker = Worker::start(&offline()).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let busy = (0..THREADS).map(|_| {
            worker.run(soon(5_000), |_, _| {
                block(200);
                Ok(())
            })
        });
        let busy = futures_util::future::join_all(busy);
        let gone = async {
            for _ in 0..20 {
                let asked = Arc::clone(&asked);
                let call = worker.run(soon(5_000), move |_, _| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                });
                let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
            }
        };
        tokio::join!(busy, gone);
        worker.run(soon(5_000), |_, _| Ok(())).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn too_many_calls_are_refused_and_a_stop_ends_all() {
        let worker = Worker::start(&offline()).unwrap();
        let calls = (0..THREADS + QUEUE + 10).map(|_| {
            worker.run(soon(5_000), |_, _| {
                block(300);
                Ok(())
            })
        });
        let calls = futures_util::future::join_all(calls);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let threads = worker.stop();
            let joined = tokio::task::spawn_blocking(|| {
                threads.into_iter().for_each(|thread| thread.join().unwrap());
            });
            tokio::time::timeout(Duration::from_secs(3), joined).await.unwrap().unwrap();
        };
        let stopped = async {
            stop.await;
            let after = worker.run(soon(5_000), |_, _| Ok(())).await;
            assert_eq!(after.unwrap_err().kind(), ErrorKind::Closed);
            assert!(worker.stop().is_empty());
        };
        let (answers, ()) = tokio::join!(calls, stopped);
        let count = |kind| {
            answers.iter().filter(|a| a.as_ref().err().map(Error::kind) == Some(kind)).count()
        };
        assert!((10..10 + THREADS + 1).contains(&count(ErrorKind::Backpressure)));
        assert!(count(ErrorKind::Closed) >= QUEUE - THREADS, "{}", count(ErrorKind::Closed));
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), THREADS);
    }
}
