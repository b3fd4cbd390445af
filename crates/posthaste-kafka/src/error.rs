//! From the errors of the client and the broker to ours.
//!
//! The client has one list of codes: the negative ones are its own, the others the broker's. What
//! it says about a connection that cannot be made is only a text in its log.

use posthaste_core::{Error, ErrorKind, Retry};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The name of this adapter in errors and capabilities.
pub(crate) const BROKER: &str = "kafka";

/// The bus was closed.
#[cold]
pub(crate) fn closed() -> Error {
    Error::closed("the connection was closed").with_broker(BROKER)
}

/// What a code means for the caller.
pub(crate) fn code(code: RDKafkaErrorCode) -> (ErrorKind, Retry) {
    let (kind, retry, _) = classify(code);
    (kind, retry)
}

/// A call of the client failed.
#[cold]
pub(crate) fn of(error: &KafkaError) -> Error {
    if let Some(code) = code_of(error) {
        let (kind, retry, text) = match error {
            // Whatever the code says: the client does not work any more.
            KafkaError::MessageConsumptionFatal(_) => {
                (ErrorKind::Fatal, Retry::Never, "the client has failed for good")
            }
            _ => classify(code),
        };
        return native(Error::new(kind, text).with_retry(retry), code).with_source(error.clone());
    }
    let (made, text) = match error {
        KafkaError::Canceled => return closed(),
        // The value is in its text, and may be a secret.
        KafkaError::ClientConfig(_, why, property, value) => return refused(property, value, why),
        KafkaError::ClientCreation(why) => (Error::invalid("the client cannot be made"), why),
        KafkaError::AdminOpCreation(why) => (Error::invalid("the request cannot be made"), why),
        KafkaError::Nul(_) => {
            return Error::invalid("a name or value holds a NUL byte").with_broker(BROKER);
        }
        KafkaError::NoMessageReceived => {
            return Error::new(ErrorKind::Timeout, "no message came in time").with_broker(BROKER);
        }
        KafkaError::PauseResume(why) | KafkaError::Seek(why) | KafkaError::Subscription(why) => {
            (Error::new(kind_of_text(why), "the consumer refused the call"), why)
        }
        _ => {
            let made = Error::new(ErrorKind::Fatal, "the client failed");
            return made.with_source(error.clone()).with_broker(BROKER);
        }
    };
    made.with_context("client", shown(text)).with_source(error.clone()).with_broker(BROKER)
}

/// A message was not confirmed. `maybe_written` is what the client knows about its fate.
#[cold]
pub(crate) fn publish(code: RDKafkaErrorCode, maybe_written: bool) -> Error {
    let (kind, retry, text) = match code {
        RDKafkaErrorCode::MessageTimedOut if maybe_written => {
            (ErrorKind::Timeout, Retry::Transient, "the broker did not confirm the message in time")
        }
        RDKafkaErrorCode::MessageTimedOut => {
            (ErrorKind::Timeout, Retry::Transient, "the message could not be sent in time")
        }
        code => classify(code),
    };
    let made = Error::new(kind, text).with_retry(retry).with_may_be_stored(maybe_written);
    native(made, code).with_source(KafkaError::MessageProduction(code))
}

/// A message was given up with its client, which had failed for good and was made anew.
#[cold]
pub(crate) fn outlived(maybe_written: bool) -> Error {
    Error::new(ErrorKind::Fatal, "the client that had the message has failed for good")
        .with_may_be_stored(maybe_written)
        .with_broker(BROKER)
}

/// The group is dividing its partitions anew.
#[cold]
pub(crate) fn between_generations() -> Error {
    let (kind, retry, text) = classify(RDKafkaErrorCode::RebalanceInProgress);
    Error::new(kind, text).with_retry(retry).with_broker(BROKER)
}

/// Connecting took too long.
#[cold]
pub(crate) fn timed_out_connecting() -> Error {
    Error::new(ErrorKind::Timeout, "connecting took too long").with_broker(BROKER)
}

/// Connecting failed. `last_trouble` is what the client logged last, the only place where it tells
/// the cause. `servers` are addresses without logins.
#[cold]
pub(crate) fn connect(last_trouble: Option<&str>, servers: &[String]) -> Error {
    let made = match last_trouble {
        None => timed_out_connecting(),
        Some(trouble) => cause(trouble).with_context("client", shown(trouble)),
    };
    made.with_context("servers", servers.join(",")).with_broker(BROKER)
}

