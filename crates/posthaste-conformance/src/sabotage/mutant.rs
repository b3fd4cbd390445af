//! The mutants: what each does wrong, which promise's cases have to notice, and where.

use std::fmt;

use posthaste_core::{Capabilities, Promise, Sharing};

use crate::harness::Need;

/// The table, a row for each mutant: the promise it breaks, its name, its defect in a sentence,
/// `when` a broker's capabilities let it do harm, and of which needs the harness must offer at
/// least one.
macro_rules! mutants {
    ($($promise:ident $name:ident = $what:literal
        $(when $applies:expr)? $(, needs [$($need:ident),+])?;)+) => {
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
                    Self::Nothing => "Nothing is wrong.",
                    $( Self::$name => $what, )+
                }
            }

            /// Whether it can do harm on a broker that can do this, where a case could see it.
            #[must_use]
            pub fn applies(self, can: &Capabilities, offers: &[Need]) -> bool {
                let (_, _) = (can, offers);
                match self {
                    Self::Nothing => true,
                    $( Self::$name => {
                        $( let applies: fn(&Capabilities) -> bool = $applies;
                           if !applies(can) { return false; } )?
                        $( if ![$(Need::$need),+].iter().any(|need| offers.contains(need)) {
                            return false;
                        } )?
                        true
                    } )+
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
    P1 StoreWithTheNext = "An entry is confirmed at once and stored with the next one.";

    P2 ShiftOutcomes = "The outcomes of a batch are those of the entries beside.";
    P2 OutcomesOfOthers = "A publish has the outcome of the one before.";
    P2 FailuresAsSuccess = "An entry that failed is reported as confirmed.";
    P2 DenyWhatIsStored = "Every fifth entry is stored and reported as certainly not stored.";
    P2 SendTwice = "Every batch is sent twice.";
    P2 OneSpoilsTheBatch = "An entry that is refused takes its whole batch with it."
        when |can| can.max_message_bytes.is_some();

    P3 SwallowUnroutable = "A publish to a topic that does not exist is confirmed.";
    P3 DropWithoutGroups = "A message for a topic without groups is confirmed and dropped."
        when |can| can.group_lifecycle.is_kept();

    P4 CreateUnderVerify = "What is missing is created although only a look was asked for.";
    P4 CreateGroupsUnderVerify = "A subscription creates its group, whatever was asked for.";
    P4 CreateByPublishing = "A publish creates the topic, whatever was asked for.";
    P4 HideDifferences = "A topic that differs is taken for the one that was asked for."
        when |can| can.order.is_kept();
    P4 SwapWantedAndFound = "A difference names what is there as what was wanted."
        when |can| can.order.is_kept();
    P4 OverwriteWhatDiffers = "A topic that differs is made anew as it was asked for."
        when |can| can.order.is_kept();

    P5 DeliverToASecondMember = "What one member has is given to another as well.";
    P5 SkipAGroup = "The second group of a topic misses every fifth message."
        when |can| can.fan_out.is_kept();
    P5 ForgetATopic = "Of several topics of a subscription the last brings nothing.";

    P6 DoubleCommands = "Each message of a queue is delivered twice."
        when |can| can.queue.is_kept();
    P6 StealFromAQueue = "Another group on a queue takes commands from the first."
        when |can| can.queue.is_kept();
    P6 QueuesAreTopics = "A queue is described as a topic." when |can| can.queue.is_kept();

    P7 StartAtTheEarliest = "A new group gets everything, wherever it was to start."
        when |can| can.start_earliest.is_kept();
    P7 StartAtTheLatest = "A group that was to start at the earliest message gets what comes."
        when |can| can.start_earliest.is_kept();
    P7 GroupsComeWithTheirMembers = "A group begins with its first member, not with its creation.";
    P7 MoveAnExistingGroup = "A member that comes with another start moves its group."
        when |can| can.seek.is_kept();
    P7 LeaveTheEphemeral = "A subscription without a group leaves one behind."
        when |can| can.group_lifecycle.is_kept();

    P8 NeverAgain = "What was delivered once is not delivered again.";
    P8 ForgetTheFlag = "A delivery that is not the first looks like the first.";
    // With a member goes its lane, and nobody can acknowledge for it any more.
    P8 BuryWithTheHolder = "What a dead member held is acknowledged."
        when |can| can.sharing == Sharing::Messages;

    P9 AcknowledgeTheNeighbour = "An acknowledgement takes the message before with it.";
    P9 AcknowledgeEverythingBefore = "An acknowledgement takes all messages before with it.";
    P9 ForgetAcknowledgements = "Every fifth acknowledgement is reported as done and not sent.";

    P10 LateVerdictsPass = "A verdict on a lost lease is reported as done.";
    P10 LateVerdictsAct = "A verdict on a lost lease is refused, and publishes the message again.";
    P10 LateExtendsPass = "A lost lease is reported as prolonged.";
    P10 ChokeOnStrangeTokens = "A token that nobody issued fails the whole batch.";

    P11 NackIsAck = "A requeued message is acknowledged.";
    P11 RequeueWaitsForTheLease = "A requeued message comes again only when its lease ends.";
    P11 DelayIsNone = "A delayed message comes at once.";
    P11 DelayIsHalf = "A delayed message comes after half of its time.";
    P11 RequeueToAllGroups = "A requeued message is published again, to all groups."
        when |can| can.fan_out.is_kept();
    P11 DeadLetterIsRelease = "A message for the dead letters comes again."
        when |can| can.dead_letters.is_kept();

    P12 LetterWithoutCause = "A dead letter does not say why."
        when |can| can.dead_letters.is_kept();
    P12 LetterWithoutItsAttempts = "A dead letter does not say how often it was tried."
        when |can| can.dead_letters.is_kept();
    P12 DropTheLetter = "A message for the dead letters is settled and not stored."
        when |can| can.dead_letters.is_kept();
    P12 ReplayToAllGroups = "A replayed letter is published again, to all groups."
        when |can| can.dead_letters.is_kept() && can.fan_out.is_kept();
    P12 LettersOfAllGroups = "A group is shown the letters of the others, too."
        when |can| {
            can.dead_letters.is_kept() && can.fan_out.is_kept() && can.group_lifecycle.is_kept()
        };
    P12 EveryPageIsTheFirst = "The page behind a letter is the first page again."
        when |can| can.dead_letters.is_kept();
    P12 DiscardNothing = "A letter is reported as discarded, and is kept."
        when |can| can.dead_letters.is_kept();

    P13 ExtendDoesNothing = "A lease is reported as prolonged, and is not.";
    P13 EveryLeaseIsLost = "A prolonged lease is reported as lost.";
    P13 OverstateTheLease = "The lease is said to be four times as long as it is.";

    P14 AttemptsEndAtTwo = "Attempts are counted up to two." when |can| can.exact_attempts;
    P14 ReleaseCountsTwice = "A delivery that was given back counts twice."
        when |can| can.exact_attempts;
    P14 ReleaseIsFailure = "A message that was given back three times becomes a dead letter."
        when |can| can.dead_letters.is_kept();
    P14 DenyExactness = "Exact attempts are said to be approximate, and the other way round.";

    P15 SwapTwoOfAKey = "Two messages of a key change places." when |can| can.order.is_kept();
    P15 TwoHoldersOfAKey = "What one member has is given to another as well."
        when |can| can.order.is_kept();
    P15 NameAnotherPartition = "A delivery names the partition beside its own."
        when |can| can.order.is_kept();
    P15 RequeueToTheEnd = "A message that comes again comes behind the others of its key."
        when |can| can.order.is_kept();
    P15 OrderOnAnyTopic = "A plain topic takes an ordered subscription.";

    P16 ExceedTheCredit = "Twice as many messages are fetched as may be.";
    P16 CreditForEachTopic = "Each topic of a subscription has the whole credit.";
    P16 IgnoreTheBytes = "Messages are fetched however large they are.";

    P17 LoseWhatWasInFlight = "What is on its way at a disconnect is lost.",
        needs [Cut, Restart, Kill];
    P17 StayAway = "After a disconnect nothing comes any more.", needs [Cut, Restart, Kill];
    P17 HideTheReturn = "Nobody is told that the connection is back.", needs [Cut];
    P17 EndAtADisconnect = "A disconnect ends the subscription.", needs [Cut, Restart, Kill];
    P17 GiveUpAtOnce = "A publish to a broker that is away is not worth another try.",
        needs [Restart, Kill];

    P18 KeepWhatWasPrefetched = "What a member gives back stays with it until its lease ends.";
    P18 ForgetTheLastSettlements = "What is settled after a stop is reported as done and not sent.";
    P18 FetchAfterAStop = "A stopped member fetches once more, and keeps what it gets.";

    P19 DropForeign = "Messages of other programs are dropped.", needs [Foreign];
    P19 ChokeOnForeign = "A message of another program ends the subscription.", needs [Foreign];
    P19 SpinOnDrop = "A delivery that was dropped comes again at once.";

    P20 ChangeTheId = "An id of more than 24 bytes is cut.";
    P20 LoseARepeatedHeader = "Of two headers with one name the last is lost.";
    P20 LoseEmptyHeaders = "A header without a value is lost.";
    P20 LowerTheHeaders = "The names of headers come in lower case.";
    P20 TruncateThePayload = "The last byte of a long payload is lost.";
    P20 MangleBinary = "Bytes that are no text are replaced.";
    P20 LoseTheTrace = "The trace context is lost.";
    P20 RoundTheTime = "The time of a message is cut to milliseconds.";
    P20 SwallowTheTooLarge = "A message that is too large is confirmed and dropped."
        when |can| can.max_message_bytes.is_some();

    P21 LoseTheExpiry = "A message does not say when it expires.";
    P21 ExpireLate = "A message expires two seconds after its time.";

    P22 DeliverAtOnce = "A message for later comes now." when |can| can.deliver_at.is_kept();
    P22 DeliverNowAndThen = "A message for later comes now and again at its time."
        when |can| can.deliver_at.is_kept();

    P23 StoreTwice = "A repetition is stored." when |can| can.deduplication.is_kept();
    P23 HideTheDuplicate = "A repetition is confirmed as if it were the first."
        when |can| can.deduplication.is_kept();
    P23 KnowOnlyOnesOwn = "A connection recognises only the repetitions of its own messages."
        when |can| can.deduplication.is_kept();

    P24 LagIsZero = "A group has never anything to do." when |can| can.lag.is_kept();
    P24 CountOneMore = "A group has one message more to do than there are."
        when |can| can.lag.is_kept();
    P24 AgeStandsStill = "The oldest message is always a second old." when |can| can.lag.is_kept();
    P24 NothingHasALag = "A group that does not exist has a lag of zero."
        when |can| can.lag.is_kept();

    P25 SeekNowhere = "Seeking succeeds, and moves nothing." when |can| can.seek.is_kept();
    P25 SeekUnderMembers = "Seeking under a live member succeeds, and moves nothing."
        when |can| can.seek.is_kept();
    P25 NameNoMember = "Seeking under a live member is refused without its name."
        when |can| can.seek.is_kept();
    P25 SeekEveryGroup = "Seeking moves the other groups, too."
        when |can| {
            can.seek.is_kept() && can.fan_out.is_kept() && can.group_lifecycle.is_kept()
        };
    P25 RangeFromTheStart = "A range always begins at the earliest message."
        when |can| can.range.is_kept();
    P25 RangeWithoutItsEnd = "A range holds more messages than were asked for."
        when |can| can.range.is_kept();

    P26 AlwaysLive = "The health is that of a broker that is there.";
    P26 LiveWhileItIsDown = "A broker that is down is live.", needs [Cut, BlackHole];
    P26 NeverLiveAgain = "A broker that was down once is down.", needs [Cut, BlackHole];

    P27 SecretInErrors = "Errors name the URL with its password.";
    P27 AliveAfterClose = "A connection that was closed works on.";
    P27 ClosedIsUnreachable = "A connection that was closed says that the broker is not there.";
    P27 TakeEveryLogin = "A connection that must fail is made.", needs [Mistakes];

    P28 TakeFromTheHolder = "A member that joins gets what the others hold.";
    P28 JoinTakesEverything = "A member that joins costs the others what they hold.";
    P28 LeaveTakesEverything = "A member that leaves costs the others what they hold.";

    P29 HideLoss = "Nobody hears of messages that were removed."
        when |can| can.visible_loss.is_kept();
    P29 LoseOneMore = "One message less is said to be lost than were."
        when |can| can.visible_loss.is_kept();
    P29 VanishInSilence = "The consumer of a deleted topic waits for ever."
        when |can| can.visible_loss.is_kept();
    P29 PurgeNothing = "A topic is reported as purged, and is not."
        when |can| can.purge.is_kept();

    P30 HangInHealth = "A look at the health does not end.";
    P30 HangInPublish = "Every publish waits for ever.";
    P30 HangInClose = "Closing does not end.";
    P30 HangInStop = "A stopped subscription does not end.";

    P31 OneSlowStallsTheOthers = "A subscription gets nothing while another holds something.";
    P31 SettlingWaitsForTheOthers = "A settlement waits for what other subscriptions hold.";
    P31 OneEndsTheOthers = "A subscription that fails takes the others of its bus with it.";

    P32 HideDifferingLeases = "A differing lease of the group is not reported."
        when |can| can.sharing == Sharing::Messages;
    P32 TakeTheNewLease = "The lease that is in force is said to be the one asked for."
        when |can| can.sharing == Sharing::Messages;
    P32 UnderstateTheLease = "The lease is said to be half as long as it is.";
    P32 InventDifferences = "A member that asks for what there is, is told that it differs.";
    P32 Repartition = "A topic with another number of partitions is made anew."
        when |can| can.order.is_kept();

    P33 ListNoGroup = "A topic is said to have no groups."
        when |can| can.group_lifecycle.is_kept();
    P33 DeleteGroupDoesNothing = "A group is reported as deleted, and is not."
        when |can| can.group_lifecycle.is_kept();
    P33 DeleteUnderMembers = "Deleting a group under a live member succeeds."
        when |can| can.group_lifecycle.is_kept();
    P33 NobodyIsAbandoned = "A group is said to have a member."
        when |can| can.group_lifecycle.is_kept();

    P34 HideTheNativeClient = "The native client is out of reach.", needs [Native];
    P34 HideTheNativeName = "A topic does not say what it is called at the broker.";
    P34 IgnoreTheBinding = "A bound topic has its default name.", needs [Bind];
}

impl Mutant {
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
