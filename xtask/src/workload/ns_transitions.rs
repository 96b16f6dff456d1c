//! `ns-transitions`: every transition of a thread into another IPC namespace.

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::calls::CountingCaller;
use super::oracle::WorkloadReport;
use super::process::{self, Flag, WorkloadChild};

fn moved(how: &str, tid: i32, from: u64, to: u64) -> Value {
    json!({"event": how, "tid": tid, "from": from, "to": to})
}

/// The IPC namespace of another process.
fn namespace_of(pid: Pid) -> Result<(File, u64)> {
    let file = File::open(format!("/proc/{pid}/ns/ipc"))?;
    let inum = file.metadata()?.ino();
    Ok((file, inum))
}

/// A process which makes a namespace and stays in it until `release`.
fn holder(label: &str, release: &Flag) -> Result<WorkloadChild> {
    let there = Flag::new()?;
    let child = process::spawn(label.as_bytes(), || {
        let mut caller = CountingCaller::new("home")?;
        caller.unshare(label)?;
        caller.semget(0x0a1c_0000, 1, 0);
        there.raise(1)?;
        release.wait()?;
        Ok(caller.report())
    })?;
    there.wait()?;
    Ok(child)
}

pub(crate) fn run() -> Result<()> {
    let home = process::ipc_namespace()?;
    let release = Flag::new()?;
    let mut events = Vec::new();
    let mut holders = Vec::new();
    for label in ["ns-1", "ns-2"] {
        let child = holder(label, &release)?;
        let (_, inum) = namespace_of(child.pid)?;
        events.push(moved("created", child.pid.as_raw(), home, inum));
        holders.push(child);
    }
    let pids: Vec<Pid> = holders.iter().map(|child| child.pid).collect();
    let switcher = std::thread::Builder::new()
        .name("switcher".into())
        .spawn(move || switch_namespaces(&pids))?;
    let switched = switcher.join().expect("the switching thread panicked")?;

    let there = Flag::new()?;
    let cloned = process::spawn_in_new_namespace(b"cloned", || {
        let mut caller = CountingCaller::new("cloned")?;
        caller.semget(0x0a1c_0001, 1, 0);
        there.raise(1)?;
        release.wait()?;
        Ok(caller.report())
    })?;
    there.wait()?;
    let (_, inum) = namespace_of(cloned.pid)?;
    let mut report = WorkloadReport::default().fact("home", home).fact("events", events);
    report.absorb(switched);
    let last = moved("created", cloned.pid.as_raw(), home, inum);
    report.absorb(WorkloadReport::default().fact("events", vec![last]));
    holders.push(cloned);
    release.raise(holders.len() as u64)?;
    report.absorb(process::join_all(holders)?);
    report.print()
}

/// The transitions of one thread: by the file of a namespace, by a pidfd, into a new one, and home.
fn switch_namespaces(pids: &[Pid]) -> Result<WorkloadReport> {
    let (tid, back) = (process::tid(), process::open_namespace()?);
    let mut caller = CountingCaller::new("home")?;
    let mut events = Vec::new();
    let mut note = |how: &str, from: u64, caller: &mut CountingCaller| {
        caller.semget(0x0a1c_0002, 1, 0);
        events.push(moved(how, tid, from, caller.inum()));
    };

    let from = caller.inum();
    process::enter_namespace(&namespace_of(pids[0])?.0)?;
    caller.moved("ns-1")?;
    note("entered", from, &mut caller);

    let from = caller.inum();
    nix::sched::setns(pidfd(pids[1])?, CloneFlags::CLONE_NEWIPC)?;
    caller.moved("ns-2")?;
    note("entered", from, &mut caller);

    let from = caller.inum();
    caller.unshare("ns-3")?;
    note("created", from, &mut caller);

    let from = caller.inum();
    process::enter_namespace(&back)?;
    caller.moved("home")?;
    note("entered", from, &mut caller);

    // An attempt that fails, and so is no event.
    let no_namespace = fs::File::open("/proc/self/stat").context("/proc/self/stat")?;
    let refused = process::enter_namespace(&no_namespace).is_err();
    ensure!(refused && caller.inum() == process::ipc_namespace()?, "setns changed the namespace");
    Ok(caller.report().fact("events", events).fact("switcher", tid))
}

fn pidfd(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes no address.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    ensure!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
