//! Debian's packages, installed into this machine.
//!
//! Invariant: `apt-get update` runs only when there is no other way to a package.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// apt, and what it has been asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    installed: Vec<Vec<String>>,
    updated: bool,
}

impl Apt {
    /// Installs packages. `apt-get update` runs only when that fails, or when the same packages
    /// are asked for again because what is installed of them is too old.
    ///
    /// Returns false when it has done all this before.
    pub(crate) fn install(&mut self, packages: &[String]) -> anyhow::Result<bool> {
        let again = self.installed.iter().any(|done| done == packages);
        if again && self.updated {
            return Ok(false);
        }
        self.installed.push(packages.to_vec());
        if !again && apt_get_install(packages)? {
            return Ok(true);
        }
        if !self.updated {
            self.update()?;
            if apt_get_install(packages)? {
                return Ok(true);
            }
        }
        bail!("apt-get could not install {}; its messages above say why", packages.join(", "));
    }

    /// Installs the package of `what`, which is missing.
    ///
    /// # Errors
    ///
    /// When it can't be installed from here; the error says how to.
    pub(crate) fn obtain(&mut self, what: &str, package: &str) -> anyhow::Result<()> {
        if find_on_path("apt-get").is_none() {
            bail!("{what} is not installed, and there is no apt-get to install it with");
        }
        if !nix::unistd::geteuid().is_root() {
            bail!(
                "{what} is not installed. Run:\n    \
                 sudo apt-get install --no-install-recommends {package}"
            );
        }
        self.install(&[package.to_owned()]).map(|_| ())
    }

    /// Fetches the lists of packages. A failure shows later.
    pub(crate) fn update(&mut self) -> anyhow::Result<()> {
        run_apt_get(&["update"])?;
        self.updated = true;
        Ok(())
    }
}

fn apt_get_install(packages: &[String]) -> anyhow::Result<bool> {
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages.iter().map(String::as_str));
    run_apt_get(&args)
}

fn run_apt_get(args: &[&str]) -> anyhow::Result<bool> {
    eprintln!("xtask: apt-get {}", args.join(" "));
    let status = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run apt-get")?;
    Ok(status.success())
}

/// The program of that name, from a package of Debian when it is not there yet.
///
/// # Errors
///
/// When it can't be installed from here; the error says how to.
pub(crate) fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = find_on_path(name) {
        return Ok(path);
    }
    Apt::default().obtain(name, package)?;
    find_on_path(name).with_context(|| format!("{package} is installed, but {name} is not on PATH"))
}

/// The executable of that name on `PATH`.
#[must_use]
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
