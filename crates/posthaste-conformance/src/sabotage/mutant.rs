//! The mutants: what each does wrong, and which promise's cases have to notice.

use std::fmt;

use posthaste_core::{Capabilities, Promise};

use crate::harness::Need;

macro_rules! mutants {
    ($($promise:ident $name:ident = $what:literal;)+) => {
        /// One way to break a promise, small enough to be overlooked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Mutant {
            /// Nothing is wrong: every case has to pass.
            Nothing,
            $( #[doc = $what] $name, )+
        }

        impl Mutant {
            /// Every mutant that does something wrong, in the order of the promises.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The promise whose cases have to notice it; none for [`Mutant::Nothing`].
            #[must_use]
            pub const fn promise(self) -> Option<Promise> {
                match self {
                    Self::Nothing => None,
                    $( Self::$name => Some(Promise::$promise), )+
                }
            }

            /// What it does wrong, in a sentence.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self {
                    Self::Nothing => "nothing",
                    $( Self::$name => $what, )+
                }
            }

            const fn camel(self) -> &'static str {
                match self {
                    Self::Nothing => "Nothing",
                    $( Self::$name => stringify!($name), )+
                }
            }
        }
    };
}

mutants! {
    P1 ConfirmWithoutStoring = "Every seventh entry is confirmed and not stored.";
    P2 ShiftOutcomes = "The outcomes of a batch are those of the entries beside.";
    P2 FailuresAsSuccess = "An entry that failed is reported as confirmed.";
    P3 SwallowUnroutable = "A publish to a topic that does not exist is confirmed.";
    P3 DropWithoutGroups = "A message for a topic without groups is confirmed and dropped.";
    P4 CreateUnderVerify = "What is missing is created although only a look was asked for.";
    P4 HideDifferences = "A topic that differs is taken for the one that was asked for.";
    P5 DeliverToASecondMember = "What one member has is given to another as well.";
    P5 SkipAGroup = "The second group of a topic misses every fifth message.";
    P6 DoubleCommands = "Each message of a queue is delivered twice.";
    P7 StartAtTheEarliest = "A new group gets everything, wherever it was to start.";
    P8 NeverAgain = "What was delivered once is not delivered again.";
    P8 ForgetTheFlag = "A delivery that is not the first looks like the first.";
    P9 AcknowledgeTheNeighbour = "An acknowledgement takes the message before with it.";
    P9 AcknowledgeEverythingBefore = "An acknowledgement takes all messages before with it.";
    P10 LateVerdictsPass = "A verdict on a lost lease is reported as done.";
    P10 LateExtendsPass = "A lost lease is reported as prolonged.";
    P11 NackIsAck = "A requeued message is acknowledged.";
    P11 DelayIsNone = "A delayed message comes at once.";
    P11 RequeueToAllGroups = "A requeued message is published again, to all groups.";
    P11 DeadLetterIsRelease = "A message for the dead letters comes again.";
    P12 LetterWithoutCause = "A dead letter does not say why.";
    P12 DropTheLetter = "A message for the dead letters is settled and not stored.";
    P12 ReplayToAllGroups = "A replayed letter is published again, to all groups.";
    P13 ExtendDoesNothing = "A lease is reported as prolonged, and is not.";
    P14 AttemptsEndAtTwo = "Attempts are counted up to two.";
    P14 ReleaseIsFailure = "A message that was given back twice becomes a dead letter.";
    P15 SwapTwoOfAKey = "Two messages of a key change places.";
    P15 OrderOnAnyTopic = "A plain topic takes an ordered subscription.";
    P16 ExceedTheCredit = "Twice as many messages are fetched as may be.";
    P16 IgnoreTheBytes = "Messages are fetched however large they are.";
    P17 LoseWhatWasInFlight = "What was unsettled at a disconnect never comes again.";
    P17 StayAway = "After a disconnect nothing comes any more.";
    P18 KeepWhatWasPrefetched = "What a member gives back stays with it until its lease ends.";
    P19 DropForeign = "Messages of other programs are dropped.";
    P19 SpinOnDrop = "A delivery that was dropped comes again at once.";
    P20 LoseARepeatedHeader = "Of two headers with one name the last is lost.";
    P20 TruncateThePayload = "The last byte of a long payload is lost.";
    P20 LoseTheTrace = "The trace context is lost.";
    P21 LoseTheExpiry = "A message does not say when it expires.";
    P22 DeliverAtOnce = "A message for later comes now.";
    P23 StoreTwice = "A repetition is stored.";
    P24 LagIsZero = "A group has never anything to do.";
    P25 SeekNowhere = "Seeking succeeds, and moves nothing.";
    P25 SeekUnderMembers = "Seeking under a live member succeeds, and moves nothing.";
    P25 RangeFromTheStart = "A range always begins at the earliest message.";
    P26 AlwaysLive = "The health is that of a broker that is there.";
    P27 SecretInErrors = "Errors name the URL with its password.";
    P28 TakeFromTheHolder = "A member that joins gets what the others hold.";
    P29 HideLoss = "Nobody hears of messages that were removed.";
    P29 VanishInSilence = "The consumer of a deleted topic waits for ever.";
    P30 HangInHealth = "A look at the health does not end.";
    P30 PublishWithoutAnswer = "Every publish waits for ever.";
    P31 OneSlowStallsTheOthers = "A subscription gets nothing while another holds something.";
    P32 HideDifferingLeases = "A differing lease of the group is not reported.";
    P32 TakeTheNewLease = "The lease that is in force is said to be the one asked for.";
    P33 DeleteGroupDoesNothing = "A group is reported as deleted, and is not.";
    P33 DeleteUnderMembers = "Deleting a group under a live member succeeds.";
    P34 HideTheNativeClient = "The native client is out of reach.";
}

