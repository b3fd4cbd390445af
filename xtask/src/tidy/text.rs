//! Rules about any text file: white space, and nothing of the machine it was written on.

use super::Finding;
use super::source::{Kind, Source};

/// No line ends with white space; golden files apart.
pub(crate) fn trailing_white_space(source: &Source) -> Vec<Finding> {
    if source.is_golden() {
        return Vec::new();
    }
    let bad = source.lines().filter(|(_, line)| line.ends_with([' ', '\t']));
    bad.map(|(n, _)| Finding::new(&source.path, Some(n), "white space at the end")).collect()
}

/// A file that is not empty ends with a line end; golden files apart.
pub(crate) fn last_line_ends(source: &Source) -> Vec<Finding> {
    if source.is_golden() || source.text.is_empty() || source.text.ends_with('\n') {
        return Vec::new();
    }
    vec![Finding::new(&source.path, None, "no line end at the end of the file")]
}

// The parts are joined so that this file keeps its own rule.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
const TEMPORARY: &str = concat!("/tm", "p/");

/// No path of somebody's machine. The folder for temporary files may be named by tests.
pub(crate) fn no_path_of_a_machine(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut look = |number: usize, line: &str, in_test: bool| {
        let temporary = (!in_test).then_some(&TEMPORARY);
        for path in MACHINE_PATHS.iter().chain(temporary) {
            if has_path(line, path) {
                let message = format!("a path of a machine: {path}");
                findings.push(Finding::new(&source.path, Some(number), message));
            }
        }
    };
    if source.is_rust() {
        source.kinds().for_each(|(number, line, kind)| look(number, line, kind == Kind::Test));
    } else {
        let in_test = source.is_test_file();
        source.lines().for_each(|(number, line)| look(number, line, in_test));
    }
    findings
}

/// Whether `line` has an absolute path that begins so; not as a later part of a path or a URL.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}*".contains(c))
    })
}

const REGISTRIES: &[&str] = &[
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("proxy.golang", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("repo1.maven", ".org"),
    concat!("files.pythonhosted", ".org"),
    concat!("deb.debian", ".org"),
];

/// Where packages come from is the business of each machine: no host of a registry, no web
/// address in a private network, and no change of cargo's source.
pub(crate) fn no_registry(source: &Source) -> Vec<Finding> {
    let cargo_file = source.path.ends_with("Cargo.toml") || source.path.ends_with("config.toml");
    let mut findings = Vec::new();
    for (number, line) in source.lines() {
        let host = REGISTRIES.iter().find(|host| line.contains(*host)).map(ToString::to_string);
        if let Some(host) = host.or_else(|| private_host(line)) {
            let message = format!("a host of a registry or a private network: {host}");
            findings.push(Finding::new(&source.path, Some(number), message));
        }
        let bare = line.trim_start();
        if cargo_file
            && ["[source", "[registr", "replace-with", "registry ="]
                .iter()
                .any(|key| bare.starts_with(key))
        {
            findings.push(Finding::new(&source.path, Some(number), "another source for packages"));
        }
    }
    findings
}

/// The host of a web address in this line that only a private network knows.
fn private_host(line: &str) -> Option<String> {
    let addresses = line.split("http").skip(1).filter_map(|rest| {
        let rest = rest.strip_prefix('s').unwrap_or(rest).strip_prefix("://")?;
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)));
        Some(&rest[..end.unwrap_or(rest.len())])
    });
    let mut private = addresses.filter(|host| {
        let in_172 = host.strip_prefix("172.").and_then(|rest| {
            let second: u8 = rest.split('.').next()?.parse().ok()?;
            Some((16..32).contains(&second))
        });
        let names = [".internal", ".intranet", ".corp", ".lan"];
        host.starts_with("10.")
            || host.starts_with("192.168.")
            || in_172 == Some(true)
            || names.iter().any(|name| host.ends_with(name))
    });
    private.next().map(str::to_owned)
}

/// The lock file names no source but the public index.
pub(crate) fn lock_file_is_public(source: &Source) -> Vec<Finding> {
    const PUBLIC: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    if !source.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let bad = source.lines().filter(|(_, line)| line.starts_with("source = ") && *line != PUBLIC);
    bad.map(|(n, line)| Finding::new(&source.path, Some(n), format!("not public: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<Option<usize>> {
        rule(&Source::new(path, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn white_space_at_the_end_is_found() {
        assert_eq!(lines(trailing_white_space, "a.md", "a\nb \n\t\n"), [Some(2), Some(3)]);
        assert_eq!(lines(last_line_ends, "a.md", "a"), [None]);
        assert!(lines(last_line_ends, "a.md", "a\n").is_empty());
        assert!(lines(last_line_ends, "a.md", "").is_empty());
        assert!(lines(trailing_white_space, "tests/fixtures/a.txt", "a \n").is_empty());
        assert!(lines(last_line_ends, "tests/fixtures/a.txt", "a").is_empty());
    }

    #[test]
    fn paths_of_machines_are_found_and_parts_of_others_are_not() {
        let bad = MACHINE_PATHS.iter().map(|path| format!("see {path}me\n")).collect::<String>();
        assert_eq!(lines(no_path_of_a_machine, "a.md", &bad).len(), MACHINE_PATHS.len());
        let fine = MACHINE_PATHS.iter().map(|path| format!("https://a.b{path}c\n"));
        assert!(lines(no_path_of_a_machine, "a.md", &fine.collect::<String>()).is_empty());
    }

    #[test]
    fn temporary_files_are_for_tests() {
        let code = format!("let a = \"{TEMPORARY}x\";\n");
        assert_eq!(lines(no_path_of_a_machine, "src/a.rs", &code), [Some(1)]);
        assert!(lines(no_path_of_a_machine, "tests/a.rs", &code).is_empty());
        let module = format!("#[cfg(test)]\nmod tests {{\n    {code}}}\n");
        assert!(lines(no_path_of_a_machine, "src/a.rs", &module).is_empty());
    }

    #[test]
    fn registries_and_private_hosts_are_found() {
        for host in REGISTRIES {
            assert_eq!(lines(no_registry, "a.md", &format!("https://{host}/x\n")), [Some(1)]);
        }
        let private = ["10.1.2.3", "192.168.0.1:80", "172.20.0.1", "mirror.corp", "a.internal/x"];
        for host in private {
            let line = format!("url = \"http://{host}\"\n");
            assert_eq!(lines(no_registry, "a.md", &line), [Some(1)], "{host}");
        }
        for host in ["172.32.0.1", "100.1.1.1", "example.org", "a.landing.org"] {
            assert!(lines(no_registry, "a.md", &format!("http://{host}\n")).is_empty(), "{host}");
        }
        let replaced = "[source.crates-io]\nreplace-with = \"x\"\n";
        assert_eq!(lines(no_registry, ".cargo/config.toml", replaced), [Some(1), Some(2)]);
    }

    #[test]
    fn the_lock_file_names_only_the_public_index() {
        let good = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        assert!(lines(lock_file_is_public, "Cargo.lock", good).is_empty());
        let bad = "source = \"registry+https://mirror.example/index\"\n";
        assert_eq!(lines(lock_file_is_public, "Cargo.lock", bad), [Some(1)]);
        assert!(lines(lock_file_is_public, "a.md", bad).is_empty());
    }
}
