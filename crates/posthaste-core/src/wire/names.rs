//! The names of headers that belong to this library.
//!
//! All begin with `ph-`. They are `Invalid` as application headers and never seen as such.

/// How often the message was delivered to the group before this copy of it; a number.
pub const ATTEMPT: &str = "ph-attempt";
/// When a copy that waits may be delivered; RFC 3339.
pub const DELIVER_AT: &str = "ph-deliver-at";
/// Marks the copy of a message that this library did not write; `1`.
pub const FOREIGN: &str = "ph-foreign";
/// Begins the name of a header whose value is base64: an application header that cannot stand
/// under its own name.
pub const BASE64_PREFIX: &str = "ph-b64-";
/// The name of the one attribute, on brokers that carry few: see [`pack`](super::pack).
pub const PACKED: &str = "ph";

/// Why a message was given up, for example `attempts_exhausted`.
pub const DEAD_LETTER_REASON: &str = "ph-dl-reason";
/// The texts of the error and its causes; a JSON array of strings.
pub const DEAD_LETTER_CAUSE: &str = "ph-dl-cause";
/// The topic the message was published to.
pub const DEAD_LETTER_TOPIC: &str = "ph-dl-topic";
/// The group that gave the message up.
pub const DEAD_LETTER_GROUP: &str = "ph-dl-group";
/// How often the message had been delivered to the group; a number.
pub const DEAD_LETTER_ATTEMPTS: &str = "ph-dl-attempts";
/// When the message failed first, where known; RFC 3339.
pub const DEAD_LETTER_FIRST_FAILED: &str = "ph-dl-first-failed";
/// When the message was given up; RFC 3339.
pub const DEAD_LETTER_FAILED: &str = "ph-dl-failed";
/// The name of the dead letter, where the broker has none.
pub const DEAD_LETTER_ID: &str = "ph-dl-letter-id";
/// The handler that failed.
pub const DEAD_LETTER_HANDLER: &str = "ph-dl-handler";
/// Equal for failures of the same kind; 16 hexadecimal digits.
pub const DEAD_LETTER_FINGERPRINT: &str = "ph-dl-fingerprint";

/// Every `ph-` header there is but those that begin with [`BASE64_PREFIX`].
pub const OWN_HEADERS: [&str; 13] = [
    ATTEMPT,
    DELIVER_AT,
    FOREIGN,
    DEAD_LETTER_REASON,
    DEAD_LETTER_CAUSE,
    DEAD_LETTER_TOPIC,
    DEAD_LETTER_GROUP,
    DEAD_LETTER_ATTEMPTS,
    DEAD_LETTER_FIRST_FAILED,
    DEAD_LETTER_FAILED,
    DEAD_LETTER_ID,
    DEAD_LETTER_HANDLER,
    DEAD_LETTER_FINGERPRINT,
];
