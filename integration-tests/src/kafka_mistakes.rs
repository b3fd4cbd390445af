//! Connections to Kafka that must fail, each wrong in one way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use posthaste_conformance::{Mistake, fault::free_port};
use posthaste_core::{Broker, Error, ErrorKind, Result};
use posthaste_kafka::{KafkaBroker, KafkaConfig, Sasl};
use tokio::net::TcpListener;

use crate::kafka::{self, Login};

/// The connect deadline, 5 s unless set, and a busy machine.
const WITHIN: Duration = Duration::from_secs(8);
const WRONG: &str = "not-the-pa55word";

/// Every mistake towards the broker at this address, and towards its port for logins.
pub(crate) fn all(address: &str, login: Option<&Login>) -> Vec<Mistake> {
    let mut mistakes = urls();
    mistakes.push(mistake("nobody listens", &[ErrorKind::Connection], || async {
        kafka::connect(&format!("kafka://127.0.0.1:{}", free_port()?)).await
    }));
    mistakes.push(mistake("an unknown host", &[ErrorKind::Connection], || {
        kafka::connect("kafka://no-such-host.invalid:9092")
    }));
    let silent = &[ErrorKind::Timeout, ErrorKind::Connection];
    mistakes.push(mistake("a broker that says nothing", silent, || async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.map_err(|error| Error::invalid("no port").with_source(error))?;
        let addr = listener.local_addr().map_err(|e| Error::invalid("no port").with_source(e))?;
        kafka::connect(&format!("kafka://user:{WRONG}@{addr}")).await
    }));
    // Builds have TLS and challenges only by a feature.
    let built = &[ErrorKind::Connection, ErrorKind::Unsupported];
    mistakes.push(with(address, "TLS to a broker without", built, |address| {
        KafkaConfig::from_url(&format!("kafkas://user:{WRONG}@{address}"))
    }));
    let auth = &[ErrorKind::Auth];
    mistakes.push(with(address, "a login to a broker without", auth, |address| {
        Ok(KafkaConfig::new(address).login("user", WRONG))
    }));
    if let Some(Login { address, user, password }) = login {
        let user = user.clone();
        mistakes.push(with(address, "a wrong password", auth, move |address| {
            KafkaConfig::from_url(&format!("kafka://{user}:{WRONG}@{address}"))
        }));
        let password = password.clone();
        mistakes.push(with(address, "an unknown user", auth, move |address| {
            Ok(KafkaConfig::new(address).login("nobody", &password))
        }));
        let challenge = &[ErrorKind::Auth, ErrorKind::Unsupported];
        mistakes.push(with(address, "a login of another kind", challenge, |address| {
            Ok(KafkaConfig::new(address).login("user", WRONG).sasl(Sasl::ScramSha512))
        }));
        // The broker hangs up without a word.
        let mute = &[ErrorKind::Auth, ErrorKind::Connection];
        mistakes
            .push(with(address, "no login at all", mute, |address| Ok(KafkaConfig::new(address))));
    }
    mistakes
}

fn urls() -> Vec<Mistake> {
    let urls = [
        ("another scheme", "http://user:not-the-pa55word@localhost:9092"),
        ("no URL", "kafka//user:not-the-pa55word@localhost"),
        ("a port that is none", "kafka://user:not-the-pa55word@localhost:99999"),
        ("an unknown option", "kafka://user:not-the-pa55word@localhost:9092/?colour=blue"),
        ("an unknown property", "kafka://user:not-the-pa55word@localhost/?property.colour=blue"),
        ("no host", "kafka://"),
    ];
    urls.into_iter()
        .map(|(what, text)| mistake(what, &[ErrorKind::Invalid], || kafka::connect(text)))
        .collect()
}

fn mistake<F, Fut>(what: &'static str, kinds: &'static [ErrorKind], connect: F) -> Mistake
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Arc<dyn Broker>>> + Send + 'static,
{
    Mistake {
        what,
        kinds,
        within: WITHIN,
        secrets: vec![WRONG.to_owned()],
        connect: Box::new(move || Box::pin(connect())),
    }
}

/// A mistake towards a broker that is there.
fn with(
    address: &str,
    what: &'static str,
    kinds: &'static [ErrorKind],
    config: impl Fn(&str) -> Result<KafkaConfig> + Send + Sync + 'static,
) -> Mistake {
    let address = address.to_owned();
    mistake(what, kinds, move || {
        let config = config(&address);
        async move { Ok(Arc::new(KafkaBroker::connect(config?).await?) as Arc<dyn Broker>) }
    })
}
