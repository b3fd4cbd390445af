//! Java servers: how they start soon.
//!
//! Half of such a start is loading classes. So a server is started once when it is installed, and
//! the classes that it loaded are written to an archive, from which later starts take them. A Java
//! that cannot use the archive starts as it would without one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::launch::{Launch, Site};
use super::ports::Ports;
use super::process;
use crate::failure::{Context, Result};
use crate::wait;

/// The archive, in the folder of what is installed.
const ARCHIVE: &str = "classes.jsa";
const USE: &str = "-XX:SharedArchiveFile=";
const MAKE: &str = "-XX:ArchiveClassesAtExit=";
/// How long a server may take to be up, and to end: it then writes the archive.
const REHEARSAL: Duration = Duration::from_secs(120);

/// The first arguments of a Java program, which must be started in the state folder. One that
/// starts soon is preferred to a fast one.
pub(crate) fn args(site: &Site<'_>, options: &[&str]) -> Result<Vec<String>> {
    // An archive is for the very same class path, so that must not say where things are.
    let libs = site.state.join("libs");
    let doing = || format!("linking {}", libs.display());
    if libs.is_symlink() {
        fs::remove_file(&libs).context(doing)?;
    }
    symlink(site.installed.join("libs"), &libs).context(doing)?;
    let archive = format!("{USE}{}", site.installed.join(ARCHIVE).display());
    let quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", &archive];
    let all = quick.iter().chain(options).chain(&["-cp", "libs/*"]);
    Ok(all.map(|&arg| arg.to_owned()).collect())
}

/// Starts the server in `installed` once, and stops it, for its archive.
pub(crate) fn rehearse(
    installed: &Path,
    log: &Path,
    launch: fn(&Site<'_>) -> Result<Launch>,
) -> Result<()> {
    let state = installed.join("rehearsal");
    let doing = || format!("rehearsing in {}", state.display());
    fs::create_dir_all(&state).context(doing)?;
    let ports = Ports::default().take(2, &[])?;
    let mut server = launch(&Site { installed, state: &state, ports: &ports, log })?.server;
    for arg in &mut server.args {
        if let Some(archive) = arg.strip_prefix(USE) {
            *arg = format!("{MAKE}{archive}");
        }
    }
    let (mut child, process) = process::start(&server, &state, log)?;
    // It has loaded what it needs once it listens. If it never does, there is no archive.
    let ended = wait::until(REHEARSAL, || {
        let is_over = !super::ports::is_free(ports[0]) || !matches!(child.try_wait(), Ok(None));
        is_over.then_some(())
    });
    process::end(&process, REHEARSAL)?;
    child.wait().context(doing)?;
    if ended.is_none() || !installed.join(ARCHIVE).is_file() {
        eprintln!("{}: no archive of classes, so it will start slowly", installed.display());
    }
    fs::remove_dir_all(&state).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_path_is_the_same_wherever_it_is_installed() {
        let folder = std::env::temp_dir().join(format!("posthaste-java-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let ports = [1, 2];
        for name in ["4.2.0.new", "4.2.0"] {
            let installed = folder.join(name);
            let log = folder.join("log");
            let site = Site { installed: &installed, state: &folder, ports: &ports, log: &log };
            let args = args(&site, &["-Xmx1m"]).unwrap();
            assert!(args.ends_with(&["-cp".to_owned(), "libs/*".to_owned()]), "{args:?}");
            assert_eq!(fs::read_link(folder.join("libs")).unwrap(), installed.join("libs"));
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
