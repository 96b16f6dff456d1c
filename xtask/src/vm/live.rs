//! What machines do: run the live tests, with a backend, or a command of the user's.
//!
//! Invariant: the test program is the one that `cargo xtask test` runs on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::{init::Job, initramfs::Initramfs, platforms::Preemption, results::KnownFailure};
use crate::{
    apt,
    build::{self, Built},
    programs::PROGRAMS,
};

/// What some kernel can't do: prefix of its release, backend, and the test that shows it.
const LIMITS: [(&str, &str, KnownFailure); 0] = [];

/// Tests with many calls make only one in so many of them.
const SCALE: &str = "50";
/// How many random programs are tried.
const SEEDS: &str = "2";

/// The programs that machines have, as files of this one.
#[derive(Clone, Debug)]
pub(super) struct MachinePrograms {
    tracer: PathBuf,
    xtask: PathBuf,
    tests: PathBuf,
}

impl MachinePrograms {
    /// Builds the live tests. The `xtask` that they run is not always this very program: with the
    /// tests, cargo may build it anew.
    pub(super) fn build(built: &Built) -> anyhow::Result<Self> {
        let output = built
            .cargo()
            .arg("test")
            .args(build::TESTED_CRATES)
            .args(["--test", "live", "--no-run", "--quiet"])
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo to build the live tests")?;
        if !output.status.success() {
            bail!("the live tests did not build; the messages above say why");
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let executable = |target| {
            executable_of(target, &messages)
                .with_context(|| format!("cargo does not report where {target} is"))
        };
        Ok(Self {
            tracer: built.program().to_owned(),
            xtask: executable("xtask")?,
            tests: executable("live")?,
        })
    }

    /// A machine's files: these programs, those that the tests run, and a shell.
    pub(super) fn files(&self, busybox: &Path) -> anyhow::Result<Initramfs> {
        let mut files = Initramfs::new(&self.xtask, busybox)?;
        files.program(&self.tests)?;
        for (name, program) in [("ipc-trace", &self.tracer), ("xtask", &self.xtask)] {
            files.program(program)?;
            files.command(name, program)?;
        }
        for (name, package) in PROGRAMS {
            let program = apt::program(name, package)?;
            files.program(&program)?;
            files.command(name, &program)?;
        }
        Ok(files)
    }

    /// The names of all tests.
    pub(super) fn list(&self) -> anyhow::Result<Vec<String>> {
        let output = Command::new(&self.tests)
            .args(["--list", "--format", "terse"])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {}", self.tests.display()))?;
        let text = String::from_utf8(output.stdout).context("the names of the tests")?;
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    }

    /// Running these tests.
    pub(super) fn tests(&self, backend: &str, names: &[&str]) -> Job {
        let argv = [text(&self.tests), "--test-threads=1".to_owned(), "--exact".to_owned()];
        let mut job = self.command(&argv);
        job.argv.extend(names.iter().map(|name| (*name).to_owned()));
        job.env.insert("IPC_TRACE_TEST_BACKEND".to_owned(), backend.to_owned());
        job
    }

    /// Running a command.
    pub(super) fn command(&self, argv: &[String]) -> Job {
        let env = [
            ("IPC_TRACE_BIN", text(&self.tracer)),
            ("IPC_TRACE_TEST_SCALE", SCALE.to_owned()),
            ("IPC_TRACE_TEST_SEEDS", SEEDS.to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        Job { argv: argv.to_owned(), env: BTreeMap::from(env), preemption: Preemption::Default }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The tests that fail on this kernel because of what it is.
pub(super) fn limits(release: &str, backend: &str) -> Vec<KnownFailure> {
    LIMITS
        .iter()
        .filter(|(beginning, of, _)| release.starts_with(beginning) && *of == backend)
        .map(|(_, _, expected)| *expected)
        .collect()
}

/// The executable of a target in cargo's messages.
fn executable_of(target: &str, messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|message| message["target"]["name"] == target && message["executable"].is_string())
        .and_then(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_is_found_in_cargo_messages() {
        let artifact = |target: &str, executable: &str| {
            format!("{{\"target\":{{\"name\":\"{target}\"}},\"executable\":{executable}}}\n")
        };
        let messages = [
            "not json\n".to_owned(),
            artifact("x", "\"/t/x\""),
            artifact("live", "null"),
            artifact("live", "\"/t/live-1\""),
        ]
        .concat();
        assert_eq!(executable_of("live", &messages), Some(PathBuf::from("/t/live-1")));
        assert_eq!(executable_of("other", &messages), None);
    }
}
