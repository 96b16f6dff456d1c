//! Cgroups with the names that container runtimes give them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The mount point of the hierarchy that identifies containers: that of `pids` in version 1, which hybrid
/// hosts have beside version 2, else version 2.
///
/// # Errors
///
/// When there is neither.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mounted = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let (kind, options) = (kind.next()?, kind.nth(1)?);
            wanted(kind, options).then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
        })
    };
    let pids = |kind: &str, options: &str| {
        kind == "cgroup" && options.split(',').any(|option| option == "pids")
    };
    mounted(&pids)
        .or_else(|| mounted(&|kind, _| kind == "cgroup2"))
        .context("no cgroups are mounted")
}

/// A cgroup that ends with this value, as do those above it that are empty then.
#[derive(Debug)]
pub struct TestCgroup {
    root: PathBuf,
    path: PathBuf,
}

impl TestCgroup {
    /// Makes it, at a path below the hierarchy's root.
    ///
    /// # Errors
    ///
    /// When the kernel does not let us.
    pub fn make(path: &str) -> Result<Self> {
        let root = hierarchy()?;
        let path = root.join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { root, path })
    }

    /// The file that moves processes there: their PIDs are written to it, and 0 for the writer itself.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Moves a process there.
    ///
    /// # Errors
    ///
    /// When the kernel does not let us.
    pub fn take(&self, pid: u32) -> Result<()> {
        let procs = self.procs();
        fs::write(&procs, pid.to_string())
            .with_context(|| format!("cannot write {}", procs.display()))
    }

    /// Moves the calling process there.
    ///
    /// # Errors
    ///
    /// When the kernel does not let us.
    pub fn join(&self) -> Result<()> {
        self.take(0)
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // Who is still there, because something failed, goes first.
        for pid in fs::read_to_string(self.procs()).unwrap_or_default().lines() {
            let _ = fs::write(self.root.join("cgroup.procs"), pid);
        }
        let mut path: &Path = &self.path;
        // This fails for one that others use under that runtime's name.
        while path != self.root && fs::remove_dir(path).is_ok() {
            let Some(parent) = path.parent() else { break };
            path = parent;
        }
    }
}
