//! Real Podman: its images, containers and socket are the test's own, and end with it.

use std::{
    fs,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::containers;

use super::{PROGRAMS, by_id, of_container};
use crate::tracer::{LiveTracer, ReportTracer, TestProcess, eventually, of_type, text};

const IMAGE: &str = "localhost/ipc-test:latest";

/// Podman with a service that answers at a socket.
struct Podman {
    folder: TempDir,
    service: Option<TestProcess>,
}

impl Podman {
    fn start(name: &str) -> Self {
        let mut podman = Self {
            folder: tempfile::Builder::new().prefix(name).tempdir().unwrap(),
            service: None,
        };
        let tar = containers::image(podman.folder.path(), &PROGRAMS).unwrap();
        podman.run(&["import", tar.to_str().unwrap(), IMAGE]);
        let socket = podman.folder.path().join("podman.sock");
        let url = format!("unix://{}", socket.display());
        let service = podman.command(&["system", "service", "--time", "0", &url]);
        podman.service = Some(TestProcess::start(service));
        assert!(eventually(|| socket.exists()), "there is no socket");
        podman
    }

    fn command(&self, words: &[&str]) -> Command {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("podman");
        command.arg("--root").arg(path("root")).arg("--runroot").arg(path("run"));
        command.arg("--tmpdir").arg(path("tmp")).args(["--storage-driver", "vfs"]);
        // Neither needs systemd; crun does not know hosts with both versions of cgroups.
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.args(["--runtime", "runc"]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command: what it printed.
    fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "podman {words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The words that run a container. The limits are what any machine allows.
    fn container<'a>(verb: &'a [&'a str], name: &'a str) -> Vec<&'a str> {
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        [verb, &["--network", "none", "--name", name], &limits].concat()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all", "--force", "--time", "0"]).output();
        if let Some(service) = self.service.take() {
            service.signal(Signal::SIGTERM);
            service.join();
        }
    }
}

#[test]
fn podman_containers_have_ids_and_names() {
    let podman = Podman::start("podman");
    let socket = podman.folder.path().join("podman.sock");
    let options = ["--runtime-socket".to_owned(), format!("podman={}", socket.display())];
    let options = options.each_ref().map(String::as_str);
    let live = LiveTracer::start(&options);
    let report = ReportTracer::start(&options);
    let ids = ["short0", "short1", "short2"].map(|name| {
        let file = podman.folder.path().join(name);
        let verb = ["run", "--rm", "--cidfile", file.to_str().unwrap()];
        let words = Podman::container(&verb, name);
        podman.run(&[&words[..], &[IMAGE, "ipcmk", "--queue"]].concat());
        (fs::read_to_string(file).unwrap(), name)
    });
    let long = Podman::container(&["run", "--detach", "--ipc", "host"], "long");
    let long = podman.run(&[&long[..], &[IMAGE, "sleep", "3600"]].concat());
    podman.run(&["exec", "long", "ipcs"]);
    let (lines, report) = (live.end(), report.end());

    for (id, name) in &ids {
        let calls = of_type(&lines, "ipc").into_iter();
        let calls: Vec<_> = calls.filter(|call| call["container"]["id"] == **id).collect();
        let [call] = calls[..] else { panic!("{name}: {calls:?}") };
        assert_eq!((&call["op"], &call["process"]["comm"]), (&json!("msgget"), &json!("ipcmk")));
        let [namespace] = of_container(&report, id)[..] else { panic!("{report}") };
        let container: &Value = by_id(&namespace["containers"])[id.as_str()];
        let facts = ["runtime", "name", "image"].map(|fact| &container[fact]);
        assert_eq!(facts, [&json!("podman"), &json!(name), &json!(IMAGE)]);
    }
    let [host] = of_container(&report, long.trim_end())[..] else { panic!("{report}") };
    assert_eq!(host["host"], true);
    // Podman 4.3 does not report that it was configured so.
    assert_ne!(host["sharing"], "undeclared", "{host}");
}
