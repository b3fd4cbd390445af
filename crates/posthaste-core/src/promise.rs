//! The promises by number, so that code, cases and documents cite the same thing.

use std::fmt;

macro_rules! promises {
    ($($name:ident = $number:literal, $title:literal;)*) => {
        /// A promise of `docs/promises.md`: what is the same on every broker, or refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the title is the documentation")]
        pub enum Promise { $( #[doc = $title] $name = $number, )* }

        impl Promise {
            /// All promises, in order.
            pub const ALL: &'static [Self] = &[ $(Self::$name,)* ];

            /// The promise in a few words, as in the parity table.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

promises! {
    P1 = 1, "a confirmed publish survives a broker restart";
    P2 = 2, "a batch reports each entry";
    P3 = 3, "a message no group could get is never accepted in silence";
    P4 = 4, "topology is created, verified or refused, as chosen";
    P5 = 5, "every group gets every message, one member handles it";
    P6 = 6, "queues: point to point";
    P7 = 7, "a new group starts where it was told";
    P8 = 8, "an unsettled delivery comes again, flagged";
    P9 = 9, "acknowledging out of order loses nothing";
    P10 = 10, "a late settlement never touches another's delivery";
    P11 = 11, "nack is private to the group: requeue, delay, dead letter";
    P12 = 12, "dead letters carry their cause and replay to the failed group only";
    P13 = 13, "the lease is kept while the handler runs";
    P14 = 14, "attempts are counted; a deploy never costs a message its life";
    P15 = 15, "order per key on ordered topics";
    P16 = 16, "never more than `prefetch` unsettled";
    P17 = 17, "both sides resume after an outage of any length";
    P18 = 18, "stop drains and hands over";
    P19 = 19, "foreign and undecodable messages are delivered";
    P20 = 20, "everything arrives as sent; too large is refused early";
    P21 = 21, "an expired message is not handled";
    P22 = 22, "delayed publish";
    P23 = 23, "deduplicated publish";
    P24 = 24, "lag of a group";
    P25 = 25, "seek, and reading a range again";
    P26 = 26, "health";
    P27 = 27, "typed errors that name what was wrong, without secrets";
    P28 = 28, "a joining or leaving member moves only what it must";
    P29 = 29, "loss is visible";
    P30 = 30, "every call ends by its deadline";
    P31 = 31, "subscriptions are isolated from each other";
    P32 = 32, "rolling deploys: a differing shared setting is reported";
    P33 = 33, "groups have a life cycle";
    P34 = 34, "existing names can be bound; the native client is in reach";
}

impl Promise {
    /// Its number, from 1.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.number())
    }
}
