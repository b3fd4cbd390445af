//! NATS credentials files: an operator, an account and a user, each a signed claim (JWT).
//!
//! Only what a test server needs: no expiry, no permissions, no signing keys.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::secrets;
use crate::failure::{Context, Result};

/// What a server and its clients need for logins by credentials file.
pub(crate) struct Credentials {
    /// The lines of the server's configuration.
    pub(crate) config: String,
    /// The credentials file of a user of the server.
    pub(crate) user: PathBuf,
    /// The credentials file of a user whose operator the server does not know.
    pub(crate) foreign_user: PathBuf,
}

/// The credentials of a server, made at the first call for its folder.
pub(crate) fn ensure(folder: &Path) -> Result<Credentials> {
    let (config, _) = secrets::text(folder, "operator.conf", || {
        let own = Chain::new()?;
        secrets::write_private(&folder.join("user.creds"), &own.creds)?;
        secrets::write_private(&folder.join("foreign-user.creds"), &Chain::new()?.creds)?;
        Ok(own.config)
    })?;
    Ok(Credentials {
        config,
        user: folder.join("user.creds"),
        foreign_user: folder.join("foreign-user.creds"),
    })
}

/// An operator, its system account, an application account and a user of that.
struct Chain {
    config: String,
    creds: String,
}

impl Chain {
    fn new() -> Result<Self> {
        let (operator, system, account, user) = (
            KeyPair::new_operator(),
            KeyPair::new_account(),
            KeyPair::new_account(),
            KeyPair::new_user(),
        );
        let operator_claim = signed(
            &operator,
            &operator,
            "posthaste",
            &json!({ "type": "operator", "version": 2, "system_account": system.public_key() }),
        )?;
        let system_claim = signed(&operator, &system, "SYS", &account_limits(0))?;
        let account_claim = signed(&operator, &account, "APP", &account_limits(-1))?;
        let user_claim = signed(
            &account,
            &user,
            "posthaste",
            &json!({ "type": "user", "version": 2, "pub": {}, "sub": {},
                     "subs": -1, "data": -1, "payload": -1 }),
        )?;
        let config = format!(
            "operator: {operator_claim}
system_account: {system}
resolver: MEMORY
resolver_preload: {{
  {system}: {system_claim}
  {account}: {account_claim}
}}
",
            system = system.public_key(),
            account = account.public_key(),
        );
        let seed = user.seed().context(|| "making a key".to_owned())?;
        let creds = format!(
            "-----BEGIN NATS USER JWT-----
{user_claim}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"
        );
        Ok(Self { config, creds })
    }
}

/// The claims of an account: everything without limit, but JetStream storage as given.
fn account_limits(storage: i64) -> Value {
    json!({
        "type": "account",
        "version": 2,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": storage, "disk_storage": storage, "streams": -1, "consumer": -1,
        },
        "default_permissions": { "pub": {}, "sub": {} },
    })
}

/// The claim of `issuer` about `subject`.
fn signed(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> Result<String> {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        // An id of the claim; servers do not compare it with anything.
        "jti": subject.public_key(),
        "iat": 0,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": nats,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(body.as_bytes()).context(|| "signing a claim".to_owned())?;
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_signed_by_its_issuer() {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let claim = signed(&operator, &account, "APP", &account_limits(-1)).unwrap();
        let (body, signature) = claim.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(operator.verify(body.as_bytes(), &signature).is_ok());
        assert!(account.verify(body.as_bytes(), &signature).is_err());
    }
}
