//! The seam between sources and engine: the engine's recorded inputs lead to the same events in another process, which
//! has no privileges, no `/proc` and another clock, and is killed if it opens anything.

use std::{
    fs::{self, File, Permissions},
    io::{BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, setgid, setgroups, setuid},
};

use crate::tracer::{program, scaled, tracer, xtask};

/// A user without privileges.
const NOBODY: u32 = 65_534;
/// `CLONE_NEWTIME` (include/uapi/linux/sched.h)
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// Drops everything that the engine must not need. Called between fork and exec.
fn drop_privileges() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | NEW_TIME)?;
    // An hour ahead (time_namespaces(7)).
    fs::write("/proc/self/timens_offsets", "monotonic 3600 0\nboottime 3600 0\n")?;
    setns(File::open("/proc/self/ns/time_for_children")?, NEW_TIME)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    Ok(setuid(Uid::from_raw(NOBODY))?)
}

/// Asserts that two files have the same bytes: how many. Prints where they differ.
fn assert_same(one: &Path, other: &Path) -> u64 {
    let [mut one, mut other] = [one, other].map(|path| BufReader::new(File::open(path).unwrap()));
    let (mut at, mut mine, mut others) = (0, vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let len = one.read(&mut mine).unwrap();
        if len == 0 {
            assert_eq!(other.read(&mut others).unwrap(), 0, "the replay has more output");
            return at;
        }
        other.read_exact(&mut others[..len]).unwrap();
        if let Some(differs) = (0..len).find(|at| mine[*at] != others[*at]) {
            let show = |bytes: &[u8]| {
                let from = differs.saturating_sub(300);
                String::from_utf8_lossy(&bytes[from..len.min(differs + 100)]).into_owned()
            };
            panic!(
                "they differ at byte {}:\n{}\n---\n{}",
                at + differs as u64,
                show(&mine),
                show(&others)
            );
        }
        at += len as u64;
    }
}

/// As [`assert_replayed_of`], of an xtask command.
fn assert_replayed(mode: &str, options: &[&str], words: &[&str]) -> u64 {
    assert_replayed_of(mode, options, &xtask().to_string_lossy(), words)
}

/// Traces a command, and replays the engine's recorded inputs. Returns the number of bytes of both outputs.
fn assert_replayed_of(mode: &str, options: &[&str], command: &str, words: &[&str]) -> u64 {
    // Every user may access it, and the program in it, wherever this project is.
    let all = Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().permissions(all).tempdir().unwrap();
    let [inputs, first, second, replayer] =
        ["inputs", "first", "second", "replayer"].map(|name| folder.path().join(name));
    fs::copy(program().get_program(), &replayer).unwrap();
    let mut traced = tracer(mode);
    traced.args(["-o", "json", "--write"]).arg(&inputs).args(options).arg("--");
    traced.arg(command).args(words).stdout(File::create(&first).unwrap());
    let status = traced.stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
    let mut replay = Command::new(&replayer);
    let from: &[&str] = match mode {
        "report" => &["report", "--from", "-", "-o", "json"],
        _ => &["replay", "-", "-o", "json"],
    };
    replay.args(from).stdin(File::open(&inputs).unwrap());
    replay.stdout(File::create(&second).unwrap()).stderr(Stdio::piped());
    // SAFETY: this process's other threads hold no lock that these system calls need.
    unsafe { replay.pre_exec(drop_privileges) };
    let output = replay.spawn().unwrap().wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    if mode == "report" {
        // A file is not read from its beginning: its last checkpoint has the counts.
        let mut from = program();
        from.args(["report", "-o", "json", "--from"]).arg(&inputs);
        let status = from.stdout(File::create(&second).unwrap()).status().unwrap();
        assert!(status.success(), "{status}");
        assert_same(&first, &second);
    }
    assert_same(&first, &second)
}

#[test]
fn replay_of_scenarios_is_identical() {
    let options = ["--runtime-socket", "none"];
    assert!(assert_replayed("live", &options, &["scenarios", "--unseen"]) > 100_000);
    assert!(assert_replayed("report", &options, &["scenarios", "--unseen"]) > 10_000);
}

#[test]
fn replay_of_random_programs_is_identical() {
    // They run until they are killed.
    let model = "for seed in 1 2 3; do timeout 2 \"$0\" workload model --seed $seed & done; wait";
    let bytes =
        assert_replayed_of("live", &[], "/bin/sh", &["-c", model, &xtask().to_string_lossy()]);
    assert!(bytes > 10_000, "{bytes}");
}

#[test]
fn replay_of_a_million_calls_is_identical() {
    let calls = scaled(1_000_000).to_string();
    let words = ["workload", "count", "--threads", "8", "--calls", &calls];
    assert!(assert_replayed("report", &["--only-command"], &words) > 1_000);
}

#[test]
fn replay_of_an_overload_is_identical() {
    // All lines together have room in the sink's queue (128 MiB), so that the ring alone loses some, however slow
    // the file is. Machines have little room for files, too.
    let [calls, creations] = [scaled(30_000), scaled(200)].map(|count| count.to_string());
    let words = ["workload", "saturate", "--calls", &calls, "--creations", &creations];
    assert!(assert_replayed("live", &["--ring-bytes", "65536"], &words) > 10_000);
}
