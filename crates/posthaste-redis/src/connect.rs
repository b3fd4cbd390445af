//! From a configuration to a connection of the client.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use posthaste_core::broker::address::server_and_port;
use posthaste_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{RedisConfig, Tls};
use crate::error;

/// What connecting needs, with the files read.
pub(crate) struct Connector {
    host: String,
    port: u16,
    info: RedisConnectionInfo,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    name: String,
    timeout: Duration,
}

/// A connection, and what is cancelled when it is gone; cancelling it ends the connection.
#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) client: MultiplexedConnection,
    pub(crate) life: CancellationToken,
}

impl Connector {
    /// Reads the files of the configuration.
    ///
    /// # Errors
    /// `Invalid` names the file or the server.
    pub(crate) async fn new(config: &RedisConfig) -> Result<Self> {
        let (host, port) = server_and_port(&config.server, 6379)?;
        let mut info = RedisConnectionInfo::default()
            .set_db(i64::from(config.database))
            .set_lib_name("posthaste", env!("CARGO_PKG_VERSION"));
        if let Some((user, password)) = &config.login {
            if !user.is_empty() {
                info = info.set_username(user);
            }
            info = info.set_password(password);
        }
        let tls = if config.tls.required {
            let name = ServerName::try_from(host.clone()).map_err(|source| {
                Error::invalid("the host cannot be that of a certificate").with_source(source)
            })?;
            Some((Arc::new(client_config(&config.tls).await?), name))
        } else {
            None
        };
        let (name, timeout) = (config.name.clone(), config.connect_timeout);
        Ok(Self { host, port, info, tls, name, timeout })
    }

    /// Connects, by the deadline of the configuration. What drives the connection is a task of the
    /// tracker, and ends with `closing`.
    ///
    /// # Errors
    /// `Auth`, `NotFound` for the database, `Connection`, `Timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn connect(
        &self,
        role: &'static str,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Result<Connected> {
        match tokio::time::timeout(self.timeout, self.open(role, tasks, closing)).await {
            Ok(connected) => connected,
            Err(_) => Err(error::timed_out_connecting().with_context("server", self.server())),
        }
    }

    async fn open(
        &self,
        role: &'static str,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Result<Connected> {
        let failed = |source| error::network(source, &self.server());
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let tls = connector.connect(name.clone(), tcp).await.map_err(failed)?;
                Stream::Tls(Box::new(tls))
            }
        };
        // Deadlines are kept by who asks: an answer to a blocking read may take its time.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1_024)
            .set_write_backpressure_boundary(64 << 10);
        let made = MultiplexedConnection::new_with_config(&self.info, stream, config).await;
        let (mut client, driver) = made.map_err(|source| error::connect(source, &self.server()))?;
        let life = closing.child_token();
        let (ends, gone) = (life.clone(), life.clone().drop_guard());
        tasks.spawn(async move {
            let _gone = gone;
            tokio::select! {
                () = driver => {}
                () = ends.cancelled() => {}
            }
        });
        // Who may not name a connection has one without a name.
        let mut naming = redis::cmd("CLIENT");
        naming.arg("SETNAME").arg(format!("{}:{role}", self.name));
        drop(client.send_packed_command(&naming).await);
        Ok(Connected { client, life })
    }

    fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A connection to the server, encrypted or not.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The provider is named, so that another one in the process does not matter.
async fn client_config(tls: &Tls) -> Result<ClientConfig> {
    let unusable =
        |source: rustls::Error| Error::invalid("TLS cannot be set up").with_source(source);
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            let pem = read(path).await?;
            let found = certificates(&pem).map_err(|source| unreadable(path, source))?;
            if found.is_empty() {
                return Err(unreadable(path, "it holds no certificate in PEM"));
            }
            for certificate in found {
                roots.add(certificate).map_err(unusable)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(roots);
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            use rustls::pki_types::PrivateKeyDer;
            use rustls::pki_types::pem::PemObject as _;
            let (chain, pem) = (read(certificate).await?, read(key).await?);
            let chain = certificates(&chain).map_err(|source| unreadable(certificate, source))?;
            let secret = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| unreadable(key, "it holds no private key in PEM"))?;
            builder.with_client_auth_cert(chain, secret).map_err(unusable)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(
    pem: &[u8],
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::pem_slice_iter(pem).collect()
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
