//! The brokers of one run: brought up before it, stopped after it unless they were up before.
//!
//! Several runs may share a broker. Each holds a shared file lock on it; the last one stops it.

use std::fs::File;

use super::ports::Ports;
use super::table::Entry;
use super::turns::Turns;
use super::up::{Registry, Running, Source, Wish};
use crate::failure::{Context, Result};

/// What a run works with. Dropping it stops what no one else needs.
#[derive(Debug, Default)]
pub(crate) struct Session {
    running: Vec<Held>,
    missing: Vec<(&'static str, String)>,
    keep_data: bool,
}

#[derive(Debug)]
struct Held {
    broker: Running,
    /// Locked shared as long as we use the broker; `None` for one that is not ours at all.
    in_use: Option<File>,
}

impl Session {
    /// Brings up `entries`, as far as it can, and says what came of each.
    pub(crate) fn start(entries: &[&'static Entry], may_install: bool) -> Result<Self> {
        let mut session = Self::default();
        let registry = Registry::open()?;
        let (ports, turns) = (&Ports::default(), &Turns::default());
        let wish = Wish { may_install, keep: false, ports, turns };
        for entry in entries {
            // Held before it is there, so that no other run stops it in between.
            let in_use = hold(&registry, entry.id)?;
            match registry.ensure(entry, &wish) {
                Ok(broker) => {
                    let is_ours = broker.source != Source::Environment;
                    let in_use = is_ours.then_some(in_use);
                    println!("broker {}", describe(&broker));
                    session.running.push(Held { broker, in_use });
                }
                Err(reason) => {
                    println!("broker {}: not available: {reason}", entry.id);
                    session.missing.push((entry.id, reason.to_string()));
                }
            }
        }
        Ok(session)
    }

    /// The brokers that answer.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().map(|held| &held.broker)
    }

    /// Why `id` is not there; `None` when it is, or was not asked for.
    pub(crate) fn missing(&self, id: &str) -> Option<&str> {
        let (_, reason) = self.missing.iter().find(|(missing, _)| *missing == id)?;
        Some(reason)
    }

    /// Keeps the data of what will be stopped, for a look at what went wrong.
    pub(crate) fn keep_data(&mut self) {
        self.keep_data = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for held in self.running.drain(..) {
            let Some(in_use) = held.in_use else { continue };
            if let Err(failure) = release(held.broker.id, in_use, self.keep_data) {
                eprintln!("stopping {}: {failure}", held.broker.id);
            }
        }
    }
}

/// One line about a broker: what, where, and why it is there.
pub(crate) fn describe(broker: &Running) -> String {
    let source = match broker.source {
        Source::Environment => "already there",
        Source::AlreadyUp => "already up",
        Source::Started => "started",
    };
    format!("{}: {} at {} ({source})", broker.id, broker.version, without_secrets(&broker.url))
}

/// A URL without user and password.
pub(crate) fn without_secrets(url: &str) -> String {
    url.split(',')
        .map(|part| match part.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                format!("{scheme}://{host}{path}")
            }
            None => part.rsplit_once('@').map_or(part, |(_, host)| host).to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

fn hold(registry: &Registry, id: &str) -> Result<File> {
    let path = registry.dir.join(format!("{id}.in-use"));
    let doing = || format!("locking {}", path.display());
    let file = File::create(&path).context(doing)?;
    file.lock_shared().context(doing)?;
    Ok(file)
}

/// Stops the broker unless `brokers up` wants it kept or another run still uses it.
fn release(id: &str, in_use: File, keep_data: bool) -> Result<()> {
    let registry = Registry::open()?;
    drop(in_use);
    let kept = super::record::Record::read(&registry.dir, id)?.is_none_or(|record| record.keep);
    if kept {
        return Ok(());
    }
    let path = registry.dir.join(format!("{id}.in-use"));
    let doing = || format!("locking {}", path.display());
    let file = File::create(&path).context(doing)?;
    if file.try_lock().is_ok() {
        registry.down(id, keep_data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_of_a_url_holds_no_login() {
        assert_eq!(without_secrets("nats://me:secret@a:1/x?y"), "nats://a:1/x?y");
        assert_eq!(without_secrets("nats://t@a:1,nats://b:2"), "nats://a:1,nats://b:2");
        assert_eq!(without_secrets("me:secret@a:1"), "a:1");
        assert_eq!(without_secrets("nats://a:1"), "nats://a:1");
    }
}
