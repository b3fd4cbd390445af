//! Running a program inside a Debian tree that belongs to its version, with its own state folder.
//!
//! The mounts are in a namespace of the process: nobody else sees them, they end with it, and
//! several processes can use one tree at a time.

use std::path::Path;

use super::launch::Program;

/// Where the state folder of a broker is, seen from inside.
pub(crate) const STATE: &str = "/mnt";

/// The user of a program inside, by number.
pub(crate) const ROOT: &str = "0:0";
/// One who may do nothing, for programs that refuse to run as root.
pub(crate) const NOBODY: &str = "65534:65534";

/// Mounts, changes the root, and becomes the program, which so has the id of what was started.
const ENTER: &str = "mount --bind /proc \"$1/proc\" && mount --bind /dev \"$1/dev\" && \
     mount --bind \"$2\" \"$1/mnt\" && tree=$1 user=$3 && shift 3 && \
     exec chroot --userspec=\"$user\" \"$tree\" \"$@\"";

/// `command` inside `tree`, as `user`, with `state` at [`STATE`].
pub(crate) fn inside(tree: &Path, state: &Path, user: &str, command: &[&str]) -> Program {
    let (tree, state) = (tree.to_string_lossy(), state.to_string_lossy());
    let enter = ["--mount", "sh", "-c", ENTER, "enter", &*tree, &*state, user];
    // A tree has no locale but the plain one.
    Program::new("unshare", enter.iter().chain(command).copied()).env("LC_ALL", "C")
}

/// A file of the state folder, seen from inside.
pub(crate) fn file(name: &str) -> String {
    format!("{STATE}/{name}")
}
