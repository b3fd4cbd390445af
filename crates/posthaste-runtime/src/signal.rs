//! What tells a consumer to stop.

use std::future::{Future, pending};

/// What the future given to [`Consumer::run_until`](crate::Consumer::run_until) resolves to: it may
/// know of a second signal, at which the consumer does not finish what it has.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say when to stop",
    note = "give `run_until` a future of `()`, or `shutdown_signal()`; for another future, write an `async` block that awaits it"
)]
pub trait Stop: Send {
    /// Resolves when the consumer shall end at once.
    fn at_once(self) -> impl Future<Output = ()> + Send;
}

/// Never at once: the drain's time is all there is.
impl Stop for () {
    fn at_once(self) -> impl Future<Output = ()> + Send {
        pending()
    }
}

/// That of what was received; an error means stop, too.
impl<T: Stop, E: Send> Stop for Result<T, E> {
    async fn at_once(self) {
        match self {
            Ok(stop) => stop.at_once().await,
            Err(_) => pending().await,
        }
    }
}

/// The process was told to end; a second signal ends it at once. From [`shutdown_signal`].
#[derive(Debug)]
pub struct ShutdownSignal {
    signals: Signals,
}

impl Stop for ShutdownSignal {
    async fn at_once(mut self) {
        self.signals.next().await;
    }
}

/// Resolves when the process is told to end: by SIGTERM or SIGINT (Ctrl-C); on systems without
/// signals by Ctrl-C. A consumer that runs until then stops at once at the second one.
///
/// From the first poll on, those signals do not end the process by themselves.
///
/// # Cancel safety
/// Cancel safe; the signals stay taken.
pub async fn shutdown_signal() -> ShutdownSignal {
    let mut signals = Signals::take();
    signals.next().await;
    ShutdownSignal { signals }
}

#[cfg(unix)]
#[derive(Debug)]
struct Signals {
    terminate: Option<tokio::signal::unix::Signal>,
    interrupt: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn take() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let take = |kind| {
            let warn =
                |error: &std::io::Error| tracing::warn!(%error, "a signal cannot be awaited");
            signal(kind).inspect_err(warn).ok()
        };
        Self { terminate: take(SignalKind::terminate()), interrupt: take(SignalKind::interrupt()) }
    }

    async fn next(&mut self) {
        async fn of(signal: &mut Option<tokio::signal::unix::Signal>) {
            let received = match signal {
                Some(signal) => signal.recv().await,
                None => None,
            };
            if received.is_none() {
                pending::<()>().await;
            }
        }
        tokio::select! {
            () = of(&mut self.terminate) => {}
            () = of(&mut self.interrupt) => {}
        }
    }
}

#[cfg(not(unix))]
#[derive(Debug)]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    const fn take() -> Self {
        Self
    }

    async fn next(&mut self) {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "Ctrl-C cannot be awaited");
            pending::<()>().await;
        }
    }
}
