//! Programs of a Debian release, in a folder tree of their own: nothing of it reaches the system.
//!
//! `apt` resolves and fetches the packages with lists and state of our own, from the mirror that
//! the system's `apt` knows. They are unpacked only: no script of a package runs, so none can start
//! a service. A program runs inside with the root changed, see [`tree`](crate::brokers::tree).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Wanted, lock, run, tool};
use crate::brokers::table::is_line_of;
use crate::failure::{Context, Result, fail};
use crate::workspace;

/// What every tree has beside its broker: folders, users, a shell and its tools.
const BASE: &[&str] = &["base-files", "base-passwd", "coreutils", "dash"];
/// How old the lists of a release may be: they name files that a mirror deletes some day.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// The tree that has the package.
pub(super) fn find(
    wanted: &Wanted<'_>,
    suite: &str,
    package: &str,
    further: &[&str],
    may_install: bool,
) -> Result<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        return fail(format!(
            "{} needs root: it runs in a Debian tree of its own, by unshare and chroot",
            wanted.title
        ));
    }
    for program in ["unshare", "chroot"] {
        tool(program, &format!("{} runs in a Debian tree of its own", wanted.title))?;
    }
    let tree = wanted.folder.join("tree");
    if !wanted.is_there() {
        for program in ["apt-get", "dpkg-deb", "tar"] {
            tool(program, &format!("{} comes from packages of Debian", wanted.title))?;
        }
        if !may_install {
            let how = format!("`apt-get download` of {package} of Debian {suite}, unpacked");
            return wanted.refused(&how);
        }
        wanted.install(|draft, log| {
            let names: Vec<&str> = BASE.iter().chain([&package]).chain(further).copied().collect();
            let files = fetch(wanted, suite, &names, draft, log)?;
            check_version(&files, package, suite, wanted.version)?;
            unpack(&files, &draft.join("tree"))?;
            let apt = draft.join("apt");
            fs::remove_dir_all(&apt).context(|| format!("deleting {}", apt.display()))
        })?;
    }
    Ok(tree)
}

/// Downloads the packages and all that they need; where they are.
fn fetch(
    wanted: &Wanted<'_>,
    suite: &str,
    names: &[&str],
    draft: &Path,
    log: &Path,
) -> Result<Vec<PathBuf>> {
    let cache = wanted.folder.ancestors().nth(2).unwrap_or(draft);
    let index = Index { folder: cache.join("debian").join(suite) };
    index.refresh(suite, draft, log)?;
    let mut install = index.apt(draft)?;
    run(install.args(["--yes", "--download-only", "install"]).args(names), log)?;
    let archives = draft.join("apt/cache/archives");
    let files = fs::read_dir(&archives).context(|| format!("reading {}", archives.display()))?;
    let mut files: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    files.retain(|file| file.extension() == Some(OsStr::new("deb")));
    files.sort();
    Ok(files)
}

/// The lists of one release, shared by its trees.
struct Index {
    folder: PathBuf,
}

impl Index {
    /// Fetches the lists, unless they are fresh.
    fn refresh(&self, suite: &str, draft: &Path, log: &Path) -> Result<()> {
        let doing = || format!("preparing the lists of Debian {suite}");
        fs::create_dir_all(self.folder.join("lists/partial")).context(doing)?;
        let _lock = lock(&self.folder.join("lock"), suite)?;
        let stamp = self.folder.join("refreshed");
        let age = fs::metadata(&stamp).and_then(|it| it.modified()).map(|at| at.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age < FRESH)) {
            return Ok(());
        }
        let sources = self.folder.join("sources.list");
        let line = format!("deb {} {suite} main\n", mirror()?);
        fs::write(&sources, line).context(doing)?;
        run(self.apt(draft)?.arg("update"), log)?;
        File::create(&stamp).map(drop).context(doing)
    }

    /// A call of `apt-get` that knows only our lists, and no installed package.
    fn apt(&self, draft: &Path) -> Result<Command> {
        let apt = draft.join("apt");
        fs::create_dir_all(apt.join("cache/archives/partial"))
            .and_then(|()| File::create(apt.join("status")).map(drop))
            .context(|| format!("making {}", apt.display()))?;
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C").args(["-qq", "-o", "Dir::Etc::sourceparts=-"]);
        for (option, path) in [
            ("Dir::State", apt.clone()),
            ("Dir::State::status", apt.join("status")),
            ("Dir::State::lists", self.folder.join("lists")),
            ("Dir::Cache", apt.join("cache")),
            ("Dir::Etc::sourcelist", self.folder.join("sources.list")),
        ] {
            command.arg("-o").arg(format!("{option}={}", path.display()));
        }
        for option in [
            "APT::Install-Recommends=false",
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
        ] {
            command.args(["-o", option]);
        }
        Ok(command)
    }
}

