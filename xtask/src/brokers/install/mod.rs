//! Finding a broker's program, and installing it into a cache folder of our own.
//!
//! Nothing of the system is changed: no package is installed, no service is touched. Each version
//! has a folder of its own, `<cache>/<what>/<version>`, which appears at once and complete.

mod debian;
mod go;
mod maven;
mod npm;

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::launch::{Launch, Site};
use super::process;
use super::table::Entry;
use crate::failure::{Context, Result, fail};
use crate::wait;

/// A download and a build on two slow cores; a minute is usual.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Where a broker comes from, and what [`Site::installed`](super::launch::Site::installed) is then.
pub(crate) enum Install {
    /// `go install module@vVERSION`: the program. One of this name and version on the `PATH` does
    /// too.
    Go { module: &'static str, program: &'static str },
    /// An artifact `group:name` with all that it needs, and further `group:name:version`: a
    /// folder `libs` of jars. The server is started once, by two ports, see [`java`](super::java).
    Maven {
        name: &'static str,
        artifact: &'static str,
        further: &'static [&'static str],
        rehearsal: fn(&Site<'_>) -> Result<Launch>,
    },
    /// A package with all that it needs: a folder with `node_modules`.
    Npm { package: &'static str },
    /// A package of a Debian release, and further ones, with all that they need, unpacked but not
    /// configured: a folder tree to change the root into, which needs root.
    Debian { suite: &'static str, package: &'static str, further: &'static [&'static str] },
}

/// One version of one thing in the cache.
struct Wanted<'a> {
    /// How messages call it: `nats-server 2.15.2`.
    title: String,
    version: &'a str,
    /// Where it is, once it is installed.
    folder: PathBuf,
}

/// The program or folder of `entry`: from the cache, else from the system where that is the same,
/// else installed where that is allowed.
///
/// # Errors
/// Names what is missing: a right, a program, or the leave to install.
pub(crate) fn find(entry: &Entry, may_install: bool) -> Result<PathBuf> {
    let wanted = |name: &str| -> Result<Wanted<'_>> {
        let folder = cache()?.join(name).join(entry.version);
        Ok(Wanted { title: format!("{name} {}", entry.version), version: entry.version, folder })
    };
    match entry.install {
        Install::Go { module, program } => {
            go::find(&wanted(program)?, module, program, may_install)
        }
        Install::Maven { name, artifact, further, rehearsal } => {
            maven::find(&wanted(name)?, artifact, further, rehearsal, may_install)
        }
        Install::Npm { package } => npm::find(&wanted(package)?, package, may_install),
        Install::Debian { suite, package, further } => {
            debian::find(&wanted(package)?, suite, package, further, may_install)
        }
    }
}

/// An executable of this name on the `PATH`, or in the folder for servers, which an ordinary
/// user's `PATH` often lacks.
pub(crate) fn on_path(program: impl AsRef<Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let servers = [PathBuf::from("/usr/sbin")];
    env::split_paths(&path).chain(servers).map(|dir| dir.join(&program)).find(|p| p.is_file())
}

/// The program of the system that is called so.
///
/// # Errors
/// Says that it is missing, and for what.
pub(crate) fn tool(program: &str, reason: &str) -> Result<PathBuf> {
    match on_path(program) {
        Some(path) => Ok(path),
        None => fail(format!("`{program}` is missing: {reason}")),
    }
}

/// Runs a command to its end, with its output at the end of `log`, but not longer than
/// [`PATIENCE`]. The error ends with the last line of the output.
pub(crate) fn run(command: &mut Command, log: &Path) -> Result<()> {
    let doing = || format!("opening {}", log.display());
    let output = File::options().create(true).append(true).open(log).context(doing)?;
    let errors = output.try_clone().context(doing)?;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .context(|| format!("starting {name}"))?;
    let what = match wait::until(PATIENCE, || child.try_wait().transpose()) {
        Some(Ok(status)) if status.success() => return Ok(()),
        Some(Ok(status)) => format!("{name} ended with {status}"),
        Some(Err(error)) => format!("waiting for {name}: {error}"),
        None => {
            // It has ended by itself if it cannot be killed.
            let _ended = child.kill();
            format!("{name} took longer than {} s", PATIENCE.as_secs())
        }
    };
    fail(format!("{what}: {} (see {})", process::tail(log, 1).trim(), log.display()))
}

