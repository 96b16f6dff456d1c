//! Folders for what is needed for a while.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

/// A folder of its own, which ends with this value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it. `name` tells it from this process's others.
    ///
    /// # Errors
    ///
    /// When there is one already, or it can't be made.
    pub fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("ipc-trace-{name}-{}", process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is of no use to anybody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