/// The mirror of Debian that the system uses.
fn mirror() -> Result<String> {
    let uris = workspace::run(Command::new("apt-get").args(["--print-uris", "update"]))?;
    match mirror_among(&String::from_utf8_lossy(&uris)) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => fail("apt knows no mirror of Debian: this needs a Debian system"),
    }
}

/// Reads `'http://host/debian/dists/bookworm/InRelease' ...`; updates and security are elsewhere.
fn mirror_among(uris: &str) -> Option<&str> {
    let quoted = uris.lines().filter_map(|line| line.strip_prefix('\'')?.split('\'').next());
    let mut mirrors = quoted.filter_map(|uri| Some(uri.split_once("/dists/")?.0));
    mirrors.find(|mirror| mirror.ends_with("/debian"))
}

/// Fails when the release has moved on to another version than ours.
fn check_version(files: &[PathBuf], package: &str, suite: &str, version: &str) -> Result<()> {
    let is_it = |file: &&PathBuf| {
        file.file_name().and_then(OsStr::to_str).and_then(|name| name.split('_').next())
            == Some(package)
    };
    let Some(file) = files.iter().find(is_it) else {
        return fail(format!("apt fetched no {package}"));
    };
    let has = workspace::run(Command::new("dpkg-deb").arg("-f").arg(file).arg("Version"))?;
    let has = String::from_utf8_lossy(&has);
    let has = upstream(has.trim());
    if is_line_of(version, has) {
        return Ok(());
    }
    fail(format!("Debian {suite} has {package} {has} by now, and not {version}"))
}

/// `8.0.2` of `5:8.0.2+dfsg1-3+deb13u1`.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(['-', '+', '~']).next().unwrap_or(version)
}

/// Unpacks the packages into `tree`, and does the little that their scripts would have done and
/// that a server needs.
fn unpack(files: &[PathBuf], tree: &Path) -> Result<()> {
    let doing = || format!("unpacking into {}", tree.display());
    // A release before Debian 13 has packages with a `bin` beside `usr/bin`; they are one.
    for name in ["bin", "sbin", "lib", "lib64"] {
        let target = Path::new("usr").join(name);
        fs::create_dir_all(tree.join(&target)).context(doing)?;
        symlink(&target, tree.join(name)).context(doing)?;
    }
    for name in ["dev", "mnt", "proc", "tmp"] {
        fs::create_dir_all(tree.join(name)).context(doing)?;
    }
    for file in files {
        unpack_one(file, tree)?;
    }
    for name in ["passwd", "group"] {
        let master = tree.join("usr/share/base-passwd").join(format!("{name}.master"));
        fs::copy(&master, tree.join("etc").join(name)).context(doing)?;
    }
    if !tree.join("usr/bin/sh").exists() {
        symlink("dash", tree.join("usr/bin/sh")).context(doing)?;
    }
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n").context(doing)
}

fn unpack_one(file: &Path, tree: &Path) -> Result<()> {
    let doing = || format!("unpacking {}", file.display());
    let mut package = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(doing)?;
    let Some(archive) = package.stdout.take() else { return fail(doing()) };
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--keep-directory-symlink", "-C"]).arg(tree).stdin(archive);
    workspace::run(&mut tar).context(doing)?;
    let status = package.wait().context(doing)?;
    if status.success() { Ok(()) } else { fail(format!("{}: dpkg-deb: {status}", doing())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let uris = "\
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' a 0
'http://other.example/tools/dists/stable/InRelease' b 0
'http://mirror.example/debian/dists/bookworm/InRelease' c 0
";
        assert_eq!(mirror_among(uris), Some("http://mirror.example/debian"));
        assert_eq!(mirror_among("'http://a.example/ubuntu/dists/noble/InRelease' a 0\n"), None);
    }

    #[test]
    fn the_version_of_a_package_is_that_of_its_authors() {
        assert_eq!(upstream("5:8.0.2-3+deb13u1"), "8.0.2");
        assert_eq!(upstream("4.0.5-6"), "4.0.5");
        assert_eq!(upstream("8.1.1+dfsg1-3"), "8.1.1");
        assert_eq!(upstream("1.2"), "1.2");
    }
}
