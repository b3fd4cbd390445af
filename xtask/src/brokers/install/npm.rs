//! Programs of the npm registry.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Wanted, run, tool};
use crate::failure::{Context, Result, fail};

/// The folder whose `node_modules` has the package.
pub(super) fn find(wanted: &Wanted<'_>, package: &str, may_install: bool) -> Result<PathBuf> {
    tool("node", &format!("{} runs on Node 20 or later", wanted.title))?;
    if !wanted.is_there() {
        let npm = tool("npm", &format!("{} comes as a package of npm", wanted.title))?;
        let what = format!("{package}@{}", wanted.version);
        if !may_install {
            return wanted.refused(&format!("`npm install {what}`"));
        }
        wanted.install(|draft, log| {
            let manifest = draft.join("package.json");
            fs::write(&manifest, "{\"private\":true}\n")
                .context(|| format!("writing {}", manifest.display()))?;
            let mut command = Command::new(&npm);
            command.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", &what]);
            run(command.current_dir(draft), log)?;
            let installed = draft.join("node_modules").join(package);
            if installed.is_dir() { Ok(()) } else { fail(format!("npm brought no {package}")) }
        })?;
    }
    Ok(wanted.folder.clone())
}
