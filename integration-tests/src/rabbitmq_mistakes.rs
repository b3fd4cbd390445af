//! Connections to RabbitMQ that must fail, each wrong in one way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use posthaste_conformance::{Mistake, fault::free_port};
use posthaste_core::{Broker, Error, ErrorKind, Result};
use tokio::net::TcpListener;

use crate::rabbitmq::{self, Login, STRANGER};

/// The connect deadline, 5 s unless set, and a busy machine.
const WITHIN: Duration = Duration::from_secs(8);
const WRONG: &str = "not-the-pa55word";

/// Every mistake towards the broker at this address; some need the users of the suite.
pub(crate) fn all(addr: SocketAddr, login: Option<&Login>) -> Vec<Mistake> {
    let mut mistakes = urls();
    mistakes.push(mistake("nobody listens", &[ErrorKind::Connection], || async {
        rabbitmq::connect(&format!("amqp://127.0.0.1:{}", free_port()?)).await
    }));
    mistakes.push(mistake("an unknown host", &[ErrorKind::Connection], || {
        rabbitmq::connect("amqp://no-such-host.invalid:5672")
    }));
    let silent = &[ErrorKind::Timeout, ErrorKind::Connection];
    mistakes.push(mistake("a broker that says nothing", silent, || async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.map_err(|error| Error::invalid("no port").with_source(error))?;
        let addr = listener.local_addr().map_err(|e| Error::invalid("no port").with_source(e))?;
        rabbitmq::connect(&format!("amqp://user:{WRONG}@{addr}")).await
    }));
    let encrypted = &[ErrorKind::Connection, ErrorKind::Auth];
    let at = |url: String| {
        move || {
            let url = url.clone();
            async move { rabbitmq::connect(&url).await }
        }
    };
    let tls = at(format!("amqps://user:{WRONG}@{addr}"));
    mistakes.push(mistake("TLS to a broker without", encrypted, tls));
    let auth = &[ErrorKind::Auth];
    let unknown = at(format!("amqp://nobody:{WRONG}@{addr}"));
    mistakes.push(mistake("an unknown user", auth, unknown));
    let guest = at(format!("amqp://guest:{WRONG}@{addr}/%2f"));
    mistakes.push(mistake("a wrong password", auth, guest));
    let certificate = &[ErrorKind::Auth, ErrorKind::Unsupported, ErrorKind::Invalid];
    let external = at(format!("amqp://user:{WRONG}@{addr}/%2f?auth=external"));
    mistakes.push(mistake("a login by certificate without one", certificate, external));
    if let Some(login) = login {
        let (user, escaped) = (&login.user, login.escaped());
        // RabbitMQ tells whoever has logged in that there is no such virtual host.
        let vhost = &[ErrorKind::Auth, ErrorKind::NotFound];
        let absent = at(format!("amqp://{user}:{escaped}@{addr}/no-such-vhost"));
        mistakes.push(mistake("a virtual host that is not there", vhost, absent));
        let stranger = at(format!("amqp://{STRANGER}:{escaped}@{addr}/%2f"));
        mistakes.push(mistake("a virtual host that the user may not enter", auth, stranger));
        let wrong = at(format!("amqp://{user}:{WRONG}@{addr}/%2f"));
        mistakes.push(mistake("a wrong password of the suite's user", auth, wrong));
    }
    mistakes
}

fn urls() -> Vec<Mistake> {
    let urls = [
        ("another scheme", "http://user:not-the-pa55word@localhost:5672"),
        ("no URL", "amqp//user:not-the-pa55word@localhost"),
        ("a port that is none", "amqp://user:not-the-pa55word@localhost:99999"),
        ("an unknown option", "amqp://user:not-the-pa55word@localhost:5672/%2f?colour=blue"),
        ("a heartbeat that is none", "amqp://user:not-the-pa55word@localhost/%2f?heartbeat=soon"),
        ("a virtual host in two parts", "amqp://user:not-the-pa55word@localhost/a/b"),
        ("no host", "amqp://"),
    ];
    urls.into_iter()
        .map(|(what, text)| mistake(what, &[ErrorKind::Invalid], || rabbitmq::connect(text)))
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
