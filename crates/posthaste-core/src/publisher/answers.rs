//! What is answered to those who wait: one place for each message whose outcome somebody may ask
//! for.
//!
//! Places are used again, so that a message needs no channel of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::Confirmed;
use crate::Result;

/// Beyond this many places, memory is given back when none is in use.
const KEPT: usize = 4_096;

/// The places of a window.
#[derive(Debug, Default)]
pub(super) struct Answers {
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug)]
enum Place {
    Free,
    /// Nothing is known yet.
    Open(Option<Waker>),
    /// Nobody asks any more.
    Forgotten,
    Answered(Result<Confirmed>),
}

/// The right to answer at a place, once. It has to be used: what is dropped is never answered.
#[derive(Debug)]
#[must_use]
pub(super) struct Answer(u32);

/// The right to ask at a place. Dropping it alone does not free the place.
#[derive(Debug)]
pub(super) struct Question(u32);

impl Answers {
    /// A place for one answer.
    pub(super) fn open(&self) -> (Answer, Question) {
        let mut places = self.lock();
        let place = match places.free.pop() {
            Some(place) => place,
            // Each one is of a message: there is no memory for so many.
            None => {
                places.all.push(Place::Free);
                u32::try_from(places.all.len() - 1).unwrap_or(u32::MAX)
            }
        };
        places.all[place as usize] = Place::Open(None);
        (Answer(place), Question(place))
    }

    /// Answers several; those who wait are woken when it is dropped.
    pub(super) fn answering(&self) -> Answering<'_> {
        Answering { places: Some(self.lock()), woken: SmallVec::new() }
    }

    /// Answers one.
    pub(super) fn answer(&self, answer: Answer, outcome: Result<Confirmed>) {
        self.answering().answer(answer, outcome);
    }

    /// The answer, or a wake-up when it is there. After `Ready` the question is used up.
    pub(super) fn poll(&self, question: &Question, cx: &Context<'_>) -> Poll<Result<Confirmed>> {
        let mut places = self.lock();
        let place = &mut places.all[question.0 as usize];
        match place {
            Place::Answered(_) => {}
            Place::Open(waker) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            Place::Free | Place::Forgotten => return Poll::Pending,
        }
        match places.free(question.0) {
            Place::Answered(outcome) => Poll::Ready(outcome),
            _ => Poll::Pending,
        }
    }

    /// Nobody asks any more.
    pub(super) fn forget(&self, question: &Question) {
        let mut places = self.lock();
        let place = &mut places.all[question.0 as usize];
        if let Place::Open(_) = place {
            *place = Place::Forgotten;
        } else {
            // What it was is dropped outside of the lock.
            let answered = places.free(question.0);
            drop(places);
            drop(answered);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing panics while it is held but an allocation that failed.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn free(&mut self, place: u32) -> Place {
        let was = std::mem::replace(&mut self.all[place as usize], Place::Free);
        self.free.push(place);
        if self.free.len() == self.all.len() && self.all.len() > KEPT {
            *self = Self::default();
        }
        was
    }
}

/// Answers under way. While it lives, nobody else can ask or answer.
pub(super) struct Answering<'a> {
    places: Option<MutexGuard<'a, Places>>,
    woken: SmallVec<[Waker; 8]>,
}

impl Answering<'_> {
    pub(super) fn answer(&mut self, Answer(place): Answer, outcome: Result<Confirmed>) {
        let Some(places) = &mut self.places else { return };
        match std::mem::replace(&mut places.all[place as usize], Place::Answered(outcome)) {
            Place::Open(waker) => self.woken.extend(waker),
            _ => drop(places.free(place)),
        }
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        // Who is woken may ask at once, in the middle of being woken.
        self.places = None;
        self.woken.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::Error;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn outcome() -> Result<Confirmed> {
        Err(Error::closed("an answer"))
    }

    #[test]
    fn who_asks_is_woken_once_and_gets_the_answer_once() {
        let answers = Answers::default();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let (answer, question) = answers.open();
        assert!(answers.poll(&question, &cx).is_pending());
        assert!(answers.poll(&question, &cx).is_pending());
        answers.answer(answer, outcome());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(answers.poll(&question, &cx).is_ready());
        assert_eq!(answers.lock().free.len(), 1);
    }

    #[test]
    fn places_are_used_again_whoever_is_done_first() {
        let answers = Answers::default();
        for _ in 0..3 {
            let (answer, question) = answers.open();
            answers.forget(&question);
            answers.answer(answer, outcome());
            let (answer, question) = answers.open();
            answers.answer(answer, outcome());
            answers.forget(&question);
        }
        let places = answers.lock();
        assert_eq!((places.all.len(), places.free.len()), (1, 1));
    }

    #[test]
    fn a_flood_leaves_no_memory_behind() {
        let answers = Answers::default();
        let many: Vec<_> = (0..=KEPT).map(|_| answers.open()).collect();
        for (answer, question) in many {
            answers.answer(answer, outcome());
            answers.forget(&question);
        }
        assert!(answers.lock().all.is_empty());
    }
}
