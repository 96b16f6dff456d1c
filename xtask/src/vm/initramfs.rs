//! The file system that a virtual machine starts with, which is all that it has.
//!
//! Invariant: a program lies where it lies on this machine, with the shared libraries that it is
//! linked with, so that it finds what it expects at the paths that it was built with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::{
    cpio::CpioWriter,
    init::{self, Job},
};

/// What busybox is asked for under its own names, by tests and workloads.
const APPLETS: [&str; 8] = ["sh", "cat", "echo", "ls", "mount", "sleep", "stty", "true"];

/// The files of a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Initramfs {
    /// Absolute paths, and the files of this machine whose contents they have.
    files: BTreeMap<String, PathBuf>,
    links: BTreeMap<String, String>,
}

impl Initramfs {
    /// A machine with a shell, and with `xtask` as its first program.
    pub(crate) fn new(xtask: &Path, busybox: &Path) -> anyhow::Result<Self> {
        let mut machine = Self::default();
        machine.program(xtask)?;
        machine.links.insert(init::PATH.to_owned(), text(xtask)?);
        machine.files.insert("/bin/busybox".to_owned(), busybox.to_owned());
        for applet in APPLETS {
            machine.links.insert(format!("/bin/{applet}"), "busybox".to_owned());
        }
        Ok(machine)
    }

    /// Adds a program and the libraries that it needs.
    pub(crate) fn program(&mut self, path: &Path) -> anyhow::Result<()> {
        for file in libraries(path)?.into_iter().chain([path.to_owned()]) {
            self.files.insert(text(&file)?, file);
        }
        Ok(())
    }

    /// Makes a program run by this name.
    pub(crate) fn command(&mut self, name: &str, program: &Path) -> anyhow::Result<()> {
        self.links.insert(format!("{}/{name}", init::COMMANDS), text(program)?);
        Ok(())
    }

    /// Writes the archive for a machine that is to do `job`.
    pub(super) fn write(&self, job: &Job, to: &Path) -> anyhow::Result<()> {
        let name = || format!("cannot write {}", to.display());
        let mut archive = CpioWriter::new(BufWriter::new(File::create(to).with_context(name)?));
        let job = serde_json::to_vec(job)?;
        for directory in self.directories() {
            archive.directory(&directory).with_context(name)?;
        }
        archive.console("dev/console").with_context(name)?;
        archive.file(relative(init::JOB), &job).with_context(name)?;
        archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n").with_context(name)?;
        for (path, from) in &self.files {
            let contents =
                fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            archive.file(relative(path), &contents).with_context(name)?;
        }
        for (path, target) in &self.links {
            archive.link(relative(path), target).with_context(name)?;
        }
        archive.finish().with_context(name)?;
        Ok(())
    }

    /// The directories of all files, those above before those below.
    fn directories(&self) -> BTreeSet<String> {
        let mounts = init::MOUNTS.iter().map(|mount| mount.to);
        let mut all: BTreeSet<_> = ["dev", "etc", "proc", "sys", "tmp"].map(str::to_owned).into();
        for path in self.files.keys().chain(self.links.keys()).map(String::as_str).chain(mounts) {
            let above = Path::new(relative(path)).ancestors().skip(1);
            all.extend(
                above.filter_map(Path::to_str).filter(|name| !name.is_empty()).map(str::to_owned),
            );
        }
        all
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn text(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) if path.is_absolute() => Ok(text.to_owned()),
        Some(_) | None => bail!("{} is no absolute path in UTF-8", path.display()),
    }
}

/// The shared libraries that the loader finds for a program, including the loader itself.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        // cargo's, with which other libraries might be found than in the machine.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .output()
        .context("cannot run ldd")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !errors.contains("not a dynamic executable") {
        bail!("ldd {}: {}", program.display(), errors.trim());
    }
    libraries_in(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("the libraries of {}", program.display()))
}

/// Reads what ldd prints: `name => /path (0x…)`, `/path (0x…)`, `name (0x…)` for what the kernel
/// itself brings, `name => not found`.
fn libraries_in(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place == "not found" {
            bail!("{name} is not found");
        }
        if let Some((path, _)) = place.split_once(" (0x")
            && path.starts_with('/')
        {
            all.push(path.into());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_paths() {
        let text = "\tlinux-vdso.so.1 (0x00007f83cd831000)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f83cd01e000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f83cd833000)\n";
        let found = libraries_in(text).unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from));
        assert_eq!(libraries_in("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        let error = libraries_in("\tlibx.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libx.so.1"));
    }

    #[test]
    fn directories_come_before_what_lies_in_them() {
        let mut machine = Initramfs::default();
        machine.links.insert("/a/b/c".to_owned(), "target".to_owned());
        let directories: Vec<_> = machine.directories().into_iter().collect();
        let at = |name: &str| directories.iter().position(|one| one == name).unwrap();
        assert!(at("a") < at("a/b"));
        assert!(!directories.iter().any(|name| name == "a/b/c"));
    }
}
