//! Logins by tokens (OAUTHBEARER): where tokens come from, and how clients get them.
//!
//! A client asks for a token when it is made, and for the next one when most of the time of that is
//! over. It asks by an event, which is served with its others. Two kinds of clients need help: one
//! that is asked something before its events are served, and that of the admin interface, whose
//! events nobody serves.

use std::ffi::CString;
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use posthaste_core::{Error, ErrorKind, Result, Timestamp};
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::types::RDKafkaRespErr;

use crate::connect::{Administrator, Owned};
use crate::error::BROKER;

/// A token for a login by OAUTHBEARER. From the callback of
/// [`KafkaConfig::oauth_bearer`](crate::KafkaConfig::oauth_bearer).
#[derive(Clone, PartialEq, Eq)]
pub struct OauthToken {
    value: String,
    principal: String,
    expires_at: Timestamp,
}

impl OauthToken {
    /// A token as its issuer gave it, the name of who logs in with it, and until when it opens.
    /// The next one is asked for when four fifths of that time are over.
    #[must_use]
    pub fn new(
        value: impl Into<String>,
        principal: impl Into<String>,
        expires_at: Timestamp,
    ) -> Self {
        Self { value: value.into(), principal: principal.into(), expires_at }
    }

    fn millis(&self) -> i64 {
        self.expires_at.as_micros().div_euclid(1_000)
    }
}

impl fmt::Debug for OauthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token of {:?} until {}", self.principal, self.expires_at)
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where tokens come from.
#[derive(Clone)]
pub(crate) struct Source(Arc<dyn Fn() -> Result<OauthToken, Failure> + Send + Sync>);

impl Source {
    pub(crate) fn new<E: Into<Failure>>(
        ask: impl Fn() -> Result<OauthToken, E> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move || ask().map_err(Into::into)))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a source of tokens")
    }
}

/// The tokens of one connection.
#[derive(Debug)]
pub(crate) struct Tokens {
    source: Source,
    /// It gets each new token.
    admin: Mutex<Weak<Owned<Administrator>>>,
}

impl Tokens {
    pub(crate) fn new(source: Source) -> Self {
        Self { source, admin: Mutex::default() }
    }

    /// A new token, for a client whose events are served.
    pub(crate) fn next(&self) -> Result<OAuthToken, Failure> {
        let token = (self.source.0)()?;
        let admin = lock(&self.admin).upgrade();
        if let Some(admin) = admin {
            set(admin.inner(), &token)?;
        }
        let (lifetime_ms, principal_name) = (token.millis(), token.principal);
        Ok(OAuthToken { token: token.value, principal_name, lifetime_ms })
    }

    /// Gives a client a token of its own: one that others have may open for a moment only.
    ///
    /// # Errors
    /// `Auth` with what the source said.
    pub(crate) fn let_in<C: ClientContext>(&self, client: &Client<C>) -> Result<()> {
        let token = (self.source.0)().map_err(|failure| no_token(&*failure))?;
        set(client, &token)
    }

    /// The client of the admin interface gets this token and each that follows.
    ///
    /// # Errors
    /// As [`let_in`](Self::let_in).
    pub(crate) fn look_after(&self, admin: &Arc<Owned<Administrator>>) -> Result<()> {
        *lock(&self.admin) = Arc::downgrade(admin);
        self.let_in(admin.inner())
    }
}

#[cold]
fn no_token(why: &(dyn std::error::Error + Send + Sync)) -> Error {
    Error::new(ErrorKind::Auth, "there is no token for the login")
        .with_context("source", why.to_string().escape_debug())
        .with_broker(BROKER)
}

/// Gives a client a token.
#[expect(unsafe_code, reason = "the client takes tokens in answer to its own question only")]
fn set<C: ClientContext>(client: &Client<C>, token: &OauthToken) -> Result<()> {
    const TEXT: usize = 512;
    let text = |text: &str| {
        CString::new(text).map_err(|_| no_token(&*Failure::from("a token holds a NUL byte")))
    };
    let (value, principal) = (text(&token.value)?, text(&token.principal)?);
    let mut why = vec![0_u8; TEXT];
    // SAFETY: the pointer is that of a client that lives for as long as the reference. Both texts
    // end with a NUL and live until the call returns, which copies them; there are no extensions,
    // and the buffer has the length that is said.
    let answer = unsafe {
        rdkafka::bindings::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.millis(),
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            why.as_mut_ptr().cast(),
            why.len(),
        )
    };
    if answer == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let why: Vec<u8> = why.into_iter().take_while(|byte| *byte != 0).collect();
    Err(no_token(&*Failure::from(String::from_utf8_lossy(&why).into_owned())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held but an allocation that failed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows() {
        let token = OauthToken::new("SECRET", "app", Timestamp::from_micros(0));
        let source = Source::new(move || Ok::<_, Error>(token.clone()));
        let tokens = Tokens::new(source);
        assert_eq!(tokens.next().unwrap().token, "SECRET");
        assert!(!format!("{tokens:?}").contains("SECRET"), "{tokens:?}");
    }

    #[test]
    fn a_source_that_fails_is_told() {
        let tokens = Tokens::new(Source::new(|| Err::<OauthToken, _>("the issuer is away")));
        assert!(tokens.next().err().unwrap().to_string().contains("the issuer is away"));
    }
}
