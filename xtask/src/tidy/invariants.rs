//! Who may depend on whom.
//!
//! The core knows no broker, database or exporter; an adapter knows the core and its own client;
//! pattern crates know no adapter; only the facade, and packages of tests, examples and
//! benchmarks, know several.

use super::Finding;
use super::graph::{Graph, Member};
use super::names::NETWORK_ADAPTERS;

/// Brokers without a server.
const LOCAL_ADAPTERS: &[&str] = &["memory", "embedded"];
const CORE: &str = "posthaste-core";
const FACADE: &str = "posthaste";
/// Procedural macros, which know nothing but syntax: any crate may have them.
const MACROS: &str = "posthaste-derive";

/// Clients of brokers, and whose adapter may have them.
const CLIENTS: &[(&str, &str)] = &[
    ("async-nats", "nats"),
    ("nats", "nats"),
    ("rdkafka", "kafka"),
    ("rdkafka-sys", "kafka"),
    ("rskafka", "kafka"),
    ("kafka", "kafka"),
    ("lapin", "rabbitmq"),
    ("amqprs", "rabbitmq"),
    ("redis", "redis"),
    ("fred", "redis"),
    ("aws-sdk-sqs", "sqs"),
    ("aws-sdk-sns", "sqs"),
];

/// Databases and exporters, which the core and network adapters do without.
const STORES_AND_EXPORTERS: &[&str] = &[
    "sqlx",
    "sqlx-core",
    "postgres",
    "tokio-postgres",
    "rusqlite",
    "libsqlite3-sys",
    "diesel",
    "redb",
    "sled",
    "fjall",
    "rocksdb",
    "opentelemetry_sdk",
    "opentelemetry-otlp",
    "prometheus",
    "prometheus-client",
    "metrics-exporter-prometheus",
    "tracing-subscriber",
];

/// What nobody brings in, and why.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-rs", "rustls has one provider here: ring"),
    ("aws-lc-sys", "rustls has one provider here: ring"),
    ("ctor", "no code before main, no global registry"),
    ("inventory", "no code before main, no global registry"),
    ("linkme", "no code before main, no global registry"),
];

/// Checks all invariants.
pub(crate) fn check(graph: &Graph) -> Vec<Finding> {
    let mut findings = nothing_banned(graph);
    for (name, member) in &graph.members {
        if name == CORE {
            findings.extend(core_knows_no_one(graph, member));
        } else if let Some(broker) = adapter(name) {
            findings.extend(adapter_knows_core_only(graph, name, broker, member));
        } else if name == FACADE {
            findings.extend(no_broker_by_default(member));
        } else if member.is_library {
            findings.extend(knows_no_adapter(graph, name, member));
        }
    }
    findings
}

/// The broker whose adapter a package is.
fn adapter(package: &str) -> Option<&str> {
    let broker = package.strip_prefix("posthaste-")?;
    NETWORK_ADAPTERS.iter().chain(LOCAL_ADAPTERS).find(|known| **known == broker).copied()
}

fn nothing_banned(graph: &Graph) -> Vec<Finding> {
    let bad = BANNED.iter().filter(|(name, _)| graph.all.contains(*name));
    bad.map(|(name, why)| Finding::new(name, None, format!("is in the tree: {why}"))).collect()
}

fn core_knows_no_one(graph: &Graph, core: &Member) -> Vec<Finding> {
    let tree = graph.tree(core);
    let foreign = CLIENTS.iter().map(|(client, _)| *client).chain(STORES_AND_EXPORTERS.to_vec());
    let members = graph.members.keys().map(String::as_str).filter(|other| *other != MACROS);
    let bad = foreign.chain(members).filter(|name| tree.contains(name));
    bad.map(|name| Finding::new(CORE, None, format!("depends on {name}"))).collect()
}

fn adapter_knows_core_only(
    graph: &Graph,
    name: &str,
    broker: &str,
    member: &Member,
) -> Vec<Finding> {
    let tree = graph.tree(member);
    let members =
        graph.members.keys().map(String::as_str).filter(|other| ![CORE, MACROS].contains(other));
    let clients = CLIENTS.iter().filter(|(_, owner)| *owner != broker).map(|(client, _)| *client);
    // The embedded broker is a database.
    let stores: &[&str] = if LOCAL_ADAPTERS.contains(&broker) { &[] } else { STORES_AND_EXPORTERS };
    let bad =
        members.chain(clients).chain(stores.iter().copied()).filter(|other| tree.contains(other));
    bad.map(|other| {
        Finding::new(
            name,
            None,
            format!("depends on {other}; an adapter knows core and its client"),
        )
    })
    .collect()
}