/// The cause in a text of the client's log: `ssl://host:9093/bootstrap: SSL handshake failed: ...`.
fn cause(trouble: &str) -> Error {
    // The host's name says nothing about the cause, whatever stands in it.
    let (_, behind) = trouble.rsplit_once("://").unwrap_or(("", trouble));
    let (_, happened) = behind.split_once(": ").unwrap_or(("", behind));
    let says = |texts: &[&str]| texts.iter().any(|text| happened.contains(text));
    let lasting = |text| Error::new(ErrorKind::Connection, text).with_retry(Retry::Never);
    if says(&["Failed to resolve"]) {
        lasting("the host is not known")
    } else if says(&["mechanism handshake failed"]) {
        Error::new(ErrorKind::Auth, "the broker does not know this kind of login")
    } else if says(&["might require SASL authentication"]) {
        Error::new(ErrorKind::Auth, "the broker hung up: it may want a login")
    } else if trouble.contains("acquire SASL OAUTHBEARER token") {
        Error::new(ErrorKind::Auth, "there is no token for the login")
    } else if says(&["uthentication failed", "authentication error", "SASL handshake failed"]) {
        Error::new(ErrorKind::Auth, "the broker refused the login")
    } else if says(&["connecting to a SSL listener"]) {
        lasting("the broker hung up: it may want TLS")
    } else if says(&["connecting to a PLAINTEXT broker listener"]) {
        lasting("the TLS handshake failed: the broker may not speak TLS")
    } else if says(&["SSL", "broker certificate", "provide a certificate"]) {
        lasting("the TLS handshake failed")
    } else if says(&["timed out"]) {
        Error::new(ErrorKind::Timeout, "the broker did not answer in time")
    } else {
        Error::new(ErrorKind::Connection, "no broker could be reached")
    }
}

