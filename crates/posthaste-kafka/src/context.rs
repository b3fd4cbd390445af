//! What the clients say of their connections, on threads of their own.
//!
//! A client tells why it cannot connect only in its log and in events, never in the answer of a
//! call. So the last trouble is kept, for who has to explain a failure. Everything goes to
//! `tracing`, but seldom: a client whose brokers are away says so twenty times a second.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use posthaste_core::Result;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use tokio::time::Instant;

use crate::completion::{Fate, Ticket};
use crate::oauth::Tokens;
use crate::producer::Room;

/// What is written of one kind of message within [`PERIOD`]; the others are counted.
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_secs(30);
/// How many kinds are told apart. The client has a few dozen.
const KINDS: usize = 64;
/// For how long a trouble explains a failure.
const TROUBLE_LASTS: Duration = Duration::from_secs(60);

/// What the clients of one connection said. Shared by all of them.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    trouble: Mutex<Option<Trouble>>,
    said: Mutex<Vec<Said>>,
    /// What the clients ask for, if they log in by tokens.
    pub(crate) tokens: Option<Tokens>,
}

/// Why there is no connection, as the client says it.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) text: String,
    /// It will not pass by itself: a refused login, a failed handshake, an unknown host.
    pub(crate) lasting: bool,
    at: Instant,
}

/// How often something of a kind was said of late.
#[derive(Debug)]
struct Said {
    kind: Box<str>,
    since: Instant,
    times: u32,
}

impl Signs {
    /// Of clients that log in by these tokens, if by any.
    pub(crate) fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens, ..Self::default() }
    }

    /// Takes a line of a client's log.
    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        use RDKafkaLogLevel as L;
        // What only waits for a broker is no news to an operator, and floods.
        let level = if text.contains("brokers are down") { L::Debug } else { level };
        if matches!(facility, "FAIL" | "ERROR") && !matches!(level, L::Debug) {
            self.note(text, is_lasting(text));
        }
        let enabled = match level {
            L::Emerg | L::Alert | L::Critical | L::Error => {
                tracing::enabled!(tracing::Level::ERROR)
            }
            L::Warning => tracing::enabled!(tracing::Level::WARN),
            L::Notice | L::Info => tracing::enabled!(tracing::Level::INFO),
            L::Debug => tracing::enabled!(tracing::Level::DEBUG),
        };
        if !enabled {
            return;
        }
        let Some(left_out) = self.may_say(facility) else { return };
        let text = one_line(text);
        match level {
            L::Emerg | L::Alert | L::Critical | L::Error => {
                tracing::error!(facility, left_out, "{text}");
            }
            L::Warning => tracing::warn!(facility, left_out, "{text}"),
            L::Notice | L::Info => tracing::info!(facility, left_out, "{text}"),
            L::Debug => tracing::debug!(facility, left_out, "{text}"),
        }
    }

    /// Takes an event of a client. Producers tell each twice.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as C;
        let level = match error.rdkafka_error_code() {
            // Brokers that are not used are disconnected: it tells nothing of the others.
            Some(C::AllBrokersDown) => RDKafkaLogLevel::Debug,
            Some(C::Authentication | C::SSL) => {
                self.note(reason, true);
                RDKafkaLogLevel::Warning
            }
            _ => {
                self.note(reason, is_lasting(reason));
                RDKafkaLogLevel::Warning
            }
        };
        self.log(level, "EVENT", reason);
    }

    /// A token for a client that asks for one.
    pub(crate) fn token(&self) -> Result<OAuthToken, Box<dyn StdError>> {
        let tokens = self.tokens.as_ref().ok_or("nobody said where tokens come from")?;
        tokens.next().map_err(|failure| -> Box<dyn StdError> { failure })
    }

    /// Lets a client log in that has questions before its events are served.
    ///
    /// # Errors
    /// `Auth`.
    pub(crate) fn let_in<C: ClientContext>(&self, client: &Client<C>) -> Result<()> {
        self.tokens.as_ref().map_or(Ok(()), |tokens| tokens.let_in(client))
    }

    /// The last trouble, unless it is over or long ago.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.lock().clone().filter(|trouble| trouble.at.elapsed() < TROUBLE_LASTS)
    }

    /// A broker answered: what was before is over.
    pub(crate) fn well(&self) {
        *self.lock() = None;
    }

    /// Keeps a trouble. One that lasts is not hidden by the hang-ups that follow from it.
    fn note(&self, text: &str, lasting: bool) {
        let now = Instant::now();
        let mut last = self.lock();
        if let Some(last) = &*last
            && last.lasting
            && !lasting
            && last.at.elapsed() < TROUBLE_LASTS
        {
            return;
        }
        *last = Some(Trouble { text: one_line(text), lasting, at: now });
    }

    /// Whether a line of that kind may be written now, and how many were left out before it.
    fn may_say(&self, kind: &str) -> Option<u32> {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = said.iter_mut().find(|said| *said.kind == *kind) else {
            if said.len() == KINDS {
                said.swap_remove(0);
            }
            said.push(Said { kind: kind.into(), since: now, times: 1 });
            return Some(0);
        };
        if now.duration_since(before.since) >= PERIOD {
            let left_out = before.times.saturating_sub(LINES);
            (before.since, before.times) = (now, 1);
            return Some(left_out);
        }
        before.times = before.times.saturating_add(1);
        (before.times <= LINES).then_some(0)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        // Nothing panics while it is held but an allocation that failed.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Texts of troubles that come without a code of their own. Names of hosts hold no spaces.
fn is_lasting(text: &str) -> bool {
    let says = |part| text.contains(part);
    // A name server that does not answer may do so later.
    let unknown_host = says("Failed to resolve") && !says("Temporary failure");
    unknown_host
        || ["uthentication failed", "authentication error", "SASL handshake failed"]
            .into_iter()
            .any(says)
        || ["mechanism handshake failed", "SSL handshake failed"].into_iter().any(says)
}

/// Brokers may answer with any bytes.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The context of the producer.
#[derive(Debug)]
pub(crate) struct PublishContext {
    pub(crate) signs: Arc<Signs>,
    pub(crate) room: Arc<Room>,
}

impl ClientContext for PublishContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        self.signs.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.signs.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.signs.error(&error, reason);
    }

    /// Not asked for. By default they would be parsed.
    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for PublishContext {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        ticket.tell(match result {
            // The broker says that it has the sequence, and not where. It says so as well of a batch
            // that it refused while it took the next one, where it knew nothing of this producer
            // before (a new partition): then it does not have the message.
            Ok(message) if message.offset() < 0 => Fate::Failed {
                code: RDKafkaErrorCode::DuplicateSequenceNumber,
                maybe_written: true,
            },
            Ok(message) => {
                Fate::Stored { partition: message.partition(), offset: message.offset() }
            }
            Err((error, message)) => Fate::Failed {
                code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
                maybe_written: maybe_written(message),
            },
        });
        self.room.made();
    }
}

