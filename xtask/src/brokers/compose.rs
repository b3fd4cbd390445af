//! Tests of `docker-compose.yml` against the table of brokers and `.env.example`.
//!
//! It cannot be run where no engine answers, but it can be read: that it names every broker, at the
//! same version, on loopback, at the ports that are written down, pinned and with a health check.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_yaml_ng::Value;

use super::probe::Target;
use super::sqs::endpoint;
use super::table::{Entry, TABLE, is_line_of};
use crate::workspace;

#[derive(Debug, Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Debug, Deserialize)]
struct Service {
    image: String,
    #[serde(default)]
    ports: Vec<String>,
    healthcheck: Option<Health>,
}

#[derive(Debug, Deserialize)]
struct Health {
    test: Vec<String>,
    retries: u32,
}

fn text(name: &str) -> String {
    std::fs::read_to_string(workspace::root().join(name)).unwrap()
}

fn compose() -> Compose {
    let mut value: Value = serde_yaml_ng::from_str(&text("docker-compose.yml")).unwrap();
    value.apply_merge().unwrap();
    serde_yaml_ng::from_value(value).unwrap()
}

/// The variables of `.env.example`, in which each is set, be it to nothing.
fn example() -> BTreeMap<String, String> {
    let text = text(".env.example");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The services of an entry: one of its name, or one for each node.
fn services<'a>(compose: &'a Compose, entry: &Entry) -> Vec<&'a Service> {
    let name = entry.id.replace('@', "-");
    let is_node = |service: &str| {
        let number = service.strip_prefix(&name).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u8>().is_ok())
    };
    let all = compose.services.iter();
    all.filter(|(service, _)| **service == name || is_node(service)).map(|(_, it)| it).collect()
}

/// The entries that are in `docker-compose.yml`: those that need no secret of ours.
fn open_entries() -> impl Iterator<Item = &'static Entry> {
    TABLE.iter().filter(|entry| entry.beside.is_none())
}

/// The loopback ports that a URL names.
fn ports(url: &str) -> BTreeSet<u16> {
    let addresses = match endpoint(url) {
        Ok(endpoint) => vec![endpoint],
        Err(_) => Target::of_url(url).addresses(0).unwrap(),
    };
    let port = |address: &String| address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    addresses.iter().map(port).collect()
}

#[test]
fn every_broker_is_there_in_the_version_of_the_table() {
    let compose = compose();
    for entry in open_entries() {
        let services = services(&compose, entry);
        assert!(!services.is_empty(), "{} has no service", entry.id);
        for service in services {
            let tag = service.image.split_once(':').unwrap().1;
            let version = tag.split('-').next().unwrap();
            assert!(is_line_of(entry.version, version), "{}: {}", entry.id, service.image);
        }
    }
}

#[test]
fn every_service_is_of_a_broker_pinned_and_checked() {
    let compose = compose();
    let known: usize = open_entries().map(|entry| services(&compose, entry).len()).sum();
    assert_eq!(known, compose.services.len(), "a service of no broker");
    for (name, service) in &compose.services {
        let tag = service.image.split_once(':').map(|(_, tag)| tag);
        let numbers = tag.and_then(|tag| tag.split('-').next()).unwrap_or_default();
        // A whole version; `15` or `latest` would be another image next month.
        assert!(numbers.split('.').count() >= 2, "{name}: {}", service.image);
        assert!(numbers.bytes().all(|b| b.is_ascii_digit() || b == b'.'), "{}", service.image);
        let health = service.healthcheck.as_ref().unwrap();
        assert!(health.test.len() > 1 && health.retries > 0, "{name}");
        assert!(!service.ports.is_empty(), "{name} cannot be reached");
    }
}

#[test]
fn ports_are_on_loopback_and_none_is_used_twice() {
    let mut used = BTreeSet::new();
    for (name, service) in compose().services {
        for port in service.ports {
            let host = port.strip_prefix("127.0.0.1:").and_then(|rest| rest.split_once(':'));
            let host: u16 = host.unwrap_or_else(|| panic!("{name}: {port}")).0.parse().unwrap();
            assert!(used.insert(host), "{name}: {host} is used twice");
        }
    }
}

#[test]
fn the_example_of_variables_names_the_same_ports() {
    let (compose, example) = (compose(), example());
    for entry in TABLE {
        let url = example.get(&entry.variable());
        let url = url.unwrap_or_else(|| panic!("{} is not in .env.example", entry.variable()));
        assert_eq!(url.is_empty(), entry.beside.is_some(), "{}", entry.variable());
        if url.is_empty() {
            continue;
        }
        // The first port of a service is that of its clients.
        let published: BTreeSet<u16> = services(&compose, entry)
            .iter()
            .map(|service| service.ports[0].split(':').nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(ports(url), published, "{}", entry.id);
    }
}
