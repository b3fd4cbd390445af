//! Connections to NATS that must fail, each wrong in one way.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posthaste_conformance::{Mistake, fault::free_port};
use posthaste_core::{Broker, Error, ErrorKind, Result};
use posthaste_nats::{NatsBroker, NatsConfig};
use tokio::net::TcpListener;

use crate::nats::{PASSWORD, Remote};

/// The connect deadline, 5 s unless set, and the start of a server on a busy machine.
const WITHIN: Duration = Duration::from_secs(12);
const WRONG: &str = "not-the-pa55word";

/// Every mistake; servers with logins are started by this program.
pub(crate) fn all(program: &Path) -> Vec<Mistake> {
    let mut mistakes = urls();
    mistakes.push(mistake("nobody listens", &[ErrorKind::Connection], || async {
        url(&format!("nats://127.0.0.1:{}", free_port()?)).await
    }));
    mistakes.push(mistake("an unknown host", &[ErrorKind::Connection], || {
        url("nats://no-such-host.invalid:4222")
    }));
    let silent = &[ErrorKind::Timeout, ErrorKind::Connection];
    mistakes.push(mistake("a server that says nothing", silent, || async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.map_err(|error| Error::invalid("no port").with_source(error))?;
        let addr = listener.local_addr().map_err(|e| Error::invalid("no port").with_source(e))?;
        url(&format!("nats://user:{WRONG}@{addr}")).await
    }));
    let encrypted = &[ErrorKind::Connection, ErrorKind::Auth, ErrorKind::Invalid];
    mistakes.push(with_server("TLS to a server without", encrypted, program, &[], |addr| {
        NatsConfig::from_url(&format!("tls://user:{WRONG}@{addr}"))
    }));
    let login = ["--user", "somebody", "--pass", PASSWORD];
    let auth = &[ErrorKind::Auth];
    mistakes.push(with_server("a wrong password", auth, program, &login, |addr| {
        NatsConfig::from_url(&format!("nats://somebody:{WRONG}@{addr}"))
    }));
    mistakes.push(with_server("an unknown user", auth, program, &login, |addr| {
        Ok(NatsConfig::new(addr.to_string()).login("nobody", WRONG))
    }));
    mistakes.push(with_server("no login at all", auth, program, &login, |addr| {
        Ok(NatsConfig::new(addr.to_string()))
    }));
    let token = ["--auth", PASSWORD];
    mistakes.push(with_server("a wrong token", auth, program, &token, |addr| {
        Ok(NatsConfig::new(addr.to_string()).token(WRONG))
    }));
    mistakes
}

fn urls() -> Vec<Mistake> {
    let urls = [
        ("another scheme", "http://user:not-the-pa55word@localhost:4222"),
        ("no URL", "nats//user:not-the-pa55word@localhost"),
        ("a port that is none", "nats://user:not-the-pa55word@localhost:99999"),
        ("an unknown option", "nats://user:not-the-pa55word@localhost:4222/?colour=blue"),
        ("no host", "nats://"),
    ];
    urls.into_iter()
        .map(|(what, text)| mistake(what, &[ErrorKind::Invalid], || url(text)))
        .collect()
}

async fn url(url: &str) -> Result<Arc<dyn Broker>> {
    Ok(Arc::new(NatsBroker::connect(NatsConfig::from_url(url)?).await?))
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
        secrets: vec![WRONG.to_owned(), PASSWORD.to_owned()],
        connect: Box::new(move || Box::pin(connect())),
    }
}

/// A mistake towards a server of its own.
fn with_server(
    what: &'static str,
    kinds: &'static [ErrorKind],
    program: &Path,
    arguments: &[&'static str],
    config: fn(SocketAddr) -> Result<NatsConfig>,
) -> Mistake {
    let (program, arguments): (PathBuf, Vec<&'static str>) =
        (program.to_owned(), arguments.to_vec());
    mistake(what, kinds, move || {
        let (program, arguments) = (program.clone(), arguments.clone());
        async move {
            let server = Remote::start(&program, &arguments).await?;
            Ok(Arc::new(NatsBroker::connect(config(server.addr())?).await?) as Arc<dyn Broker>)
        }
    })
}