fn knows_no_adapter(graph: &Graph, name: &str, member: &Member) -> Vec<Finding> {
    let tree = graph.tree(member);
    let bad = tree.into_iter().filter(|other| adapter(other).is_some() || *other == FACADE);
    bad.map(|other| {
        Finding::new(name, None, format!("depends on {other}; only the facade knows adapters"))
    })
    .collect()
}

fn no_broker_by_default(facade: &Member) -> Vec<Finding> {
    let on = facade.turned_on_by("default");
    let brokers = NETWORK_ADAPTERS.iter().chain(&["embedded"]);
    let bad = brokers.filter(|broker| {
        on.contains(**broker) || on.contains(format!("posthaste-{broker}").as_str())
    });
    bad.map(|broker| Finding::new(FACADE, None, format!("{broker} is in `default`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::graph::sample;
    use super::*;

    fn messages(packages: &[(&str, bool, &[&str])]) -> Vec<String> {
        let findings = check(&sample(packages, &[]));
        findings.into_iter().map(|f| format!("{}: {}", f.place, f.message)).collect()
    }

    #[test]
    fn a_house_in_order_has_no_findings() {
        let house: &[(&str, bool, &[&str])] = &[
            ("posthaste-derive", true, &["syn"]),
            ("posthaste-core", true, &["posthaste-derive", "tokio", "dev:posthaste-memory"]),
            ("posthaste-memory", true, &["posthaste-core", "dev:posthaste-conformance"]),
            ("posthaste-nats", true, &["posthaste-core", "async-nats", "dev:posthaste-memory"]),
            ("posthaste-embedded", true, &["posthaste-core", "redb"]),
            ("posthaste-conformance", true, &["posthaste-core"]),
            ("posthaste-runtime", true, &["posthaste-core", "dev:posthaste-memory"]),
            ("posthaste", true, &["posthaste-core", "posthaste-nats", "posthaste-memory"]),
            ("integration-tests", false, &["posthaste-nats", "posthaste-memory"]),
        ];
        assert_eq!(messages(house), [""; 0]);
    }

    #[test]
    fn core_with_a_client_a_database_or_a_crate_of_ours_is_found() {
        let found = messages(&[
            ("posthaste-core", true, &["between", "posthaste-runtime"]),
            ("posthaste-runtime", true, &[]),
            ("between", false, &["async-nats", "sqlx-core"]),
        ]);
        let joined = found.join("\n");
        for name in ["async-nats", "sqlx-core", "posthaste-runtime"] {
            assert!(joined.contains(&format!("posthaste-core: depends on {name}")), "{joined}");
        }
    }

    #[test]
    fn an_adapter_that_knows_more_than_core_and_its_client_is_found() {
        let found = messages(&[
            ("posthaste-core", true, &[]),
            ("posthaste-memory", true, &["posthaste-core"]),
            ("posthaste-nats", true, &["posthaste-core", "posthaste-memory", "lapin", "redb"]),
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|line| line.starts_with("posthaste-nats: ")), "{found:?}");
    }

    #[test]
    fn a_pattern_crate_that_reaches_an_adapter_is_found() {
        let found = messages(&[
            ("posthaste-nats", true, &[]),
            ("posthaste", true, &["posthaste-nats"]),
            ("posthaste-outbox", true, &["posthaste"]),
        ]);
        let joined = found.join("\n");
        assert!(joined.contains("posthaste-outbox: depends on posthaste;"), "{joined}");
        assert!(joined.contains("posthaste-outbox: depends on posthaste-nats;"), "{joined}");
    }

    #[test]
    fn what_is_banned_is_found_anywhere() {
        let found = messages(&[("xtask", false, &["dev:aws-lc-rs", "linkme"])]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_broker_in_default_is_found_by_feature_and_by_package() {
        for on in ["nats", "dep:posthaste-nats"] {
            let findings = check(&sample(&[("posthaste", true, &[])], &["json", on]));
            assert_eq!(findings.len(), 1, "{findings:?}");
        }
        assert!(check(&sample(&[("posthaste", true, &[])], &["json"])).is_empty());
    }
}
