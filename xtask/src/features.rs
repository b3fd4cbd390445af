//! `cargo xtask features`: compiles the facade without any feature, and with each one alone.
//!
//! A feature only adds. One that compiles only beside another is found here, and nowhere else: all
//! other checks turn on all of them.

use std::process::ExitCode;

use serde_json::Value;

use crate::failure::{Result, fail};
use crate::interrupt::Interrupt;
use crate::workspace;

/// The package whose features an application chooses.
const FACADE: &str = "posthaste";

/// Does `features`. Compiles all, and then fails if one did not compile.
pub(crate) fn run() -> Result<ExitCode> {
    let features = of(&workspace::metadata()?, FACADE)?;
    let interrupt = Interrupt::install()?;
    let mut broken = Vec::new();
    let none = "(none)".to_owned();
    for feature in std::iter::once(&none).chain(&features) {
        let mut command = workspace::cargo();
        command.args(["check", "--quiet", "--package", FACADE, "--no-default-features"]);
        if *feature != none {
            command.args(["--features", feature]);
        }
        let fine = interrupt.status(&mut command)?;
        if interrupt.came() {
            return fail("interrupted");
        }
        println!("feature {feature} ... {}", if fine { "ok" } else { "FAILED" });
        if !fine {
            broken.push(feature.as_str());
        }
    }
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    fail(format!("features that do not compile alone: {}", broken.join(", ")))
}

/// The features of a package of the workspace, sorted.
fn of(metadata: &Value, package: &str) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut found = packages
        .filter(|candidate| candidate["name"] == package && candidate["source"].is_null())
        .filter_map(|candidate| candidate["features"].as_object());
    match found.next() {
        // serde_json keeps the keys of an object sorted.
        Some(features) => Ok(features.keys().cloned().collect()),
        None => fail(format!("the workspace has no package `{package}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_features_of_our_own_package_are_read() {
        let metadata = json!({ "packages": [
            { "name": "posthaste", "source": "registry", "features": { "other": [] } },
            { "name": "posthaste", "source": null, "features": { "nats": [], "default": ["json"] } },
        ] });
        assert_eq!(of(&metadata, "posthaste").unwrap(), ["default", "nats"]);
        assert!(of(&metadata, "absent").is_err());
    }
}