/// Kind, whether to try again, and what happened, for each code there is.
fn classify(code: RDKafkaErrorCode) -> (ErrorKind, Retry, &'static str) {
    use ErrorKind as K;
    use RDKafkaErrorCode as C;
    use Retry::{Never, Transient};
    match code {
        C::DuplicateSequenceNumber => (
            K::Connection,
            Transient,
            "the broker has the message, or has taken another one for it",
        ),
        C::QueueFull => (K::Backpressure, Transient, "the client's queue is full"),
        C::ThrottlingQuotaExceeded | C::GroupMaxSizeReached => {
            (K::Backpressure, Transient, "the broker is at one of its limits")
        }
        C::MessageTimedOut | C::TimedOutQueue | C::OperationTimedOut | C::RequestTimedOut => {
            (K::Timeout, Transient, "the broker did not answer in time")
        }
        C::BrokerTransportFailure
        | C::AllBrokersDown
        | C::NetworkException
        | C::BrokerNotAvailable
        | C::DestroyBroker
        | C::BrokerDestroy
        | C::NodeUpdate
        | C::UnknownBroker
        | C::RebootstrapRequired => {
            (K::Connection, Transient, "the connection to the broker was lost")
        }
        C::Resolve => (K::Connection, Transient, "the host is not known"),
        // A certificate does not become sound by trying again.
        C::SSL => (K::Connection, Never, "the TLS handshake failed"),
        C::LeaderNotAvailable
        | C::NotLeaderForPartition
        | C::ReplicaNotAvailable
        | C::NotEnoughReplicas
        | C::NotEnoughReplicasAfterAppend
        | C::ISRInsufficient
        | C::CoordinatorLoadInProgress
        | C::CoordinatorNotAvailable
        | C::NotCoordinator
        | C::WaitingForCoordinator
        | C::RebalanceInProgress
        | C::MemberIdRequired
        | C::ConcurrentTransactions
        | C::UnstableOffsetCommit
        | C::KafkaStorageError
        | C::OffsetNotAvailable
        | C::NotController
        | C::StaleControllerEpoch
        | C::StaleBrokerEpoch
        | C::FencedLeaderEpoch
        | C::UnknownLeaderEpoch
        | C::ListenerNotFound
        | C::ReassignmentInProgress
        | C::PreferredLeaderNotAvailable
        | C::EligibleLeadersNotAvailable
        | C::FetchSessionIdNotFound
        | C::InvalidFetchSessionEpoch
        | C::UnknownSubscriptionId
        | C::OperationNotAttempted => (K::Connection, Transient, "the cluster is not ready"),
        C::Retry
        | C::WaitCache
        | C::InProgress
        | C::PreviousInProgress
        | C::Interrupted
        | C::Outdated
        | C::Partial => (K::Connection, Transient, "the client was not ready for the call"),
        C::Authentication
        | C::SaslAuthenticationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState
        | C::UnacceptableCredential
        | C::DelegationTokenExpired
        | C::DelegationTokenNotFound
        | C::DelegationTokenOwnerMismatch
        | C::DelegationTokenRequestNotAllowed => (K::Auth, Never, "the broker refused the login"),
        C::TopicAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::ClusterAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::DelegationTokenAuthorizationFailed
        | C::PrincipalDeserializationFailure => {
            (K::Auth, Never, "the broker refused the right to do this")
        }
        C::SecurityDisabled => (K::Auth, Never, "the broker knows no users"),
        C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownTopicId => {
            (K::NotFound, Never, "the topic does not exist")
        }
        C::UnknownPartition => (K::NotFound, Never, "the partition does not exist"),
        C::UnknownGroup | C::GroupIdNotFound => (K::NotFound, Never, "the group does not exist"),
        C::NoEnt | C::ResourceNotFound | C::LogDirNotFound | C::NoReassignmentInProgress => {
            (K::NotFound, Never, "there is no such thing")
        }
        C::OffsetOutOfRange | C::AutoOffsetReset | C::LogTruncation => {
            (K::NotFound, Never, "the offset is not there any more")
        }
        C::NoOffset => (K::NotFound, Never, "no offset is stored"),
        C::PartitionEOF => (K::NotFound, Never, "the partition has no further message"),
        C::MessageSizeTooLarge | C::MessageBatchTooLarge | C::InvalidMessageSize => {
            (K::TooLarge, Never, "the message is larger than the broker takes")
        }
        C::OffsetMetadataTooLarge | C::InvalidCommitOffsetSize | C::TelemetryTooLarge => {
            (K::TooLarge, Never, "what was to be stored is larger than the broker takes")
        }
        C::InvalidMessage | C::InvalidRecord | C::InvalidTimestamp => {
            (K::Invalid, Never, "the broker does not take the message")
        }
        // This one was not wrong; alone it may be taken.
        C::InvalidDifferentRecord => {
            (K::Invalid, Transient, "the broker does not take another message of the batch")
        }
        C::PolicyViolation => (K::Invalid, Never, "a policy of the broker forbids it"),
        C::InvalidTopic => (K::Invalid, Never, "the broker does not take the topic's name"),
        C::InvalidGroupId => (K::Invalid, Never, "the broker does not take the group's name"),
        C::InvalidArgument
        | C::NotConfigured
        | C::InvalidType
        | C::InvalidRequiredAcks
        | C::InvalidSessionTimeout
        | C::InvalidPartitions
        | C::InvalidReplicationFactor
        | C::InvalidReplicaAssignment
        | C::InvalidConfig
        | C::InvalidRequest
        | C::InvalidTransactionTimeout
        | C::InvalidPrincipalType
        | C::InvalidUpdateVersion
        | C::DuplicateResource
        | C::KeySerialization
        | C::ValueSerialization => (K::Invalid, Never, "the request is not accepted"),
        C::UnsupportedFeature
        | C::UnsupportedVersion
        | C::UnsupportedForMessageFormat
        | C::UnsupportedCompressionType
        | C::UnsupportedAssignor
        | C::NotImplemented
        | C::UnknownProtocol
        | C::TopicDeletionDisabled
        | C::DelegationTokenAuthDisabled => (K::Unsupported, Never, "the broker does not know how"),
        C::TopicAlreadyExists => (K::Conflict, Never, "the topic exists already"),
        C::NonEmptyGroup | C::GroupSubscribedToTopic => {
            (K::Conflict, Never, "the group has live members")
        }
        C::InconsistentGroupProtocol => {
            (K::Conflict, Never, "the members of the group divide partitions in another way")
        }
        C::FencedInstanceId | C::UnreleasedInstanceId => {
            (K::Conflict, Never, "another member of the group has the same instance id")
        }
        C::Conflict | C::ExistingSubscription | C::ReadOnly | C::ElectionNotNeeded => {
            (K::Conflict, Never, "it contradicts what exists")
        }
        C::State
        | C::IllegalGeneration
        | C::UnknownMemberId
        | C::AssignmentLost
        | C::FencedMemberEpoch
        | C::StaleMemberEpoch
        | C::PollExceeded => (K::LeaseLost, Never, "the partition is not this member's any more"),
        C::PurgeQueue | C::PurgeInflight => (K::Closed, Never, "the client was closed"),
        C::KeyDeserialization | C::ValueDeserialization => {
            (K::Decode, Never, "the message cannot be read")
        }
        C::Fatal
        | C::Fenced
        | C::ProducerFenced
        | C::InvalidProducerEpoch
        | C::OutOfOrderSequenceNumber
        | C::UnknownProducerId
        | C::GaplessGuarantee => (K::Fatal, Never, "the client has failed for good"),
        _ => (K::Fatal, Never, "the client or the broker failed"),
    }
}

