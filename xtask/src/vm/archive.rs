//! Debian's archive, read by a private apt.
//!
//! Invariant: this machine's sources, lists and caches stay unchanged. Its configuration names the
//! mirror and how to reach it, so nothing here names a host.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::deb822::{Stanza, stanzas};
use crate::apt::Apt;

/// The keys of Debian's archive, by the names that its releases have them under.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// One suite of Debian's archive.
#[derive(Debug)]
pub(super) struct Archive {
    home: PathBuf,
}

impl Archive {
    /// Fetches the suite's list of packages into `home`, unless it is still the same.
    ///
    /// # Errors
    ///
    /// When the mirror is not known or can't be reached.
    pub(super) fn open(suite: &str, home: &Path) -> anyhow::Result<Self> {
        let archive = Self { home: home.to_owned() };
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            let folder = home.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let sources = format!("deb [{}] {} {suite} main\n", options(), mirror()?);
        archive.write("sources.list", &sources)?;
        archive.write("state/status", "")?;
        archive.write("apt.conf", &archive.configuration(&machine_configuration()?))?;
        // Without the mode, apt calls it a success when it could fetch nothing.
        archive.run("apt-get", &["-qq", "-o", "APT::Update::Error-Mode=any", "update"])?;
        Ok(archive)
    }

    /// The suite's record of a package.
    pub(super) fn show(&self, package: &str) -> anyhow::Result<Stanza> {
        let text = self.run("apt-cache", &["show", "--no-all-versions", package])?;
        stanzas(&text).into_iter().next().with_context(|| format!("there is no {package}"))
    }

    /// Fetches a package and hands `read` the one file in it whose path matches `pattern`.
    pub(super) fn file_of(&self, package: &str, pattern: &str) -> anyhow::Result<Vec<u8>> {
        let folder = self.home.join("download");
        // Of a run that was interrupted.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        self.command("apt-get", &["-qq", "download", package])
            .current_dir(&folder)
            .status()
            .ok()
            .filter(std::process::ExitStatus::success)
            .with_context(|| format!("apt-get could not download {package}"))?;
        let deb = fs::read_dir(&folder)?.next().context("apt-get downloaded nothing")??.path();
        let bytes = extract(&deb, pattern);
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
        bytes.with_context(|| format!("cannot take {pattern} out of {package}"))
    }

    /// apt's private paths, after the machine's settings of how to reach its mirror. The machine's other
    /// settings are left out: among them are commands to run.
    fn configuration(&self, machine: &str) -> String {
        let home = self.home.display();
        let mut text = mirror_access(machine);
        for (name, value) in [
            ("Dir::Etc::parts", "/dev/null".to_owned()),
            ("Dir::Etc::main", "/dev/null".to_owned()),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::sourcelist", format!("{home}/sources.list")),
            ("Dir::State", format!("{home}/state")),
            ("Dir::State::status", format!("{home}/state/status")),
            ("Dir::Cache", format!("{home}/cache")),
            ("APT::Install-Recommends", "false".to_owned()),
            // The folders are this user's alone.
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
            ("Acquire::Retries", "2".to_owned()),
        ] {
            text.push_str(&format!("{name} \"{value}\";\n"));
        }
        text
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.home.join(name);
        // A proxy's password may be in it.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).env("APT_CONFIG", self.home.join("apt.conf"));
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        output(self.command(program, args).stderr(Stdio::inherit()))
    }
}

/// The mirror of Debian's archive that this machine installs from.
fn mirror() -> anyhow::Result<String> {
    let targets = || output(Command::new("apt-get").arg("indextargets").stdin(Stdio::null()));
    if let Some(uri) = mirror_in(&targets()?) {
        return Ok(uri);
    }
    // apt names only those lists that it has.
    if nix::unistd::geteuid().is_root() {
        Apt::default().update()?;
    }
    mirror_in(&targets()?).context(
        "apt-get indextargets names no mirror of Debian; is this Debian, and has `apt-get update` \
         run?",
    )
}

fn mirror_in(targets: &str) -> Option<String> {
    stanzas(targets)
        .iter()
        .find(|target| {
            // Security updates say "Debian-Security", backports "Debian Backports".
            target.get("Origin") == Some("Debian")
                && target.get("Label") == Some("Debian")
                && target.get("Component") == Some("main")
        })
        .and_then(|target| target.get("Repo-URI"))
        .map(str::to_owned)
}

fn options() -> String {
    let mut options = "arch=amd64".to_owned();
    if let Some(keyring) = KEYRINGS.iter().find(|path| Path::new(path).exists()) {
        options.push_str(&format!(" signed-by={keyring}"));
    }
    options
}

fn machine_configuration() -> anyhow::Result<String> {
    output(Command::new("apt-config").arg("dump").stdin(Stdio::null()))
}

/// The lines of `apt-config dump` about how files are fetched: proxies, certificates, retries.
fn mirror_access(dump: &str) -> String {
    const ELSEWHERE: [&str; 4] = ["IndexTargets", "Changelogs", "CompressionTypes", "Languages"];
    let mut lines = String::new();
    for line in dump.lines() {
        let wanted = line.strip_prefix("Acquire::").is_some_and(|rest| {
            !ELSEWHERE.iter().any(|prefix| rest.starts_with(prefix)) && !rest.ends_with(" \"\";")
        });
        if wanted {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        bail!("{name} {} ended with {}", words.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The contents of the file in a package.
fn extract(deb: &Path, pattern: &str) -> anyhow::Result<Vec<u8>> {
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let tar = unpack.stdout.take().context("dpkg-deb has no output")?;
    let output = Command::new("tar")
        .args(["--extract", "--to-stdout", "--wildcards", pattern])
        .stdin(tar)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run tar")?;
    let unpacked = unpack.wait().context("cannot wait for dpkg-deb")?;
    if !unpacked.success() || !output.status.success() || output.stdout.is_empty() {
        bail!("it is not in {}", deb.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_the_one_of_the_main_archive() {
        let targets = "Origin: Debian\nLabel: Debian-Security\nComponent: main\n\
                       Repo-URI: http://mirror.test/security/\n\n\
                       Origin: Somebody\nLabel: Debian\nComponent: main\n\
                       Repo-URI: http://other.test/\n\n\
                       Origin: Debian\nLabel: Debian\nComponent: contrib\n\
                       Repo-URI: http://mirror.test/contrib/\n\n\
                       Origin: Debian\nLabel: Debian\nComponent: main\n\
                       Repo-URI: http://mirror.test/debian/\n";
        assert_eq!(mirror_in(targets).as_deref(), Some("http://mirror.test/debian/"));
        assert_eq!(mirror_in(""), None);
    }

    #[test]
    fn only_mirror_access_is_kept_of_the_configuration() {
        let dump = "APT::Update::Post-Invoke:: \"rm something\";\n\
                    Acquire \"\";\n\
                    Acquire::http \"\";\n\
                    Acquire::http::Proxy \"http://proxy.test:3128\";\n\
                    Acquire::IndexTargets::deb::Packages::Optional \"0\";\n\
                    Acquire::Languages:: \"de\";\n\
                    Dir::Etc \"etc/apt\";\n";
        let kept = "Acquire::http::Proxy \"http://proxy.test:3128\";\n";
        assert_eq!(mirror_access(dump), kept);
    }
}
