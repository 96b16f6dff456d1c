//! The documents' commands run as they are written, and shells and `man` get what they ask for.

use std::{
    env, fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::tracer::{eventually, ipc_ns_of, program, text};

/// Documents that show commands.
const DOCUMENTS: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../README.md")),
    ("ARCHITECTURE.md", include_str!("../../../ARCHITECTURE.md")),
    ("CONTRIBUTING.md", include_str!("../../../CONTRIBUTING.md")),
    ("docs/BENCHMARKS.md", include_str!("../../../docs/BENCHMARKS.md")),
    ("docs/COMPARISON.md", include_str!("../../../docs/COMPARISON.md")),
    ("docs/DETECTION.md", include_str!("../../../docs/DETECTION.md")),
    ("docs/EXPORT.md", include_str!("../../../docs/EXPORT.md")),
    ("docs/FAQ.md", include_str!("../../../docs/FAQ.md")),
    ("docs/POLICY.md", include_str!("../../../docs/POLICY.md")),
    ("docs/QUERY.md", include_str!("../../../docs/QUERY.md")),
    ("docs/RECORDING.md", include_str!("../../../docs/RECORDING.md")),
];

/// The policy that documents call `site.toml`.
const POLICY: &str = "[[mute]]\nname = \"a\"\nreason = \"b\"\nclass = \"probe-key\"\n";

/// Places that commands of the documents write to.
const PLACES: [&str; 2] = ["/etc/bash_completion.d", "/usr/local/share/man/man1"];

/// The commands in blocks of a console, without their comments: those that run `ipc-trace`.
fn commands(document: &str) -> Vec<String> {
    let (mut all, mut console) = (Vec::new(), false);
    for line in document.lines() {
        if line.starts_with("```") {
            console = line == "```console";
        } else if let Some(command) = line.strip_prefix("# ").filter(|_| console) {
            let command = command.split("  #").next().unwrap_or_default().trim_end();
            if command.split_whitespace().any(|word| word == "ipc-trace") {
                all.push(command.to_owned());
            }
        }
    }
    all
}

/// Runs a command of a document by a shell, in a folder where its files are. What traces until it is interrupted is interrupted.
fn run(folder: &Path, command: &str) -> (Option<i32>, String) {
    let path = format!("{}:{}", folder.display(), env::var("PATH").unwrap_or_default());
    // No command of a document may write to the system.
    let command = PLACES.iter().fold(command.to_owned(), |command, place| {
        command.replace(place, &folder.join("written").display().to_string())
    });
    let errors = folder.join("errors");
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("exec {command}")])
        .current_dir(folder)
        .env("PATH", path)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let has_ended = |child: &mut Child| child.try_wait().unwrap().is_some();
    let traces_on = [" live", " report", " record "].iter().any(|word| command.contains(word))
        && !command.contains(" -- ")
        && !command.contains("--from")
        && !command.contains("--duration");
    if traces_on {
        // It has its handlers when it holds a program: before, a signal would just end it.
        let pid = child.id();
        eventually(|| has_ended(&mut child) || holds_programs(pid));
        let group = Pid::from_raw(i32::try_from(pid).unwrap());
        // It may have ended by itself, which its status says.
        let _ = killpg(group, Signal::SIGINT);
    }
    assert!(eventually(|| has_ended(&mut child)), "{command} does not end");
    (child.wait().unwrap().code(), fs::read_to_string(errors).unwrap())
}

/// Whether a process has a descriptor of a BPF program.
fn holds_programs(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == "anon_inode:bpf-prog")
}

#[test]
fn documented_commands_succeed() {
    let mut all = 0;
    for (document, contents) in DOCUMENTS {
        let folder = tempfile::tempdir().unwrap();
        symlink(env::var_os("IPC_TRACE_BIN").unwrap(), folder.path().join("ipc-trace")).unwrap();
        fs::write(folder.path().join("site.toml"), POLICY).unwrap();
        fs::create_dir(folder.path().join("written")).unwrap();
        for command in commands(contents) {
            all += 1;
            let (status, errors) = run(folder.path(), &command);
            assert_eq!(status, Some(0), "{document}: {command}: {errors}");
        }
    }
    assert!(all >= 12, "{all} commands are too few: how documents show commands has changed");
}

/// What the shell is offered for the last of these words.
fn completions(words: &[&str]) -> Vec<String> {
    let output = program()
        .env("IPC_TRACE_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len()).to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_IFS", "\n")
        .args(["--", "ipc-trace"])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn completions_offer_operations_and_living_namespaces() {
    let offers = |words: &[&str], wanted: &str| completions(words).iter().any(|one| one == wanted);
    assert!(offers(&["re"], "report"));
    assert!(offers(&["live", "--op", "mq_s"], "mq_send"));
    assert!(offers(&["live", "--fail-on", "h"], "high"));
    let own = ipc_ns_of(std::process::id()).to_string();
    assert!(offers(&["live", "--ipc-ns", ""], &own));
    assert!(offers(&["ls", ""], &own));
    assert!(offers(&["report", "--pid", ""], &std::process::id().to_string()));
    assert!(completions(&["live", "--op", "nonsense"]).is_empty());
}

#[test]
fn man_writes_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let status = program().arg("man").arg(folder.path().join("new/man1")).status().unwrap();
    assert!(status.success());
    for name in ["ipc-trace", "ipc-trace-live", "ipc-trace-policy-check"] {
        let page = fs::read_to_string(folder.path().join(format!("new/man1/{name}.1"))).unwrap();
        assert!(page.contains("EXIT STATUS"), "{name}");
    }
    let output = program().arg("man").arg("/proc/none").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/proc/none"), "{}", text(&output.stderr));
}
