//! Where a broker is.

use std::path::PathBuf;

use posthaste::{Error, Result};

/// The URL of the command line, else of the environment, else of what `cargo xtask brokers up`
/// started.
pub(crate) fn find(broker: &str, given: Option<&str>) -> Result<String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let variable = format!("POSTHASTE_{}_URL", broker.to_uppercase());
    match std::env::var(&variable) {
        Ok(url) if !url.trim().is_empty() => return Ok(url.trim().to_owned()),
        _ => {}
    }
    recorded(broker, "url").ok_or_else(|| {
        Error::invalid(format!(
            "no {broker} was named: give --url, set {variable}, or start one with \
             `cargo xtask brokers up {broker}`"
        ))
    })
}

/// The version of the broker at that URL, if it is the one that `cargo xtask brokers up` started.
pub(crate) fn version(broker: &str, url: &str) -> Option<String> {
    recorded(broker, "url").filter(|recorded| recorded == url)?;
    recorded(broker, "version")
}

/// What `brokers up` wrote down. A record that cannot be read is as good as none.
fn recorded(broker: &str, field: &str) -> Option<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let record = std::fs::read(target.join("brokers").join(format!("{broker}.json"))).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    Some(record.get(field)?.as_str()?.to_owned())
}
