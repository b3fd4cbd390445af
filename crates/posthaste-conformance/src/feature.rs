//! What an adapter may refuse, by name, so that every refusal has its denial case.

use posthaste_core::{Capabilities, Durability, Support};

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $field:ident;)+) => {
        /// Something in [`Capabilities`] that an adapter may refuse.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Feature {
            /// A copy that outlives the transport: [`Capabilities::durability`].
            Durability,
            $( $(#[$doc])* $name, )+
        }

        impl Feature {
            /// All of them.
            pub const ALL: &'static [Self] = &[Self::Durability, $(Self::$name,)+];

            /// Whether these capabilities refuse it.
            #[must_use]
            pub fn is_refused(self, capabilities: &Capabilities) -> bool {
                match self {
                    Self::Durability => capabilities.durability == Durability::None,
                    $( Self::$name => !capabilities.$field.is_kept(), )+
                }
            }

            /// Makes these capabilities refuse it.
            pub fn refuse(self, capabilities: &mut Capabilities) {
                let refused = || Support::refused("refused for a test");
                match self {
                    Self::Durability => capabilities.durability = Durability::None,
                    $( Self::$name => capabilities.$field = refused(), )+
                }
            }

            /// Its name in [`Capabilities`].
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Durability => "durability",
                    $( Self::$name => stringify!($field), )+
                }
            }
        }
    };
}

features! {
    /// [`Capabilities::at_least_once`].
    AtLeastOnce = at_least_once;
    /// [`Capabilities::fan_out`].
    FanOut = fan_out;
    /// [`Capabilities::queue`].
    Queue = queue;
    /// [`Capabilities::order`].
    Order = order;
    /// [`Capabilities::retention_by_count`].
    RetentionByCount = retention_by_count;
    /// [`Capabilities::start_earliest`].
    StartEarliest = start_earliest;
    /// [`Capabilities::start_at_time`].
    StartAtTime = start_at_time;
    /// [`Capabilities::start_at_offset`].
    StartAtOffset = start_at_offset;
    /// [`Capabilities::deliver_at`].
    DeliverAt = deliver_at;
    /// [`Capabilities::deduplication`].
    Deduplication = deduplication;
    /// [`Capabilities::dead_letters`].
    DeadLetters = dead_letters;
    /// [`Capabilities::lag`].
    Lag = lag;
    /// [`Capabilities::seek`].
    Seek = seek;
    /// [`Capabilities::range`].
    Range = range;
    /// [`Capabilities::group_lifecycle`].
    GroupLifecycle = group_lifecycle;
    /// [`Capabilities::purge`].
    Purge = purge;
    /// [`Capabilities::binding`].
    Binding = binding;
    /// [`Capabilities::visible_loss`].
    VisibleLoss = visible_loss;
}
