//! Envelopes that come otherwise than they were sent.

use std::time::Duration;

use posthaste_core::{Envelope, Timestamp};

use super::mutant::Mutant;

/// The envelope with something missing or changed; nothing if the mutant leaves it alone.
pub(super) fn twisted(mutant: Mutant, envelope: &Envelope) -> Option<Envelope> {
    let builder = envelope.to_builder();
    let payload = envelope.payload();
    let builder = match mutant {
        Mutant::ChangeTheId if envelope.id().len() > 24 => {
            let end = (0..=24).rev().find(|end| envelope.id().is_char_boundary(*end))?;
            builder.id(&envelope.id()[..end])
        }
        Mutant::LoseARepeatedHeader => {
            return without_headers(envelope, |headers, at| {
                let (name, _) = headers[at];
                let is_repeated = headers[..at].iter().any(|(before, _)| *before == name);
                is_repeated && !headers[at + 1..].iter().any(|(behind, _)| *behind == name)
            });
        }
        Mutant::LoseEmptyHeaders => {
            return without_headers(envelope, |headers, at| headers[at].1.is_empty());
        }
        Mutant::LowerTheHeaders => return with_lower_names(envelope),
        Mutant::TruncateThePayload if payload.len() > 1_000 => {
            builder.payload(payload.slice(..payload.len() - 1))
        }
        Mutant::MangleBinary if std::str::from_utf8(payload).is_err() => {
            builder.payload(String::from_utf8_lossy(payload).into_owned())
        }
        Mutant::LoseTheTrace => {
            envelope.trace_parent()?;
            return without_trace(envelope);
        }
        Mutant::RoundTheTime => {
            let micros = envelope.time()?.as_micros();
            builder.time(Timestamp::from_micros(micros - micros.rem_euclid(1_000)))
        }
        Mutant::LoseTheExpiry => builder.expires_at(envelope.expires_at().map(|_| Timestamp::MAX)?),
        Mutant::ExpireLate => builder.expires_at(envelope.expires_at()? + Duration::from_secs(2)),
        _ => return None,
    };
    Some(builder.build_lenient())
}

/// The envelope without the headers that are named by their place.
fn without_headers(
    envelope: &Envelope,
    is_lost: impl Fn(&[(&str, &[u8])], usize) -> bool,
) -> Option<Envelope> {
    let headers: Vec<(&str, &[u8])> = envelope.headers().collect();
    let kept = (0..headers.len()).filter(|at| !is_lost(&headers, *at));
    let kept: Vec<(String, &[u8])> =
        kept.map(|at| (headers[at].0.to_owned(), headers[at].1)).collect();
    (kept.len() < headers.len()).then(|| with_headers(envelope, kept))
}

fn with_lower_names(envelope: &Envelope) -> Option<Envelope> {
    let is_lower = |name: &str| !name.bytes().any(|byte| byte.is_ascii_uppercase());
    if envelope.headers().all(|(name, _)| is_lower(name)) {
        return None;
    }
    let lower = envelope.headers().map(|(name, value)| (name.to_ascii_lowercase(), value));
    Some(with_headers(envelope, lower))
}

fn with_headers<'a>(
    envelope: &Envelope,
    headers: impl IntoIterator<Item = (String, &'a [u8])>,
) -> Envelope {
    let bare = envelope
        .headers()
        .fold(envelope.to_builder(), |builder, (name, _)| builder.remove_header(name));
    let full =
        headers.into_iter().fold(bare, |builder, (name, value)| builder.header(&name, value));
    full.build_lenient()
}

/// There is no way to take an attribute out, so it is built anew from all others.
fn without_trace(envelope: &Envelope) -> Option<Envelope> {
    let mut builder = Envelope::builder(envelope.event_type())
        .source(envelope.source())
        .id(envelope.id())
        .payload(envelope.payload().clone());
    macro_rules! keep {
        ($($name:ident),*) => {
            $( if let Some(value) = envelope.$name() { builder = builder.$name(value); } )*
        };
    }
    keep!(subject, time, content_type, data_schema, correlation_id, causation_id, reply_to);
    keep!(trace_state, sequence, expires_at, data_ref, schema_version);
    if let Some(key) = envelope.key() {
        builder = builder.key_ref(key);
    }
    for (name, value) in envelope.extensions() {
        builder = builder.extension(name, value);
    }
    for (name, value) in envelope.headers() {
        builder = builder.header(name, value);
    }
    builder.build().ok()
}
