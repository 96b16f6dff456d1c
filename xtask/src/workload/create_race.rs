//! `create-race`: objects that one process creates and another one requests, by calls that create what is missing
//! and do not report whether they did.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::CloneFlags,
};
use serde_json::{Value, json};

use super::{
    abi::is_error,
    calls::{CountingCaller, Route, slot},
    mq,
    oracle::{WorkloadReport, outcome},
    process::{self, Flag},
};

/// The keys begin so.
const KEY: i32 = 0x1c63_0000;
/// Segments that two processes request at the same time.
const RACES: i32 = 100;
const CREATE: i32 = libc::IPC_CREAT | 0o600;

pub(crate) fn run() -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let inum = caller.unshare("create-race")?;
    let mut pids = Vec::new();
    let mut all = WorkloadReport::default();
    // The queue is created by its path; the call that follows would have created it.
    for (name, ask) in [
        ("maker", request as fn() -> Result<WorkloadReport>),
        ("finder", request),
        ("opener", open_by_path),
    ] {
        let child = process::spawn(name.as_bytes(), ask)?;
        pids.push((name, child.pid.as_raw()));
        all.absorb(child.join()?);
    }
    let (turns, dones) = ([Flag::new()?, Flag::new()?], [Flag::new()?, Flag::new()?]);
    let racers = [0, 1].map(|one| {
        process::spawn(b"racer", || {
            let mut caller = CountingCaller::new("create-race")?;
            for race in 0..RACES {
                turns[one].wait()?;
                expect("shmget", caller.shmget(KEY + 0x100 + race, 4096, CREATE))?;
                dones[one].raise(1)?;
            }
            Ok(caller.report())
        })
    });
    for _ in 0..RACES {
        for turn in &turns {
            turn.raise(1)?;
        }
        for done in &dones {
            done.wait()?;
        }
    }
    for racer in racers {
        all.absorb(racer?.join()?);
    }
    let raced = (0..RACES).map(|race| creator_of(&mut caller, KEY + 0x100 + race));
    let raced = raced.collect::<Result<Vec<Value>>>()?;
    all.absorb(caller.report());
    let all = all.fact("inum", inum).fact("raced", raced);
    pids.into_iter().fold(all, |all, (name, pid)| all.fact(name, pid)).print()
}

fn expect(what: &str, ret: i64) -> Result<i64> {
    ensure!(!is_error(ret), "{what}: {}", outcome(ret));
    Ok(ret)
}

/// Requests an object of each kind by each route.
fn request() -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new("create-race")?;
    for (at, route) in Route::ALL.into_iter().enumerate() {
        let key = KEY + at as i32;
        caller.by(route);
        expect("shmget", caller.shmget(key, 4096, CREATE))?;
        expect("semget", caller.semget(key, 1, CREATE))?;
        expect("msgget", caller.msgget(key, CREATE))?;
        open(&mut caller, format!("asked-{at}").as_bytes())?;
    }
    Ok(caller.report())
}

fn open(caller: &mut CountingCaller, name: &[u8]) -> Result<()> {
    let oflag = libc::O_CREAT | libc::O_RDWR;
    mq::close(expect("mq_open", caller.mq_open(name, oflag, 0o600, None))?);
    Ok(())
}

/// Creates a queue by its path, and requests it.
fn open_by_path() -> Result<WorkloadReport> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making mounts private")?;
    let at = std::env::temp_dir();
    mount(Some("mqueue"), &at, Some("mqueue"), MsFlags::empty(), none)
        .context("mounting mqueue")?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(at.join("by-path")).context("making a queue by its path")?;
    umount2(&at, MntFlags::MNT_DETACH).context("unmounting mqueue")?;
    let mut caller = CountingCaller::new("create-race")?;
    open(&mut caller, b"by-path")?;
    Ok(caller.report())
}

/// Which process created a segment, according to the kernel.
fn creator_of(caller: &mut CountingCaller, key: i32) -> Result<Value> {
    let id = expect("shmget", caller.shmget(key, 0, 0))?;
    expect("shmctl", caller.shmctl(id as i32, libc::IPC_STAT))?;
    // struct shmid64_ds, include/uapi/asm-generic/shmbuf.h
    let cpid =
        i32::from_ne_bytes(caller.get(slot::OUT + std::mem::offset_of!(libc::shmid_ds, shm_cpid)));
    Ok(json!({"id": id, "pid": cpid}))
}