/// A property that the client does not take.
#[cold]
fn refused(property: &str, value: &str, why: &str) -> Error {
    let made = Error::invalid("the client does not take the property")
        .with_context("property", shown(property))
        .with_broker(BROKER);
    if value.is_empty() || !why.contains(value) {
        return made.with_context("client", shown(why));
    }
    made
}

/// Names the code, as the manuals of Kafka and its client do.
fn native(error: Error, code: RDKafkaErrorCode) -> Error {
    error.with_context("code", format_args!("{code:?}")).with_broker(BROKER)
}

/// A text of the client for a message of ours: one line of bounded length.
fn shown(text: &str) -> String {
    const LIMIT: usize = 400;
    text.chars().take(LIMIT).flat_map(char::escape_debug).collect()
}

/// The code in an error; the client's own accessor leaves that of an admin request out.
fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        KafkaError::PartitionEOF(_) => Some(RDKafkaErrorCode::PartitionEOF),
        other => other.rdkafka_error_code(),
    }
}

/// The kind of an error that the client gives as text only.
fn kind_of_text(text: &str) -> ErrorKind {
    if text.contains("Timed out") || text.contains("timed out") {
        ErrorKind::Timeout
    } else if text.contains("Erroneous state") {
        // The partition is not this member's any more.
        ErrorKind::LeaseLost
    } else {
        ErrorKind::Fatal
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::bindings::rd_kafka_resp_err_t as Native;
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    /// Every code that the client knows.
    fn all() -> impl Iterator<Item = RDKafkaErrorCode> {
        (-200..200).filter_map(|number| Native::try_from(number).ok()).map(RDKafkaErrorCode::from)
    }

    #[test]
    fn every_code_means_something() {
        use RDKafkaErrorCode as C;
        // What no caller can do anything about; all others have a kind of their own.
        let defects = [
            C::Begin,
            C::End,
            C::NoError,
            C::Unknown,
            C::Fail,
            C::BadMessage,
            C::BadCompression,
            C::CriticalSystemResource,
            C::FileSystem,
            C::AssignPartitions,
            C::RevokePartitions,
            C::Underflow,
            C::Inconsistent,
            C::Application,
            C::Noop,
            C::InvalidTransactionalState,
            C::InvalidProducerIdMapping,
            C::TransactionCoordinatorFenced,
            C::InconsistentVoterSet,
            C::FeatureUpdateFailed,
            C::EndAll,
        ];
        let mut seen = 0;
        for found in all() {
            let (kind, retry, text) = classify(found);
            seen += 1;
            assert_eq!(code(found), (kind, retry));
            assert_eq!(
                text == "the client or the broker failed",
                defects.contains(&found),
                "{found:?}: {text}"
            );
            let transient = matches!(
                kind,
                ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Backpressure
            );
            if !matches!(found, C::SSL | C::InvalidDifferentRecord) {
                assert_eq!(retry == Retry::Transient, transient, "{found:?}");
            }
            let error = of(&KafkaError::Global(found));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{found:?}");
            assert_eq!(error.broker(), Some(BROKER));
            assert!(error.to_string().contains(&format!("{found:?}")), "{error}");
            for maybe_written in [true, false] {
                let error = publish(found, maybe_written);
                assert_eq!((error.kind(), error.retry()), (kind, retry), "{found:?}");
                assert_eq!(error.may_be_stored(), maybe_written);
            }
        }
        assert!(seen > 150, "{seen}");
    }

    #[test]
    fn tells_codes_apart() {
        use ErrorKind as K;
        use RDKafkaErrorCode as C;
        for (native, kind) in [
            (C::QueueFull, K::Backpressure),
            (C::MessageTimedOut, K::Timeout),
            (C::AllBrokersDown, K::Connection),
            (C::NotEnoughReplicas, K::Connection),
            (C::SaslAuthenticationFailed, K::Auth),
            (C::TopicAuthorizationFailed, K::Auth),
            (C::UnknownTopicOrPartition, K::NotFound),
            (C::AutoOffsetReset, K::NotFound),
            (C::MessageSizeTooLarge, K::TooLarge),
            (C::PolicyViolation, K::Invalid),
            (C::UnsupportedVersion, K::Unsupported),
            (C::TopicAlreadyExists, K::Conflict),
            (C::NonEmptyGroup, K::Conflict),
            (C::IllegalGeneration, K::LeaseLost),
            (C::State, K::LeaseLost),
            (C::PurgeQueue, K::Closed),
            (C::ProducerFenced, K::Fatal),
            (C::Unknown, K::Fatal),
        ] {
            assert_eq!(code(native).0, kind, "{native:?}");
        }
    }

    #[test]
    fn reads_codes_and_texts_of_calls() {
        use ErrorKind as K;
        use RDKafkaErrorCode as C;
        let cases = [
            (KafkaError::AdminOp(C::NotController), K::Connection),
            (KafkaError::PartitionEOF(3), K::NotFound),
            (KafkaError::MessageConsumptionFatal(C::UnknownTopic), K::Fatal),
            (KafkaError::Canceled, K::Closed),
            (KafkaError::ClientCreation("`acks` must be".into()), K::Invalid),
            (KafkaError::AdminOpCreation("no".into()), K::Invalid),
            (KafkaError::NoMessageReceived, K::Timeout),
            (KafkaError::Seek("Local: Timed out".into()), K::Timeout),
            (KafkaError::PauseResume("Local: Erroneous state".into()), K::LeaseLost),
            (KafkaError::Subscription("Local: Unknown group".into()), K::Fatal),
            (KafkaError::Nul(std::ffi::CString::new("a\0b").unwrap_err()), K::Invalid),
        ];
        for (native, kind) in cases {
            let error = of(&native);
            assert_eq!(error.kind(), kind, "{native:?}");
            assert_eq!(error.broker(), Some(BROKER), "{native:?}");
        }
    }

    #[test]
    fn shows_no_value_of_a_property() {
        let refused = |why: &str| {
            let conf = RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
            let native =
                KafkaError::ClientConfig(conf, why.into(), "ssl.key.pem".into(), "SECRET".into());
            let error = of(&native);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            format!("{error} {error:?}")
        };
        let text = refused("not PEM: SECRET");
        assert!(text.contains("ssl.key.pem") && !text.contains("SECRET"), "{text}");
        let text = refused("not supported in this build");
        assert!(text.contains("this build") && !text.contains("SECRET"), "{text}");
    }

    #[test]
    fn tells_failed_connects_apart() {
        use ErrorKind as K;
        let cases = [
            (
                "sasl_plaintext://h:1/bootstrap: SASL authentication error: Authentication failed: \
              Invalid username or password (after 9ms in state AUTH_REQ)",
                K::Auth,
                "refused the login",
            ),
            (
                "sasl_plaintext://h:1/bootstrap: SASL SCRAM-SHA-256 mechanism handshake failed: Broker: \
              Unsupported SASL mechanism: broker's supported mechanisms: PLAIN",
                K::Auth,
                "kind of login",
            ),
            (
                "plaintext://h:1/bootstrap: Disconnected: verify that security.protocol is correctly \
              configured, broker might require SASL authentication (after 3ms in state UP)",
                K::Auth,
                "want a login",
            ),
            (
                "[thrd:ssl://h:1/bootstrap]: ssl://h:1/bootstrap: SSL handshake failed: error:0A000086:SSL \
              routines::certificate verify failed: broker certificate could not be verified",
                K::Connection,
                "TLS handshake failed",
            ),
            (
                "ssl://h:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker \
              listener?",
                K::Connection,
                "may not speak TLS",
            ),
            (
                "plaintext://h:1/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect \
              security.protocol configuration (connecting to a SSL listener?) or broker version is < 0.10 \
              (see api.version.request) (after 1ms in state APIVERSION_QUERY)",
                K::Connection,
                "may want TLS",
            ),
            (
                "plaintext://SSL-h:1/bootstrap: Failed to resolve 'SSL-h:1': Name or service not known",
                K::Connection,
                "not known",
            ),
            (
                "ssl://SASL-SSL:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms \
              in state CONNECT)",
                K::Connection,
                "no broker",
            ),
            (
                "plaintext://h:1/bootstrap: Connection setup timed out in state CONNECT",
                K::Timeout,
                "in time",
            ),
            ("", K::Connection, "no broker"),
        ];
        for (trouble, kind, text) in cases {
            let error = connect(Some(trouble), &["h:1".to_owned(), "i:2".to_owned()]);
            assert_eq!(error.kind(), kind, "{trouble}: {error}");
            assert!(error.message().contains(text), "{trouble}: {error}");
            assert!(error.to_string().contains("servers: h:1,i:2"), "{error}");
            let lasting = ["TLS", "not known"].iter().any(|text| error.message().contains(text));
            assert_eq!(error.retry() == Retry::Never, lasting || kind == K::Auth, "{error}");
        }
        let error = connect(None, &["h:1".to_owned()]);
        assert_eq!((error.kind(), error.retry()), (K::Timeout, Retry::Transient));
        assert_eq!(closed().kind(), K::Closed);
    }
}
