//! From a configuration to a connected client.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::rustls::crypto::ring;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{Client, ConnectOptions, ServerAddr};
use posthaste_core::{Error, Result};
use tokio::time::Instant;

use crate::config::{Login, NatsConfig, Tls};
use crate::error;
use crate::link::Link;

/// The longest pause between two attempts to connect again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Connects, by the deadline of the configuration.
///
/// # Errors
/// `Invalid` for files and addresses, `Auth`, `Connection`, `Timeout`.
pub(crate) async fn connect(config: &NatsConfig, link: &Link) -> Result<Client> {
    let until = Instant::now() + config.connect_timeout;
    let connecting = async {
        let servers = addresses(&config.servers)?;
        let options = options(config, link).await?;
        let connected = options.connect(servers).await;
        connected.map_err(|error| error::connect(error, &config.servers))
    };
    match tokio::time::timeout_at(until, connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            Err(error::timed_out_connecting().with_context("servers", config.servers.join(",")))
        }
    }
}

/// Addresses without logins: the client writes addresses to its log.
fn addresses(servers: &[String]) -> Result<Vec<ServerAddr>> {
    servers
        .iter()
        .map(|server| {
            server.parse().map_err(|error: std::io::Error| {
                Error::invalid("a server's address is malformed")
                    .with_context("server", server.escape_debug())
                    .with_source(error)
            })
        })
        .collect()
}

async fn options(config: &NatsConfig, link: &Link) -> Result<ConnectOptions> {
    let link = link.clone();
    // One server that does not answer must not use up the time of the others.
    let servers = u32::try_from(config.servers.len()).unwrap_or(u32::MAX);
    let each = (config.connect_timeout / servers).max(Duration::from_millis(500));
    let mut options = ConnectOptions::new()
        .connection_timeout(each.min(config.connect_timeout))
        .request_timeout(Some(config.request_timeout))
        .ping_interval(config.ping_interval)
        .reconnect_delay_callback(pause)
        .event_callback(move |event| {
            link.take(event);
            std::future::ready(())
        });
    if let Some(name) = &config.name {
        options = options.name(name);
    }
    if let Some(prefix) = &config.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    if config.tls.required {
        options = options.require_tls(true);
    }
    if config.tls.first {
        options = options.tls_first();
    }
    options = options.tls_client_config(tls(config.tls.clone()).await?);
    login(options, &config.login).await
}

/// Pauses grow, and differ between clients, so that a server that is back is not met by all at
/// once.
fn pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = match attempt {
        0 => return Duration::ZERO,
        _ => (Duration::from_millis(10) * 2_u32.pow(doublings)).min(LONGEST_PAUSE),
    };
    longest.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

async fn login(options: ConnectOptions, login: &Login) -> Result<ConnectOptions> {
    Ok(match login {
        Login::None => options,
        Login::Password { user, password } => {
            options.user_and_password(user.clone(), password.clone())
        }
        Login::Token(token) => options.token(token.clone()),
        Login::NKey(seed) => options.nkey(seed.clone()),
        Login::NKeyFile(path) => options.nkey(read(path).await?.trim().to_owned()),
        Login::Credentials(path) => {
            let text = read(path).await?;
            // The error of the client may quote the file: it is not kept.
            options.credentials(&text).map_err(|_| {
                Error::invalid("the credentials file holds no JWT with its seed")
                    .with_context("file", path.display())
            })?
        }
    })
}

async fn read(path: &Path) -> Result<String> {
    tokio::fs::read_to_string(path).await.map_err(|error| unreadable(path, error))
}

#[cold]
fn unreadable(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::invalid("a file of the configuration cannot be read")
        .with_context("file", path.display())
        .with_source(source)
}

/// The provider is named here, so that it does not matter which others the program holds.
async fn tls(tls: Tls) -> Result<ClientConfig> {
    let made = tokio::task::spawn_blocking(move || {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid("TLS could not be set up").with_source(error))?
            .with_root_certificates(roots(tls.ca.as_deref())?);
        match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| {
                    Error::invalid("the client certificate and its key do not fit")
                        .with_context("certificate", certificate.display())
                        .with_source(error)
                }),
            _ => Ok(builder.with_no_client_auth()),
        }
    });
    made.await.map_err(|error| Error::invalid("TLS could not be set up").with_source(error))?
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unreadable(path, error))?;
            }
        }
        // Certificates of the system that cannot be read are no reason to refuse the others.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(path, error))?;
    let found: Vec<_> =
        read.collect::<std::result::Result<_, _>>().map_err(|error| unreadable(path, error))?;
    if found.is_empty() {
        return Err(unreadable(path, "it holds no certificate in PEM"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        assert_eq!(pause(0), Duration::ZERO);
        assert!(pause(1) <= Duration::from_millis(10));
        for attempt in [8, 100, usize::MAX] {
            let pause = pause(attempt);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{pause:?}");
        }
    }
}
