//! `ns-holders`: IPC namespaces that are held in every possible way, with objects in each, and what `/proc` shows
//! of them from inside. The report comes first; then the workload waits for the end of its standard input, and
//! releases everything.

use std::{
    fs::{self, File},
    io::Read as _,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::CloneFlags,
};
use serde_json::{Value, json};

use super::{
    abi::is_error,
    calls::CountingCaller,
    oracle::{WorkloadReport, outcome},
    process::{self, Flag},
};

/// A key that nothing else on the machine has: all keys of this workload begin so.
const KEY: i32 = 0x1c5e_0000;
/// A queue's name with control characters, which must be escaped.
const HOSTILE: &[u8] = b"\x1b[2Jforged\nline\xff";

pub(crate) fn run() -> Result<()> {
    // Mounts of this workload are its own.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("making mounts private")?;
    let scratch = tempfile::tempdir().context("making a folder")?;
    let held = hold(scratch.path());
    // After a failure what is mounted there can't be removed, but ends with this process.
    let cleared = scratch.close();
    held?;
    cleared.context("removing the folder")
}

fn hold(scratch: &Path) -> Result<()> {
    // Before there is anything that it could inherit.
    let (done, ready) = (Flag::new()?, Flag::new()?);
    let path = scratch.join("member");
    let member = process::spawn(b"member", || member(path, &ready, &done))?;
    ready.wait()?;
    let home = process::open_namespace()?;
    let mut caller = CountingCaller::new("home")?;
    let mut held = Vec::new();

    let inum = caller.unshare("descriptor")?;
    set(&mut caller, 1, 3)?;
    held.push(seen_inside("descriptor", inum)?);
    let descriptor = process::open_namespace()?;

    let inum = caller.unshare("mount")?;
    set(&mut caller, 2, 1)?;
    held.push(seen_inside("mount", inum)?);
    let point = scratch.join("bound here");
    File::create(&point)?;
    let own = format!("/proc/{}/ns/ipc", process::tid());
    mount(Some(own.as_str()), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("binding the namespace")?;

    let inum = caller.unshare("mapping")?;
    let shmid = segment(&mut caller, 3, 8192)?;
    for _ in 0..2 {
        attach(&mut caller, shmid)?;
    }
    held.push(seen_inside("mapping", inum)?);

    let inum = caller.unshare("sysvipc")?;
    set(&mut caller, 4, 2)?;
    held.push(seen_inside("sysvipc", inum)?);
    let table = File::open("/proc/sysvipc/sem")?;

    process::enter_namespace(&home)?;
    caller.moved("home")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || thread(&sender, &ended));
    held.push(receiver.recv().context("the thread failed")?);

    let members: Value = serde_json::from_slice(&fs::read(scratch.join("member.json"))?)?;
    held.push(members);
    caller
        .report()
        .fact("pid", std::process::id())
        .fact("member", member.pid.as_raw())
        .fact("fds", json!({"namespace": descriptor.as_raw_fd(), "sysvipc": table.as_raw_fd()}))
        .fact("mount_point", point.to_string_lossy())
        .fact("held", held)
        .print()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(end);
    thread.join().map_err(|_| anyhow::anyhow!("the thread failed"))??;
    done.raise(1)?;
    member.join()?;
    nix::mount::umount(&point).context("unmounting")
}

/// A process in a namespace of its own, near its limits.
fn member(path: PathBuf, ready: &Flag, done: &Flag) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new("home")?;
    let inum = caller.unshare("member")?;
    fs::write("/proc/sys/fs/mqueue/queues_max", "3").context("lowering queues_max")?;
    let segment = segment(&mut caller, 5, 4096)?;
    attach(&mut caller, segment)?;
    caller.shmctl(segment, libc::IPC_RMID);
    set(&mut caller, 6, 7)?;
    let queue = caller.msgget(KEY + 7, libc::IPC_CREAT | 0o640);
    ensure!(!is_error(queue), "msgget: {}", outcome(queue));
    caller.msgsnd(queue as i32, 1, b"twelve bytes", 0);
    caller.msgsnd(queue as i32, 2, b"and 13 bytes.", 0);
    let oflag = libc::O_CREAT | libc::O_RDWR;
    let mut open = |name: &[u8]| {
        let fd = caller.mq_open(name, oflag, 0o620, Some((4, 16)));
        ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
        Ok(fd as i32)
    };
    let jobs = open(b"jobs")?;
    open(HOSTILE)?;
    let gone = open(b"gone")?;
    caller.mq_send(jobs, b"one", 0, None);
    caller.mq_unlink(b"gone");

    fs::create_dir(&path)?;
    mount(Some("mqueue"), &path, Some("mqueue"), MsFlags::empty(), None::<&str>)
        .context("mounting mqueue")?;
    let mut queues = Vec::new();
    for entry in fs::read_dir(&path)? {
        queues.push(entry?.file_name().as_bytes().to_vec());
    }
    let mut seen = seen_inside("member", inum)?;
    seen["queues"] = json!(queues);
    seen["mqueue"] = json!(path.to_string_lossy());
    seen["gone_fd"] = json!(gone);
    fs::write(path.with_extension("json"), serde_json::to_vec(&seen)?)?;
    ready.raise(1)?;
    done.wait_long()?;
    nix::mount::umount(&path).context("unmounting mqueue")?;
    Ok(caller.report())
}

/// A thread in another namespace than its process.
fn thread(
    sender: &std::sync::mpsc::Sender<Value>,
    ended: &std::sync::mpsc::Receiver<()>,
) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let inum = caller.unshare("thread")?;
    set(&mut caller, 8, 1)?;
    sender.send(seen_inside("thread", inum)?)?;
    // Until the other end is dropped.
    let _ = ended.recv();
    Ok(())
}

fn set(caller: &mut CountingCaller, key: i32, nsems: i32) -> Result<()> {
    let ret = caller.semget(KEY + key, nsems, libc::IPC_CREAT | 0o600);
    ensure!(!is_error(ret), "semget: {}", outcome(ret));
    Ok(())
}

fn segment(caller: &mut CountingCaller, key: i32, size: usize) -> Result<i32> {
    let ret = caller.shmget(KEY + key, size, libc::IPC_CREAT | 0o644);
    ensure!(!is_error(ret), "shmget: {}", outcome(ret));
    Ok(ret as i32)
}

fn attach(caller: &mut CountingCaller, shmid: i32) -> Result<()> {
    let ret = caller.shmat(shmid, 0, 0);
    ensure!(!is_error(ret), "shmat: {}", outcome(ret));
    Ok(())
}

/// What can be seen from inside: the tables of `/proc/sysvipc`.
fn seen_inside(label: &str, inum: u64) -> Result<Value> {
    let table = |kind: &str| fs::read_to_string(format!("/proc/sysvipc/{kind}"));
    Ok(json!({
        "label": label, "inum": inum, "queues": [],
        "shm": table("shm")?, "sem": table("sem")?, "msg": table("msg")?,
    }))
}
