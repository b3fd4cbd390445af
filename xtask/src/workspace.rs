//! Where things are in this checkout, and how to ask cargo and git about them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::failure::{Context, Result, fail};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Set by `cargo run`; the compiled-in value serves a program that is started directly.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
    })
}

/// `target/brokers`: records, data and logs of the brokers for development.
pub(crate) fn brokers_dir() -> PathBuf {
    root().join("target").join("brokers")
}

/// A call of the cargo that runs us, at the root, without input.
pub(crate) fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    // What `cargo run` set for us would be taken for the child's own; build scripts that look at
    // it would run again, each time that cargo is called in the other way.
    for (name, _) in env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|ours| name.starts_with(ours))
        });
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo metadata` with every feature on.
pub(crate) fn metadata() -> Result<Value> {
    let output = run(cargo().args(["metadata", "--format-version", "1", "--all-features"]))?;
    serde_json::from_slice(&output).context(|| "reading the output of cargo metadata".to_owned())
}

/// Every file that is tracked or could be: what git ignores is left out. Paths are relative to
/// the root; a file that is deleted but not yet committed as such is left out too.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root()).stdin(Stdio::null()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let output = run(&mut git)?;
    let listed = String::from_utf8(output).context(|| "a file name is not UTF-8".to_owned())?;
    let mut files: Vec<PathBuf> = listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Whether `CI` says that this is a machine for tests, on which we may install.
pub(crate) fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// The value of an environment variable; empty counts as unset.
pub(crate) fn env_text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs a short command and gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(|| format!("starting {name}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        fail(format!("{name} ended with {}: {}", output.status, said.trim()))
    }
}