impl Wanted<'_> {
    /// Whether it is in the cache.
    fn is_there(&self) -> bool {
        self.folder.is_dir()
    }

    /// Installs it, unless another process did so in between: `make` fills an empty folder, and
    /// may write to a log. Whoever else wants the same waits.
    fn install(&self, make: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        let parent = self.folder.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).context(|| format!("making {}", parent.display()))?;
        let _lock = lock(&parent.join(format!("{}.lock", self.version)), &self.title)?;
        if self.is_there() {
            return Ok(());
        }
        eprintln!("installing {} into {}", self.title, self.folder.display());
        let draft = parent.join(format!("{}.new", self.version));
        let log = parent.join(format!("{}.log", self.version));
        // What an interrupted installation left is of no use.
        empty(&draft).and_then(|()| File::create(&log).map(drop)).context(|| self.title.clone())?;
        make(&draft, &log).context(|| format!("installing {}", self.title))?;
        fs::rename(&draft, &self.folder)
            .context(|| format!("moving {} into {}", self.title, self.folder.display()))
    }

    /// The error of a machine on which nothing may be installed.
    fn refused<T>(&self, how: &str) -> Result<T> {
        fail(format!(
            "{} is not installed: give --install (or set CI=true), which runs {how} into {}",
            self.title,
            self.folder.display()
        ))
    }
}

/// Takes the lock in `path`, whose holder is bounded in time itself.
pub(crate) fn lock(path: &Path, what: &str) -> Result<File> {
    let file = File::create(path).context(|| format!("opening {}", path.display()))?;
    // The holder may install and start; then it is our turn.
    let taken = wait::until(PATIENCE * 2, || match file.try_lock() {
        Ok(()) => Some(Ok(())),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => Some(Err(error)),
    });
    match taken {
        Some(taken) => taken.map(|()| file).context(|| format!("locking {}", path.display())),
        None => fail(format!("{what}: another process does not let go of {}", path.display())),
    }
}

/// Makes `folder` an empty one.
fn empty(folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)
}

/// `$XDG_CACHE_HOME/posthaste`, else `~/.cache/posthaste`.
fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    match absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache"))) {
        Some(folder) => Ok(folder.join("posthaste")),
        None => fail("no cache folder: set HOME or XDG_CACHE_HOME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> Wanted<'static> {
        let folder = env::temp_dir().join(format!("posthaste-{name}-{}", std::process::id()));
        let _nothing = fs::remove_dir_all(&folder);
        Wanted { title: "thing 1.2".to_owned(), version: "1.2", folder: folder.join("1.2") }
    }

    #[test]
    fn what_is_installed_appears_complete_or_not_at_all() {
        let wanted = wanted("install");
        let failed = wanted.install(|draft, log| {
            fs::write(draft.join("half"), "").unwrap();
            run(Command::new("/bin/sh").args(["-c", "echo first; echo no space; exit 3"]), log)
        });
        let reason = failed.unwrap_err().to_string();
        assert!(reason.contains("thing 1.2") && reason.contains("no space"), "{reason}");
        assert!(!reason.contains("first") && !reason.contains('\n'), "{reason}");
        assert!(!wanted.is_there());
        let whole = |draft: &Path, _: &Path| {
            fs::write(draft.join("whole"), "").context(|| "writing".to_owned())
        };
        wanted.install(whole).unwrap();
        assert!(wanted.folder.join("whole").is_file() && !wanted.folder.join("half").exists());
        wanted.install(|_, _| fail("it is there already")).unwrap();
        fs::remove_dir_all(wanted.folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_missing_program_is_named_with_its_purpose() {
        let reason = tool("no-such-program", "it is for this test").unwrap_err().to_string();
        assert_eq!(reason, "`no-such-program` is missing: it is for this test");
    }
}
