//! From a configuration to a connection of the client.

use std::path::Path;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};
use lapin::{Connection, ConnectionProperties, runtime};
use posthaste_core::{Error, Result};
use tokio::time::Instant;

use crate::address;
use crate::config::{Login, RabbitmqConfig, Tls};
use crate::error;

/// What connecting needs, with the files read.
pub(crate) struct Connector {
    uris: Vec<AMQPUri>,
    tls: OwnedTLSConfig,
    name: String,
    timeout: Duration,
}

impl Connector {
    /// Reads the files of the configuration.
    ///
    /// # Errors
    /// `Invalid` names the file or the server.
    pub(crate) async fn new(config: &RabbitmqConfig) -> Result<Self> {
        let tls = tls(&config.tls).await?;
        let uris = config.servers.iter().map(|server| uri(config, server));
        Ok(Self {
            uris: uris.collect::<Result<_>>()?,
            tls,
            name: config.name.clone(),
            timeout: config.connect_timeout,
        })
    }

    /// Connects to one of the servers, by the deadline of the configuration. Each is tried in
    /// turn, from a random one on.
    ///
    /// # Errors
    /// `Auth`, `NotFound` for the virtual host, `Connection`, `Timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn connect(&self, role: &'static str) -> Result<Connection> {
        let until = Instant::now() + self.timeout;
        // One server that does not answer must not use up the time of the others.
        let servers = u32::try_from(self.uris.len()).unwrap_or(u32::MAX).max(1);
        let each = (self.timeout / servers).max(Duration::from_millis(500)).min(self.timeout);
        let first = fastrand::usize(..self.uris.len().max(1));
        let mut last = error::timed_out_connecting();
        for at in 0..self.uris.len() {
            let uri = &self.uris[(first + at) % self.uris.len()];
            let end = (Instant::now() + each).min(until);
            match tokio::time::timeout_at(end, self.connect_to(uri, role)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(refused)) => last = refused,
                Err(_) => {
                    let server = server(uri);
                    last = error::timed_out_connecting().with_context("server", server);
                }
            }
        }
        Err(last)
    }

    async fn connect_to(&self, uri: &AMQPUri, role: &'static str) -> Result<Connection> {
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {role}", self.name).into())
            .with_client_property(
                ShortString::from("product"),
                concat!("posthaste ", env!("CARGO_PKG_VERSION")).into(),
            );
        let runtime = runtime::default_runtime().map_err(error::native)?;
        let (uri, tls) = (uri.clone(), self.tls.clone());
        let (server, vhost) = (server(&uri), uri.vhost.clone());
        let connected = Connection::connect_uri_with_config(uri, properties, tls, runtime).await;
        connected.map_err(|failed| error::connect(failed, &server, &vhost))
    }
}

fn server(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

fn uri(config: &RabbitmqConfig, server: &str) -> Result<AMQPUri> {
    let (scheme, default) = match config.tls.required {
        true => (AMQPScheme::AMQPS, 5671),
        false => (AMQPScheme::AMQP, 5672),
    };
    let (host, port) = address::split_server(server, default)?;
    let (username, password, mechanism) = match &config.login {
        Login::Password { user, password } => (user.clone(), password.clone(), None),
        Login::External => (String::new(), String::new(), Some(SASLMechanism::External)),
    };
    let query = AMQPQueryString {
        heartbeat: u16::try_from(config.heartbeat.as_secs()).ok(),
        auth_mechanism: mechanism,
        ..AMQPQueryString::default()
    };
    let userinfo = AMQPUserInfo { username, password };
    let authority = AMQPAuthority { userinfo, host, port };
    Ok(AMQPUri { scheme, authority, vhost: config.vhost.clone(), query })
}

async fn tls(tls: &Tls) -> Result<OwnedTLSConfig> {
    let mut config = OwnedTLSConfig::default();
    if let Some(ca) = &tls.ca {
        let pem = String::from_utf8(read(ca).await?).map_err(|error| unreadable(ca, error))?;
        if !pem.contains("BEGIN CERTIFICATE") {
            return Err(unreadable(ca, "it holds no certificate in PEM"));
        }
        config.cert_chain = Some(pem);
    }
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let (pem, key_pem) = (read(certificate).await?, read(key).await?);
        for (path, file, mark) in
            [(certificate, &pem, "BEGIN CERTIFICATE"), (key, &key_pem, "PRIVATE KEY")]
        {
            if !String::from_utf8_lossy(file).contains(mark) {
                return Err(unreadable(path, "it is not what it should be, in PEM"));
            }
        }
        config.identity = Some(OwnedIdentity::PKCS8 { pem, key: key_pem });
    }
    Ok(config)
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|error| unreadable(path, error))
}

#[cold]
fn unreadable(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::invalid("a file of the configuration cannot be read")
        .with_context("file", path.display())
        .with_source(source)
}
