//! Programs that `go install` builds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Wanted, on_path, run};
use crate::failure::{Context, Result, fail};

/// The program: from the cache, else from the `PATH` when it is of that version, else built.
pub(super) fn find(
    wanted: &Wanted<'_>,
    module: &str,
    program: &str,
    may_install: bool,
) -> Result<PathBuf> {
    let cached = wanted.folder.join(program);
    if cached.is_file() {
        return Ok(cached);
    }
    if let Some(found) = on_path(program)
        && says_version(&found, wanted.version)
    {
        return Ok(found);
    }
    let Some(go) = go() else {
        return fail(format!(
            "{} is not installed, and `go` is missing, which builds it: see https://go.dev/dl",
            wanted.title
        ));
    };
    let what = format!("{module}@v{}", wanted.version);
    if !may_install {
        return wanted.refused(&format!("`go install {what}`"));
    }
    wanted.install(|draft, log| {
        let mut command = Command::new(&go);
        command.args(["install", "-trimpath", &what]).env("GOBIN", draft).env("CGO_ENABLED", "0");
        run(&mut command, log)?;
        fs::metadata(draft.join(program)).context(|| format!("{what} has no {program}")).map(drop)
    })?;
    Ok(cached)
}

/// The `go` command: on the `PATH`, else where its own instructions put it.
fn go() -> Option<PathBuf> {
    on_path("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|p| p.is_file()))
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
