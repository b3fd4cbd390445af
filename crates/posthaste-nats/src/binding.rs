//! Existing streams, subjects and consumers for a topic, instead of those of the default names.

use std::collections::BTreeMap;

use posthaste_core::{BoundName, Error, GroupName, Result};

/// An existing stream that holds a topic.
///
/// Such a topic is plain: order is not promised on it. Its stream is never created, changed or
/// deleted; consumers are created under [`Topology::Create`](posthaste_core::Topology) unless
/// they are named here. Private channels and dead letters of its groups have streams of their
/// own, of the default names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a binding does nothing until `NatsConfig::bind`"]
pub struct Binding {
    pub(crate) stream: String,
    pub(crate) subject: Option<String>,
    pub(crate) publish_subject: Option<String>,
    pub(crate) consumers: BTreeMap<String, String>,
}

impl Binding {
    /// The stream of that name. All of its subjects are read, unless [`subject`](Self::subject)
    /// says otherwise.
    pub fn stream(name: impl Into<String>) -> Self {
        Self {
            stream: name.into(),
            subject: None,
            publish_subject: None,
            consumers: BTreeMap::new(),
        }
    }

    /// The subject that is read; it may hold the wildcards `*` and `>`. Without wildcards it is
    /// also the one that is published to.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The subject that is published to, where it is not the one that is read.
    pub fn publish_subject(mut self, subject: impl Into<String>) -> Self {
        self.publish_subject = Some(subject.into());
        self
    }

    /// The existing durable pull consumer of a group.
    pub fn consumer(mut self, group: impl Into<String>, name: impl Into<String>) -> Self {
        self.consumers.insert(group.into(), name.into());
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_name("stream", &self.stream)?;
        if let Some(subject) = &self.subject {
            check_subject(subject)?;
        }
        if let Some(subject) = &self.publish_subject {
            check_subject(subject)?;
            if has_wildcard(subject) {
                return Err(refuse(
                    "it is published to and must not hold wildcards",
                    "subject",
                    subject,
                ));
            }
        }
        for (group, consumer) in &self.consumers {
            GroupName::new(group)?;
            check_name("consumer", consumer)?;
        }
        Ok(())
    }

    /// Where messages go; `None` where only a wildcard is known.
    pub(crate) fn target(&self) -> Option<&str> {
        let read = self.subject.as_deref().filter(|subject| !has_wildcard(subject));
        self.publish_subject.as_deref().or(read)
    }
}

pub(crate) fn has_wildcard(subject: &str) -> bool {
    subject.split('.').any(|token| token == "*" || token == ">")
}

fn check_name(what: &'static str, name: &str) -> Result<()> {
    BoundName::new(name)?;
    if name.contains(['.', '*', '>', '/', '\\']) || name.contains(char::is_whitespace) {
        return Err(refuse(
            "a name at the server holds no space and none of . * > / \\",
            what,
            name,
        ));
    }
    Ok(())
}

fn check_subject(subject: &str) -> Result<()> {
    BoundName::new(subject)?;
    let tokens: Vec<_> = subject.split('.').collect();
    let inner_tail = tokens.iter().rev().skip(1).any(|token| *token == ">");
    let sound =
        !subject.contains(char::is_whitespace) && tokens.iter().all(|token| !token.is_empty());
    if !sound || inner_tail {
        return Err(refuse(
            "a subject is tokens joined by single dots, > at most at its end",
            "subject",
            subject,
        ));
    }
    if subject.starts_with('$') {
        return Err(refuse("subjects that begin with $ are the server's", "subject", subject));
    }
    Ok(())
}

#[cold]
fn refuse(why: &'static str, what: &'static str, found: &str) -> Error {
    Error::invalid(why).with_context(what, found.escape_debug())
}

#[cfg(test)]
mod tests {
    use posthaste_core::ErrorKind;

    use super::*;

    #[test]
    fn accepts_what_servers_accept() {
        for binding in [
            Binding::stream("ORDERS"),
            Binding::stream("ORDERS").subject("legacy.orders.>"),
            Binding::stream("a+b").subject("*.orders").publish_subject("eu.orders"),
            Binding::stream("ORDERS").subject("o").consumer("billing", "BILLING_V1"),
        ] {
            binding.check().unwrap();
        }
    }

    #[test]
    fn refuses_what_servers_refuse() {
        for binding in [
            Binding::stream(""),
            Binding::stream("two words"),
            Binding::stream("a.b"),
            Binding::stream("S").subject("a..b"),
            Binding::stream("S").subject("a.>.b"),
            Binding::stream("S").subject("$JS.API.>"),
            Binding::stream("S").publish_subject("a.*"),
            Binding::stream("S").consumer("no good", "c"),
            Binding::stream("S").consumer("g", "c.d"),
        ] {
            let error = binding.check().expect_err(&format!("{binding:?}"));
            assert_eq!(error.kind(), ErrorKind::Invalid, "{binding:?}");
        }
    }

    #[test]
    fn publishes_only_where_one_subject_is_meant() {
        assert_eq!(Binding::stream("S").target(), None);
        assert_eq!(Binding::stream("S").subject("a.>").target(), None);
        assert_eq!(Binding::stream("S").subject("a.b").target(), Some("a.b"));
        assert_eq!(
            Binding::stream("S").subject("a.>").publish_subject("a.c").target(),
            Some("a.c")
        );
    }
}