impl Mutant {
    /// Whether it can do anything on a broker that can do this.
    #[must_use]
    pub fn applies(self, can: &Capabilities, offers: &[Need]) -> bool {
        let broken = || offers.iter().any(|need| matches!(need, Need::Cut | Need::Restart));
        match self {
            Self::DropWithoutGroups | Self::DeleteGroupDoesNothing | Self::DeleteUnderMembers => {
                can.group_lifecycle.is_kept()
            }
            Self::HideDifferences | Self::SwapTwoOfAKey => can.order.is_kept(),
            Self::SkipAGroup | Self::RequeueToAllGroups => can.fan_out.is_kept(),
            Self::DoubleCommands => can.queue.is_kept(),
            Self::StartAtTheEarliest => can.start_earliest.is_kept(),
            Self::DeadLetterIsRelease
            | Self::LetterWithoutCause
            | Self::DropTheLetter
            | Self::ReleaseIsFailure => can.dead_letters.is_kept(),
            Self::ReplayToAllGroups => can.dead_letters.is_kept() && can.fan_out.is_kept(),
            Self::AttemptsEndAtTwo => can.exact_attempts,
            Self::LoseWhatWasInFlight | Self::StayAway => broken(),
            Self::DropForeign => offers.contains(&Need::Foreign),
            Self::DeliverAtOnce => can.deliver_at.is_kept(),
            Self::StoreTwice => can.deduplication.is_kept(),
            Self::LagIsZero => can.lag.is_kept(),
            Self::SeekNowhere | Self::SeekUnderMembers => can.seek.is_kept(),
            Self::RangeFromTheStart => can.range.is_kept(),
            Self::HideLoss | Self::VanishInSilence => can.visible_loss.is_kept(),
            Self::HideTheNativeClient => offers.contains(&Need::Native),
            _ => true,
        }
    }

    /// Its name in lower case with underscores, as in the name of a trial.
    #[must_use]
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in self.camel().chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_promise_has_a_mutant() {
        let seen: BTreeSet<_> = Mutant::ALL.iter().filter_map(|mutant| mutant.promise()).collect();
        let missing: Vec<_> =
            Promise::ALL.iter().filter(|promise| !seen.contains(promise)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn names_are_those_of_trials() {
        assert_eq!(Mutant::SwapTwoOfAKey.to_string(), "swap_two_of_a_key");
    }
}
