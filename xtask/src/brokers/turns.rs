//! Who may start a server: more at once than the machine has cores for make each other slow.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// Lets a few start their servers at the same time.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Mutex<usize>,
    ended: Condvar,
}

impl Default for Turns {
    /// Two for each core: a start also waits for other things than a core.
    fn default() -> Self {
        Self::new(2 * thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

impl Turns {
    fn new(free: usize) -> Self {
        Self { free: Mutex::new(free), ended: Condvar::new() }
    }

    /// Waits for a turn; it lasts until the result is dropped.
    pub(crate) fn take(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.ended.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

/// The right to start a server.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_than_a_few_have_a_turn() {
        let (turns, at_once, most) = (Turns::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        let one = || {
            let _turn = turns.take();
            most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            at_once.fetch_sub(1, Ordering::SeqCst);
        };
        thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(one))));
        assert!(most.into_inner() <= 2);
    }
}
