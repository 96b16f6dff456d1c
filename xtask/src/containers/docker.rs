//! A real Docker daemon with real containers: its socket and its data are the caller's own, and end with
//! it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::image;
use crate::child::ends_with_us;

/// The image that a daemon has from its start.
pub const IMAGE: &str = "ipc-test:latest";
/// The daemon starts and ends within this time, or not at all.
const HANG_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon.
#[derive(Debug)]
pub struct Docker {
    folder: TempDir,
    daemon: Child,
}

impl Docker {
    /// Starts it, with [`IMAGE`], which has busybox and these programs of the host's. `name` distinguishes it from this
    /// process's others.
    ///
    /// # Errors
    ///
    /// When Docker is not installed, or does not start; the error has its log.
    pub fn start(name: &str, programs: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(name).tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let log = fs::File::create(path("log"))?;
        let mut command = Command::new("dockerd");
        command
            .arg("--host")
            .arg(format!("unix://{}", path("docker.sock").display()))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(["--storage-driver=vfs", "--shutdown-timeout=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        ends_with_us(&mut command, Signal::SIGTERM);
        let daemon = command.spawn().context("cannot run dockerd")?;
        let mut docker = Self { folder, daemon };
        let begin = Instant::now();
        while !docker.answers() {
            let ended = docker.daemon.try_wait()?.is_some();
            if ended || begin.elapsed() > HANG_TIMEOUT {
                bail!("Docker does not start: {}", docker.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let tar = image::tar(docker.folder.path(), programs)?;
        docker.run(&["import", &tar.to_string_lossy(), IMAGE])?;
        Ok(docker)
    }

    fn answers(&self) -> bool {
        let version = || self.command(&["version"]).output();
        self.socket().exists() && version().is_ok_and(|output| output.status.success())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// A command of the client.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("--config")
            .arg(self.folder.path().join("config"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(words)
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the client: what it printed.
    ///
    /// # Errors
    ///
    /// When it fails; the error has its messages, and the daemon's log.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context("cannot run docker")?;
        ensure!(
            output.status.success(),
            "docker {words:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(output) = self.command(&["ps", "--all", "--quiet"]).output() {
            let ids = String::from_utf8_lossy(&output.stdout).into_owned();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                let _ = self.command(&[&["rm", "--force"][..], &ids].concat()).output();
            }
        }
        // It ends containerd, which it has started.
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        let begin = Instant::now();
        while self.daemon.try_wait().is_ok_and(|status| status.is_none()) {
            if begin.elapsed() > HANG_TIMEOUT {
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
