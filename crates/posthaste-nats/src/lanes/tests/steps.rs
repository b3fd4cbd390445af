//! What can happen to a lane and its owners.

use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Publish {
        gap: u64,
    },
    Wait {
        millis: u64,
    },
    /// The owner does what its life needs.
    Act,
    /// What the owner sent reaches the server, and what it gets reaches the owner.
    Up(usize),
    Down(usize),
    Facts,
    Handle(Index),
    Release(Index),
    Extend,
    /// The connection is lost with all that is under way; or one message, without a word.
    Cut,
    Drop,
    /// Another owner; the one before gives up properly or not.
    Hand {
        clean: bool,
    },
    /// A late word of an earlier owner.
    Late(Index),
    /// An earlier owner's handler ends.
    LateHandler(Index),
    Sweep,
    /// The server forgets what happened since the last of these.
    Save,
    Crash,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        12 => (1_u64..4).prop_map(|gap| Step::Publish { gap }),
        8 => (1_u64..2500).prop_map(|millis| Step::Wait { millis }),
        24 => Just(Step::Act),
        16 => (1_usize..6).prop_map(Step::Up),
        16 => (1_usize..6).prop_map(Step::Down),
        8 => Just(Step::Facts),
        12 => index().prop_map(Step::Handle),
        2 => index().prop_map(Step::Release),
        6 => Just(Step::Extend),
        1 => Just(Step::Cut),
        1 => Just(Step::Drop),
        2 => any::<bool>().prop_map(|clean| Step::Hand { clean }),
        6 => index().prop_map(Step::Late),
        2 => index().prop_map(Step::LateHandler),
        1 => Just(Step::Sweep),
        1 => Just(Step::Save),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..500)
}
