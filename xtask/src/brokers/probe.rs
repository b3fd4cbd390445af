//! What the questions to servers have in common: addresses, connections, TLS, logins.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::record::Record;

/// The answer to a question, or why there is none.
pub(crate) type Probed<T> = std::result::Result<T, String>;

/// A server that is asked whether it is ready.
pub(crate) struct Target<'a> {
    pub(crate) url: &'a str,
    user: Option<&'a str>,
    /// `None` of a server that only a variable names.
    files: Option<&'a BTreeMap<String, PathBuf>>,
}

impl<'a> Target<'a> {
    /// A server of which nothing but the URL is known.
    pub(crate) fn of_url(url: &'a str) -> Self {
        Self { url, user: None, files: None }
    }

    pub(crate) fn of_record(record: &'a Record) -> Self {
        Self { url: &record.url, user: record.user.as_deref(), files: Some(&record.files) }
    }

    /// `host:port` of each server in the URL, which may list several.
    pub(crate) fn addresses(&self, default_port: u16) -> Probed<Vec<String>> {
        let all: Vec<String> =
            self.url.split(',').filter_map(|one| read(one, default_port)).collect();
        if all.is_empty() { Err("the URL has no host".to_owned()) } else { Ok(all) }
    }

    /// `host:port` of the first server.
    pub(crate) fn address(&self, default_port: u16) -> Probed<String> {
        self.addresses(default_port).map(|mut all| all.swap_remove(0))
    }

    fn file(&self, purpose: &str) -> Option<&'a PathBuf> {
        self.files?.get(purpose)
    }

    /// User and password, where a login is known.
    pub(crate) fn login(&self) -> Probed<Option<(String, String)>> {
        let (Some(user), Some(file)) = (self.user, self.file("password")) else {
            return Ok(None);
        };
        let password = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(Some((user.to_owned(), password)))
    }

    /// A connection to `address`, over TLS where the URL's scheme says so.
    ///
    /// `None` where the server takes TLS, but the CA to trust is not known: it is there, and more
    /// cannot be asked.
    pub(crate) fn connect(&self, address: &str, limit: Duration) -> Probed<Option<Stream>> {
        let stream = connect(address, limit)?;
        let scheme = self.url.split("://").next().unwrap_or_default();
        if !TLS_SCHEMES.contains(&scheme) {
            return Ok(Some(Stream::Plain(stream)));
        }
        let Some(ca) = self.file("ca") else { return Ok(None) };
        let wrong = |error: String| format!("{}: {error}", ca.display());
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).map_err(|e| wrong(e.to_string()))?;
        roots.add(ca).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
        Ok(Some(Stream::Tls(Box::new(StreamOwned::new(session, stream)))))
    }
}

/// The schemes of URLs that mean TLS from the first byte on.
const TLS_SCHEMES: &[&str] = &["rediss", "amqps", "kafkas"];

/// A connection with a limit on each read and write.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(from),
            Self::Tls(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A plain connection to the first of the host's addresses that takes one.
pub(crate) fn connect(address: &str, limit: Duration) -> Probed<TcpStream> {
    let silent = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = Err(format!("{address}: no such host"));
    for target in address.to_socket_addrs().map_err(silent)? {
        stream = TcpStream::connect_timeout(&target, limit).map_err(silent);
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    stream.set_read_timeout(Some(limit)).map_err(silent)?;
    stream.set_write_timeout(Some(limit)).map_err(silent)?;
    Ok(stream)
}

/// The first line of what a server said, short enough to be printed.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("nothing").chars().take(100).collect()
}

/// `host:port` of one URL; a scheme, a login, a path and a query may be there or not.
fn read(url: &str, default_port: u16) -> Option<String> {
    let url = url.trim();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() {
        return None;
    }
    let has_port = host.rsplit_once(':').is_some_and(|(before, port)| {
        !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !before.is_empty()
    });
    Some(if has_port { host.to_owned() } else { format!("{host}:{default_port}") })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that says one of `answers` to each thing that comes; its address.
    pub(crate) fn serve_all(answers: &'static [&'static [u8]]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            for answer in answers {
                if stream.read(&mut asked).unwrap() == 0 {
                    return;
                }
                stream.write_all(answer).unwrap();
            }
            // The end of the stream is for the other side to make.
            while stream.read(&mut asked).is_ok_and(|n| n > 0) {}
        });
        address
    }

    #[test]
    fn addresses_are_read_from_any_form_of_url() {
        let read = |url: &str| Target::of_url(url).addresses(4222).ok();
        let one = |address: &str| Some(vec![address.to_owned()]);
        assert_eq!(read("nats://127.0.0.1:4333"), one("127.0.0.1:4333"));
        assert_eq!(read("tls://me:p%40ss@broker:4333/x"), one("broker:4333"));
        assert_eq!(read("kafka://a:1,b:2"), Some(vec!["a:1".to_owned(), "b:2".to_owned()]));
        assert_eq!(read("nats://a:1,nats://b"), Some(vec!["a:1".to_owned(), "b:4222".to_owned()]));
        assert_eq!(read("localhost"), one("localhost:4222"));
        assert_eq!(read("nats://[::1]:4333"), one("[::1]:4333"));
        assert_eq!(read("nats://"), None);
    }

    #[test]
    fn nothing_listening_is_an_answer_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert!(connect(&address, Duration::from_secs(5)).is_err());
    }
}
