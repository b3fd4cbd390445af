//! Secrets of brokers for development: certificates, passwords, keys.
//!
//! They are made at the first start and kept with the broker's state, so that a server that is
//! started again is still trusted by clients. They protect nothing: servers and files are of this
//! machine only. They exist to be asked for, and refused, in tests.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::failure::{Context, Result};

/// The PEM files of a CA and what it signed.
pub(crate) struct Certificates {
    /// The CA that signed server and client.
    pub(crate) ca: PathBuf,
    /// A CA that signed nothing: who trusts only it must refuse the server.
    pub(crate) foreign_ca: PathBuf,
    /// For `localhost` and 127.0.0.1.
    pub(crate) server_cert: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client_cert: PathBuf,
    pub(crate) client_key: PathBuf,
}

/// The certificates of a broker, made at the first call for its folder.
pub(crate) fn certificates(folder: &Path) -> Result<Certificates> {
    let file = |name: &str| folder.join(name);
    let all = Certificates {
        ca: file("ca.pem"),
        foreign_ca: file("foreign-ca.pem"),
        server_cert: file("server.pem"),
        server_key: file("server-key.pem"),
        client_cert: file("client.pem"),
        client_key: file("client-key.pem"),
    };
    // The foreign CA is written last: where it is, everything is.
    if !all.foreign_ca.exists() {
        generate(&all).context(|| "making certificates".to_owned())?;
    }
    Ok(all)
}

/// The text in `folder/name`, made by `make` when there is no such file, and where it is.
pub(crate) fn text(
    folder: &Path,
    name: &str,
    make: impl FnOnce() -> Result<String>,
) -> Result<(String, PathBuf)> {
    let path = folder.join(name);
    if !path.exists() {
        write_private(&path, &make()?)?;
    }
    let text = fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
    Ok((text, path))
}

/// A random password in `folder/name`, without a line end, and where it is.
pub(crate) fn password(folder: &Path, name: &str) -> Result<(String, PathBuf)> {
    text(folder, name, || Ok(random()?.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// A random id of 22 letters, digits, `-` and `_`; the first is a letter.
pub(crate) fn url_safe_id() -> Result<String> {
    let mut random = random()?;
    random[0] &= 0x3f;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

fn random() -> Result<[u8; 16]> {
    let mut random = [0_u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context(|| "reading /dev/urandom".to_owned())?;
    Ok(random)
}

/// Writes a file that only its owner can read, in one step.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&draft, path))
        .context(|| format!("writing {}", path.display()))
}

fn generate(all: &Certificates) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (ca_text, ca) = authority("Posthaste development CA")?;
    let (server, server_key) = signed("localhost", ExtendedKeyUsagePurpose::ServerAuth, &ca)?;
    let (client, client_key) = signed("posthaste", ExtendedKeyUsagePurpose::ClientAuth, &ca)?;
    let (foreign_text, _) = authority("Posthaste foreign CA")?;
    for (path, text) in [
        (&all.ca, ca_text),
        (&all.server_cert, server),
        (&all.server_key, server_key),
        (&all.client_cert, client),
        (&all.client_key, client_key),
        (&all.foreign_ca, foreign_text),
    ] {
        write_private(path, &text).map_err(|failure| failure.to_string())?;
    }
    Ok(())
}

fn authority(name: &str) -> std::result::Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let text = params.self_signed(&key)?.pem();
    Ok((text, Issuer::new(params, key)))
}

fn signed(
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
    ca: &Issuer<'_, KeyPair>,
) -> std::result::Result<(String, String), rcgen::Error> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("posthaste-secrets-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn certificates_are_made_once_and_are_private() {
        let folder = folder("tls");
        let first = certificates(&folder).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let (ca, key) = (read(&first.ca), read(&first.server_key));
        assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_ne!(ca, read(&first.foreign_ca));
        let mode = fs::metadata(&first.server_key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        certificates(&folder).unwrap();
        assert_eq!(read(&first.ca), ca);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_password_is_random_and_kept() {
        let folder = folder("password");
        let (first, path) = password(&folder, "a").unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(password(&folder, "a").unwrap(), (first.clone(), path));
        assert_ne!(password(&folder, "b").unwrap().0, first);
        let id = url_safe_id().unwrap();
        assert!(id.len() == 22 && id.starts_with(|c: char| c.is_ascii_alphabetic()), "{id}");
        fs::remove_dir_all(folder).unwrap();
    }
}
