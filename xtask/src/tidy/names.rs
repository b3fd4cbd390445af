//! Rules about the names of files.

use std::collections::BTreeSet;

use super::Finding;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "common", "manager", "managers", "helpers", "helper", "misc", "shared_code"];

/// Network brokers, each with a crate `posthaste-<name>`.
pub(crate) const NETWORK_ADAPTERS: &[&str] = &["kafka", "rabbitmq", "sqs", "nats", "redis"];

/// The modules that the crate of every network broker has.
const MODULES: &[&str] =
    &["config", "broker", "publish", "subscribe", "settle", "convert", "admin", "error"];

/// No Rust file or folder of them is called `utils` or the like: a name says what is inside.
pub(crate) fn say_what_is_in_them(paths: &[String]) -> Vec<Finding> {
    let bad = paths.iter().filter(|path| {
        let Some(stem) = path.strip_suffix(".rs") else { return false };
        stem.split('/').any(|part| EMPTY_NAMES.contains(&part))
    });
    bad.map(|path| Finding::new(path, None, "the name does not say what is inside")).collect()
}

/// All crates of network brokers have the same files, so that who knows one knows all.
pub(crate) fn adapters_look_alike(paths: &[String]) -> Vec<Finding> {
    let paths: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    let mut findings = Vec::new();
    for name in NETWORK_ADAPTERS {
        let krate = format!("crates/posthaste-{name}");
        if !paths.contains(format!("{krate}/Cargo.toml").as_str()) {
            continue;
        }
        for module in MODULES {
            let file = format!("{krate}/src/{module}.rs");
            let folder = format!("{krate}/src/{module}/mod.rs");
            if !paths.contains(file.as_str()) && !paths.contains(folder.as_str()) {
                findings.push(Finding::new(&file, None, "every adapter has this module"));
            }
        }
        let docs = format!("{krate}/src/docs.md");
        if !paths.contains(docs.as_str()) {
            findings.push(Finding::new(&docs, None, "every adapter has this page"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_found() {
        let paths = ["src/utils.rs", "tests/common/mod.rs", "src/commons.rs", "docs/helpers.md"];
        let paths = paths.map(str::to_owned);
        let found: Vec<String> =
            say_what_is_in_them(&paths).into_iter().map(|finding| finding.place).collect();
        assert_eq!(found, ["src/utils.rs", "tests/common/mod.rs"]);
    }

    #[test]
    fn an_adapter_that_lacks_a_file_is_found() {
        let mut paths: Vec<String> = MODULES
            .iter()
            .filter(|module| **module != "admin" && **module != "settle")
            .map(|module| format!("crates/posthaste-nats/src/{module}.rs"))
            .collect();
        paths.push("crates/posthaste-nats/src/settle/mod.rs".to_owned());
        assert!(adapters_look_alike(&paths).is_empty(), "without a manifest it is no crate");
        paths.push("crates/posthaste-nats/Cargo.toml".to_owned());
        let found: Vec<String> =
            adapters_look_alike(&paths).into_iter().map(|finding| finding.place).collect();
        let want = ["crates/posthaste-nats/src/admin.rs", "crates/posthaste-nats/src/docs.md"];
        assert_eq!(found, want);
    }
}
