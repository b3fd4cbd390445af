//! Finding a broker's program, and installing it into a cache folder of our own.
//!
//! Nothing of the system is changed: no package is installed, no service is touched.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::table::{Entry, Install};
use crate::failure::{Context, Result, fail};
use crate::wait;

/// A download and a build on two slow cores; 40 s is usual.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The executable of `entry`: from the cache, else from the `PATH` when it is of that version,
/// else installed where that is allowed.
///
/// # Errors
/// Says what to install, where `may_install` is false.
pub(crate) fn program(entry: &Entry, may_install: bool) -> Result<PathBuf> {
    let Install::Go { module, program } = entry.install;
    let folder = cache()?.join(program).join(entry.version);
    let cached = folder.join(program);
    if cached.is_file() {
        return Ok(cached);
    }
    if let Some(found) = on_path(program)
        && says_version(&found, entry.version)
    {
        return Ok(found);
    }
    let what = format!("{module}@v{}", entry.version);
    let go = go();
    if !may_install {
        let first = if go.is_none() { "install Go (https://go.dev/dl), then " } else { "" };
        return fail(format!(
            "{program} {} is not installed: {first}give --install (or set CI=true), which runs \
             `go install {what}` into {}",
            entry.version,
            folder.display()
        ));
    }
    let Some(go) = go else {
        return fail(format!("`go install {what}` needs Go: see https://go.dev/dl"));
    };
    eprintln!("installing {program} {} into {}", entry.version, folder.display());
    go_install(&go, &what, program, &folder)?;
    Ok(cached)
}

/// `$XDG_CACHE_HOME/posthaste`, else `~/.cache/posthaste`.
fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    match absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache"))) {
        Some(folder) => Ok(folder.join("posthaste")),
        None => fail("no cache folder: set HOME or XDG_CACHE_HOME"),
    }
}

/// Builds into a folder beside the final one, which then appears at once and complete.
fn go_install(go: &Path, what: &str, program: &str, folder: &Path) -> Result<()> {
    let draft = folder.with_extension(format!("new{}", std::process::id()));
    fs::create_dir_all(&draft).context(|| format!("making {}", draft.display()))?;
    let mut child = Command::new(go)
        .args(["install", "-trimpath", what])
        .env("GOBIN", &draft)
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context(|| format!("starting {}", go.display()))?;
    let ended = wait::until(PATIENCE, || child.try_wait().transpose());
    let outcome = match ended {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => fail(format!("`go install {what}` ended with {status}")),
        Some(Err(error)) => Err(error).context(|| format!("waiting for `go install {what}`")),
        None => {
            // It has ended by itself if it cannot be killed.
            let _ended = child.kill();
            fail(format!("`go install {what}` took longer than {} s", PATIENCE.as_secs()))
        }
    };
    let outcome = outcome.and_then(|()| {
        fs::create_dir_all(folder)
            .and_then(|()| fs::rename(draft.join(program), folder.join(program)))
            .context(|| format!("moving {program} into {}", folder.display()))
    });
    // What is left of the draft is of no use, and no reason to fail.
    let _left = fs::remove_dir_all(&draft);
    outcome
}

/// The `go` command: on the `PATH`, else where its own instructions put it.
fn go() -> Option<PathBuf> {
    on_path("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|p| p.is_file()))
}

/// An executable of this name on the `PATH`, or in the folder for servers, which an ordinary
/// user's `PATH` often lacks.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let servers = [PathBuf::from("/usr/sbin")];
    env::split_paths(&path).chain(servers).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// Whether `program --version` names exactly this version.
fn says_version(program: &Path, version: &str) -> bool {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    output.is_ok_and(|output| names_version(&String::from_utf8_lossy(&output.stdout), version))
}

fn names_version(text: &str, version: &str) -> bool {
    text.split_whitespace().any(|word| word.trim_start_matches('v') == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_another_version_is_not_taken() {
        assert!(names_version("nats-server: v2.9.10\n", "2.9.10"));
        assert!(!names_version("nats-server: v2.9.100\n", "2.9.10"));
        assert!(!names_version("nats-server: v2.15.2\n", "2.9.10"));
    }
}
