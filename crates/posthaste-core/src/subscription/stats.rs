//! Counts of a subscription.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a subscription has done so far.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $( $(#[$doc])* pub $name: u64, )*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $( pub(crate) $name: AtomicU64, )*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $( $name: self.$name.load(Ordering::Relaxed), )* }
            }
        }
    };
}

counters! {
    /// Deliveries that the application got.
    received,
    /// Deliveries whose acknowledgement was taken.
    acked,
    /// Failed deliveries that come again.
    retried,
    /// Messages that were given up to the dead letters.
    dead_lettered,
    /// Deliveries that were given back without fault.
    released,
    /// Messages that expired before they were handled.
    expired,
    /// Messages without a place as a dead letter that were given up.
    discarded,
    /// Leases that ended before their delivery was settled.
    leases_lost,
    /// Settlements that did not reach the broker.
    settle_failures,
    /// Messages that were removed before this group read them, as far as they are counted.
    lost,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
