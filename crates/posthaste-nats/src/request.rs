//! A request for messages, and what a consumer allows in one.

use std::time::Duration;

use async_nats::jetstream::consumer::Info;

use crate::source::EXPIRES;

/// One request for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) batch: usize,
    pub(crate) bytes: Option<usize>,
    pub(crate) expires: Duration,
    pub(crate) no_wait: bool,
}

/// What the consumer allows in one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) batch: usize,
    pub(crate) bytes: usize,
    pub(crate) expires: Duration,
}

impl Request {
    /// The request as the server reads it.
    pub(crate) fn body(&self) -> String {
        let (batch, nanos) = (self.batch, self.expires.as_nanos());
        let mut body = format!("{{\"batch\":{batch}");
        if let Some(bytes) = self.bytes {
            body.push_str(&format!(",\"max_bytes\":{bytes}"));
        }
        // With both, the server would wait after all.
        body.push_str(&match self.no_wait {
            true => ",\"no_wait\":true}".to_owned(),
            false => format!(",\"expires\":{nanos}}}"),
        });
        body
    }
}

impl Limits {
    pub(crate) fn of(info: &Info) -> Self {
        let limit = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        let expires = info.config.max_expires;
        Self {
            batch: limit(info.config.max_batch),
            bytes: limit(info.config.max_bytes),
            expires: if expires.is_zero() { EXPIRES } else { expires.min(EXPIRES) },
        }
    }
}
