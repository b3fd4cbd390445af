//! The folder of one private server.

use std::path::{Path, PathBuf};

use crate::record;

/// Data and output of one server; deleted with it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A name that nobody else has. The folder itself is made by who writes into it.
    pub(crate) fn of(server: &str, port: u16) -> Self {
        let name = format!("{server}-{port}-{}", fastrand::u32(..));
        Self(record::dir().join("private").join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be deleted is under `target`.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
