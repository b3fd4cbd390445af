//! Topics that are being looked at before messages are sent to them: one looks at a topic, and all
//! who want to know wait for what it sees.

use std::sync::{Arc, Mutex, PoisonError};

use posthaste_core::broker::Destination;
use posthaste_core::{Error, Result};
use tokio::sync::watch;

/// What was seen; `None` as long as somebody looks.
pub(crate) type Seen = Option<std::result::Result<(), Arc<Error>>>;

type Looking = Arc<Mutex<Vec<(Destination, watch::Receiver<Seen>)>>>;

/// Who looks where. As many as there are topics that are published to.
#[derive(Debug, Default)]
pub(crate) struct Checks(Looking);

/// The duty of who looks, to say what it saw.
pub(crate) struct Said {
    to: Destination,
    looking: Looking,
    seen: watch::Sender<Seen>,
}

impl Checks {
    /// Waits with who looks there already, or has `begin` look.
    pub(crate) fn join(&self, to: &Destination, begin: impl FnOnce(Said)) -> watch::Receiver<Seen> {
        let mut looking = lock(&self.0);
        if let Some((_, seen)) = looking.iter().find(|(of, _)| of == to) {
            return seen.clone();
        }
        let (seen, receiver) = watch::channel(None);
        looking.push((to.clone(), receiver.clone()));
        drop(looking);
        begin(Said { to: to.clone(), looking: Arc::clone(&self.0), seen });
        receiver
    }
}

impl Said {
    pub(crate) fn say(self, seen: Result<()>) {
        self.seen.send_replace(Some(seen.map_err(Arc::new)));
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        lock(&self.looking).retain(|(of, _)| *of != self.to);
    }
}

fn lock(looking: &Looking) -> std::sync::MutexGuard<'_, Vec<(Destination, watch::Receiver<Seen>)>> {
    // Nothing panics while it is held but an allocation that failed.
    looking.lock().unwrap_or_else(PoisonError::into_inner)
}
