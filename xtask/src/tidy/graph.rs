//! The dependency graph of the workspace, from `cargo metadata` with every feature on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::failure::{Result, fail};

/// Who depends on whom.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// The workspace's own packages, by name.
    pub(crate) members: BTreeMap<String, Member>,
    /// Every package in the tree of any member, dev-dependencies included, by name.
    pub(crate) all: BTreeSet<String>,
    names: BTreeMap<String, String>,
    /// Package id to what it needs to be built (no dev-dependencies).
    needs: BTreeMap<String, Vec<String>>,
}

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Member {
    id: String,
    /// Whether it is in `crates/`, and not a package of tests, examples or chores.
    pub(crate) is_library: bool,
    /// Each feature with what it turns on.
    pub(crate) features: BTreeMap<String, Vec<String>>,
}

impl Graph {
    /// Reads the output of `cargo metadata`.
    pub(crate) fn read(metadata: &Value) -> Result<Self> {
        let mut graph = Self::default();
        let root = metadata["workspace_root"].as_str().unwrap_or_default();
        let members: BTreeSet<&str> = texts(&metadata["workspace_members"]).collect();
        for package in items(&metadata["packages"]) {
            let (Some(id), Some(name)) = (package["id"].as_str(), package["name"].as_str()) else {
                return fail("cargo metadata: a package without id or name");
            };
            graph.names.insert(id.to_owned(), name.to_owned());
            if members.contains(id) {
                let manifest = package["manifest_path"].as_str().unwrap_or_default();
                let inside = manifest.strip_prefix(root).unwrap_or(manifest);
                let member = Member {
                    id: id.to_owned(),
                    is_library: inside.trim_start_matches(['/', '\\']).starts_with("crates"),
                    features: features(&package["features"]),
                };
                graph.members.insert(name.to_owned(), member);
            }
        }
        for node in items(&metadata["resolve"]["nodes"]) {
            let Some(id) = node["id"].as_str() else { continue };
            graph.all.insert(graph.names.get(id).cloned().unwrap_or_default());
            let needed = items(&node["deps"])
                .filter(|dep| items(&dep["dep_kinds"]).any(|kind| kind["kind"] != "dev"))
                .filter_map(|dep| Some(dep["pkg"].as_str()?.to_owned()));
            graph.needs.insert(id.to_owned(), needed.collect());
        }
        if graph.members.is_empty() || graph.needs.is_empty() {
            return fail("cargo metadata shows no packages");
        }
        Ok(graph)
    }

    /// The names of all that `member` needs to be built, directly or not; without itself.
    pub(crate) fn tree(&self, member: &Member) -> BTreeSet<&str> {
        let mut seen = BTreeSet::from([member.id.as_str()]);
        let mut open = vec![member.id.as_str()];
        while let Some(id) = open.pop() {
            for needed in self.needs.get(id).into_iter().flatten() {
                if seen.insert(needed) {
                    open.push(needed);
                }
            }
        }
        seen.remove(member.id.as_str());
        seen.into_iter().filter_map(|id| self.names.get(id)).map(String::as_str).collect()
    }
}

impl Member {
    /// All features that `feature` turns on, itself included.
    pub(crate) fn turned_on_by(&self, feature: &str) -> BTreeSet<&str> {
        let mut on = BTreeSet::new();
        let mut open: Vec<&str> =
            self.features.get_key_value(feature).map_or_else(Vec::new, |f| vec![f.0.as_str()]);
        while let Some(next) = open.pop() {
            if on.insert(next) {
                let more = self.features.get(next).into_iter().flatten();
                open.extend(more.filter_map(|name| {
                    // `dep:x` and `x/y` turn on the optional package `x`, not a feature of ours.
                    let name = name.strip_prefix("dep:").unwrap_or(name);
                    (!name.contains('/')).then_some(name)
                }));
            }
        }
        on
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    items(value).filter_map(Value::as_str)
}

fn features(value: &Value) -> BTreeMap<String, Vec<String>> {
    let all = value.as_object().into_iter().flatten();
    all.map(|(name, on)| (name.clone(), texts(on).map(str::to_owned).collect())).collect()
}

/// A graph for tests: `(package, is in crates/, packages it needs)`; a name that begins with
/// `dev:` is a dev-dependency.
#[cfg(test)]
pub(crate) fn sample(packages: &[(&str, bool, &[&str])], default: &[&str]) -> Graph {
    use serde_json::json;
    let mut names: BTreeSet<&str> = packages.iter().map(|(name, _, _)| *name).collect();
    for (_, _, needs) in packages {
        names.extend(needs.iter().map(|name| name.trim_start_matches("dev:")));
    }
    let is_member = |name: &str| packages.iter().any(|(member, _, _)| *member == name);
    let all: Vec<Value> = names
        .iter()
        .map(|name| {
            let in_crates = packages.iter().any(|(n, inside, _)| n == name && *inside);
            let folder = if in_crates { "crates/" } else { "" };
            json!({
                "id": format!("id-{name}"),
                "name": name,
                "manifest_path": format!("/w/{folder}{name}/Cargo.toml"),
                "features": { "default": default, "json": [] },
            })
        })
        .collect();
    let nodes: Vec<Value> = names
        .iter()
        .map(|name| {
            let needs = packages.iter().find(|(n, _, _)| n == name).map_or(&[][..], |p| p.2);
            let deps: Vec<Value> = needs
                .iter()
                .map(|need| {
                    let kind = need.starts_with("dev:").then_some("dev");
                    let pkg = format!("id-{}", need.trim_start_matches("dev:"));
                    json!({ "pkg": pkg, "dep_kinds": [{ "kind": kind }] })
                })
                .collect();
            json!({ "id": format!("id-{name}"), "deps": deps })
        })
        .collect();
    let members: Vec<String> =
        names.iter().filter(|name| is_member(name)).map(|name| format!("id-{name}")).collect();
    let metadata = json!({
        "workspace_root": "/w",
        "workspace_members": members,
        "packages": all,
        "resolve": { "nodes": nodes },
    });
    Graph::read(&metadata).expect("the sample is well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_indirect_needs_but_no_dev_dependencies() {
        let graph = sample(
            &[("a", true, &["b", "dev:d"]), ("b", true, &["c"]), ("xtask", false, &["a"])],
            &[],
        );
        let tree: Vec<&str> = graph.tree(&graph.members["a"]).into_iter().collect();
        assert_eq!(tree, ["b", "c"]);
        assert!(graph.all.contains("d"));
        assert!(graph.members["a"].is_library && !graph.members["xtask"].is_library);
        assert!(!graph.members.contains_key("c"));
    }

    #[test]
    fn features_are_followed() {
        let mut graph = sample(&[("a", true, &[])], &["json", "dep:b", "c/d"]);
        let member = graph.members.get_mut("a").unwrap();
        member.features.insert("json".to_owned(), vec!["more".to_owned()]);
        let on: Vec<&str> = member.turned_on_by("default").into_iter().collect();
        assert_eq!(on, ["b", "default", "json", "more"]);
        assert!(member.turned_on_by("absent").is_empty());
    }

    #[test]
    fn metadata_without_packages_is_an_error() {
        assert!(Graph::read(&serde_json::json!({})).is_err());
    }
}