/// What the client knows of a failed message: whether a broker may have it. The code alone does
/// not tell, because a message that timed out may have been sent or not.
#[allow(unsafe_code, reason = "the client has no safe binding for it")]
fn maybe_written(message: &rdkafka::message::BorrowedMessage<'_>) -> bool {
    use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};
    // SAFETY: the pointer is that of a message which the client lends us for the time of the
    // callback, and which `message` keeps alive. The function only reads a field of it.
    let status = unsafe { rd_kafka_message_status(message.ptr()) };
    status != rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: refused";

    fn event(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::Global(code)
    }

    #[test]
    fn the_cause_is_not_hidden_by_what_follows_from_it() {
        let signs = Signs::default();
        assert!(signs.trouble().is_none());
        signs.error(&event(RDKafkaErrorCode::BrokerTransportFailure), REFUSED);
        assert_eq!(signs.trouble().map(|t| (t.text, t.lasting)), Some((REFUSED.into(), false)));
        signs.error(&event(RDKafkaErrorCode::Authentication), "h:1/1: SASL\nrefused");
        signs.error(&event(RDKafkaErrorCode::BrokerTransportFailure), REFUSED);
        signs.log(RDKafkaLogLevel::Error, "FAIL", REFUSED);
        signs.error(&event(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        let trouble = signs.trouble().map(|t| (t.text, t.lasting));
        assert_eq!(trouble, Some(("h:1/1: SASL refused".into(), true)));
        signs.well();
        assert!(signs.trouble().is_none());
        signs.log(RDKafkaLogLevel::Info, "GETPID", "not a trouble");
        signs.log(RDKafkaLogLevel::Error, "FAIL", "1/1 brokers are down");
        assert!(signs.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_is_forgotten() {
        let signs = Signs::default();
        signs.error(&event(RDKafkaErrorCode::Resolve), "h:1: Failed to resolve 'h': unknown");
        tokio::time::advance(TROUBLE_LASTS).await;
        assert!(signs.trouble().is_none());
        // And does not hide what comes after.
        signs.error(&event(RDKafkaErrorCode::BrokerTransportFailure), REFUSED);
        assert_eq!(signs.trouble().map(|t| t.text), Some(REFUSED.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_thinned_and_counted() {
        let signs = Signs::default();
        let said: Vec<_> = (0..100).filter_map(|_| signs.may_say("FAIL")).collect();
        assert_eq!(said, [0; LINES as usize]);
        assert_eq!(signs.may_say("OTHER"), Some(0));
        tokio::time::advance(PERIOD).await;
        assert_eq!(signs.may_say("FAIL"), Some(100 - LINES));
        assert_eq!(signs.may_say("FAIL"), Some(0));
        for kind in 0..10_000 {
            signs.may_say(&kind.to_string());
        }
        assert_eq!(signs.said.lock().unwrap().len(), KINDS);
    }

    #[test]
    fn what_may_pass_is_told_from_what_lasts() {
        let cases = [
            ("h:1/1: SASL authentication error: Authentication failed (after 3ms)", true),
            ("h:1/1: SASL SCRAM-SHA-256 mechanism handshake failed: not supported", true),
            ("h:1/1: SSL handshake failed: certificate verify failed", true),
            ("h:1/1: Failed to resolve 'h:1': Name or service not known", true),
            ("h:1/1: Failed to resolve 'h:1': Temporary failure in name resolution", false),
            ("sasl-ssl.example:1/1: Connect to ipv4#10.0.0.1:1 failed: refused", false),
            ("h:1/1: Disconnected: might require SASL authentication", false),
        ];
        for (text, lasting) in cases {
            assert_eq!(is_lasting(text), lasting, "{text}");
        }
    }
}
