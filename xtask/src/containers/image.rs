//! What containers are made of.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::apt;

/// An archive of busybox and these programs of the host's with their libraries, in a folder.
///
/// # Errors
///
/// When one of them is not on `PATH`, or can't be copied.
pub fn tar(folder: &Path, programs: &[&str]) -> Result<PathBuf> {
    let root = folder.join("image");
    let on_path = |name| apt::find_on_path(name).with_context(|| format!("{name} is not on PATH"));
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    fs::copy(on_path("busybox")?, bin.join("busybox"))?;
    for name in ["sh", "sleep"] {
        symlink("busybox", bin.join(name))?;
    }
    for name in programs {
        let path = on_path(name)?;
        let libraries = Command::new("ldd").arg(&path).output().context("cannot run ldd")?;
        add(&root, &path)?;
        let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            add(&root, Path::new(word))?;
        }
    }
    let tar = folder.join("image.tar");
    let made = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
    ensure!(made.context("cannot run tar")?.success(), "tar could not write {}", tar.display());
    Ok(tar)
}

/// Copies a file to its place below a folder.
fn add(root: &Path, from: &Path) -> Result<()> {
    let to = root.join(from.strip_prefix("/")?);
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
