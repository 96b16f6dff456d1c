//! Extensions of ipc-trace: a sink, a class of findings and a member of an event each need few files, and no other
//! file must know of them.
//!
//! Each is a patch beside this file. It is applied to a copy of the sources in `target/extend`, and the result
//! must build, tests included. If a patch no longer applies, make the change in the sources again, and store the
//! output of `git diff`.
//!
//! Invariant: the sources themselves are only read.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// What is copied: the workspace, as far as a build needs it.
const SOURCES: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    "docs",
    "ipc-trace",
    "ipc-trace-common",
    "ipc-trace-ebpf",
    "xtask",
];
/// The eBPF programs, as the workspace has built it: variables, and files in `target/ebpf`.
const OBJECTS: [(&str, &str); 2] =
    [("IPC_TRACE_EBPF_PLAIN", "plain.o"), ("IPC_TRACE_EBPF_PROBE", "probe.o")];

/// There is one copy of the sources.
static COPY: Mutex<()> = Mutex::new(());

#[test]
fn sink_needs_two_files() {
    extend("sink", 2);
}

#[test]
fn class_of_findings_needs_two_files() {
    extend("class", 2);
}

#[test]
fn event_member_needs_three_files() {
    extend("field", 3);
}

/// Applies a patch to a copy of the sources, and builds the result. The patch may change at most so many files.
fn extend(name: &str, most: usize) {
    let _alone = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let patch = root.join(format!("xtask/tests/extend/{name}.patch"));
    let place = root.join("target/extend");
    let sources = copy_of(root, &place);

    let git = |word: &str| {
        let mut git = Command::new("git");
        // Whatever repository is around it is not the copy's.
        git.current_dir(&sources).env("GIT_CEILING_DIRECTORIES", &place);
        git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE");
        git.args(["apply", word]).arg(&patch);
        output(&mut git)
    };
    let files = git("--numstat").lines().count();
    assert!(
        (1..=most).contains(&files),
        "{name}.patch changes {files} files, and may change {most}"
    );
    git("--verbose");

    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&sources).args(["check", "--locked", "--package", "ipc-trace"]);
    cargo.args(["--bins", "--tests"]).env("CARGO_TARGET_DIR", root.join("target"));
    for (variable, object) in OBJECTS {
        let built = root.join("target/ebpf").join(object);
        assert!(built.is_file(), "run `cargo xtask build`: {} is missing", built.display());
        cargo.env(variable, built);
    }
    output(&mut cargo);
}

/// Runs a command that must succeed: its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ends with {}:\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A fresh copy of the sources, always at the same path: unchanged files are not rebuilt.
fn copy_of(root: &Path, place: &Path) -> PathBuf {
    let copy = place.join("sources");
    if copy.exists() {
        fs::remove_dir_all(&copy).unwrap();
    }
    fs::create_dir_all(&copy).unwrap();
    for name in SOURCES {
        copy_all(&root.join(name), &copy.join(name));
    }
    copy
}

/// Copies a file, or a folder without what was built in it.
fn copy_all(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to)
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "target" {
            copy_all(&from.join(&name), &to.join(&name));
        }
    }
}
