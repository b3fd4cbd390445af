//! Connections to Redis that must fail, each wrong in one way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use posthaste_conformance::{Mistake, fault::free_port};
use posthaste_core::{Broker, Error, ErrorKind, Result};
use tokio::net::TcpListener;

use crate::redis::{self, Login, STRANGER};

/// The connect deadline, 5 s unless set, and a busy machine.
const WITHIN: Duration = Duration::from_secs(8);
const WRONG: &str = "not-the-pa55word";

/// Every mistake towards the broker at this address; some need the users of the suite.
pub(crate) fn all(addr: SocketAddr, login: Option<&Login>) -> Vec<Mistake> {
    let mut mistakes = urls();
    mistakes.push(mistake("nobody listens", &[ErrorKind::Connection], || async {
        redis::connect(&format!("redis://127.0.0.1:{}", free_port()?)).await
    }));
    mistakes.push(mistake("an unknown host", &[ErrorKind::Connection], || {
        redis::connect("redis://no-such-host.invalid:6379")
    }));
    let silent = &[ErrorKind::Timeout, ErrorKind::Connection];
    mistakes.push(mistake("a broker that says nothing", silent, || async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.map_err(|error| Error::invalid("no port").with_source(error))?;
        let addr = listener.local_addr().map_err(|e| Error::invalid("no port").with_source(e))?;
        redis::connect(&format!("redis://user:{WRONG}@{addr}")).await
    }));
    // A server without TLS waits for the end of a line, which a handshake does not have.
    let encrypted = &[ErrorKind::Connection, ErrorKind::Auth, ErrorKind::Timeout];
    let at = |url: String| {
        move || {
            let url = url.clone();
            async move { redis::connect(&url).await }
        }
    };
    let tls = at(format!("rediss://user:{WRONG}@{addr}"));
    mistakes.push(mistake("TLS to a broker without", encrypted, tls));
    let auth = &[ErrorKind::Auth];
    let unknown = at(format!("redis://nobody:{WRONG}@{addr}"));
    mistakes.push(mistake("an unknown user", auth, unknown));
    if let Some(login) = login {
        let (user, escaped) = (&login.user, login.escaped());
        let absent = at(format!("redis://{user}:{escaped}@{addr}/1000000"));
        mistakes.push(mistake("a database that is not there", &[ErrorKind::NotFound], absent));
        let beyond = at(format!("redis://{user}:{escaped}@{addr}/4000000000"));
        mistakes.push(mistake("a database that cannot be", &[ErrorKind::Invalid], beyond));
        let stranger = at(format!("redis://{STRANGER}:{escaped}@{addr}/0"));
        mistakes.push(mistake("a user who may do nothing", auth, stranger));
        let wrong = at(format!("redis://{user}:{WRONG}@{addr}/0"));
        mistakes.push(mistake("a wrong password of the suite's user", auth, wrong));
    }
    mistakes
}

fn urls() -> Vec<Mistake> {
    let urls = [
        ("another scheme", "http://user:not-the-pa55word@localhost:6379"),
        ("no URL", "redis//user:not-the-pa55word@localhost"),
        ("a port that is none", "redis://user:not-the-pa55word@localhost:99999"),
        ("an unknown option", "redis://user:not-the-pa55word@localhost:6379/0?colour=blue"),
        ("a database that is no number", "redis://user:not-the-pa55word@localhost/orders"),
        ("a time that is none", "redis://user:not-the-pa55word@localhost/0?keep=soon"),
        ("no host", "redis://"),
    ];
    urls.into_iter()
        .map(|(what, text)| mistake(what, &[ErrorKind::Invalid], || redis::connect(text)))
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
