//! `queue-cache`: processes on all processors that use many queues, each of its own namespace: in a cache of queues
//! that is indexed by inode number, all of them collide all the time.

use std::ffi::CString;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, Uid, setuid};
use serde_json::json;

use super::oracle::WorkloadReport;
use super::process::{self, Flag};

/// Options of `queue-cache`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct QueueCache {
    /// How many queues each has
    #[arg(long, default_value_t = 4096)]
    queues: u32,
    /// How long they go through them
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// The first of the users that they switch to.
const FIRST_USER: u32 = 60_000;

pub(crate) fn run(options: &QueueCache) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let (ready, go) = (Flag::new()?, Flag::new()?);
    let mut children = Vec::new();
    for cpu in 0..std::thread::available_parallelism()?.get().max(2) {
        let work = || {
            let mut one = CpuSet::new();
            one.set(cpu)?;
            // There may be one processor only.
            let _ = sched_setaffinity(Pid::from_raw(0), &one);
            unshare(CloneFlags::CLONE_NEWIPC)?;
            fs::write("/proc/sys/fs/mqueue/queues_max", (options.queues + 1).to_string())?;
            // The bytes that queues take are limited by user.
            setuid(Uid::from_raw(FIRST_USER + cpu as u32))?;
            let queues: Vec<i64> = (0..options.queues).map(queue).collect::<Result<_>>()?;
            ready.raise(1)?;
            go.wait()?;
            let end = Instant::now() + Duration::from_secs(options.seconds);
            let mut calls = 0_u64;
            while Instant::now() < end {
                for fd in &queues {
                    // SAFETY: nothing is given or taken.
                    let done = unsafe { libc::syscall(libc::SYS_mq_getsetattr, *fd, 0, 0) };
                    ensure!(done == 0, "mq_getsetattr: {}", Errno::last());
                }
                calls += queues.len() as u64;
            }
            let inum = process::ipc_namespace()?;
            Ok(WorkloadReport::default().fact("callers", json!([{"inum": inum, "calls": calls}])))
        };
        children.push(process::spawn(b"queue-cache", work)?);
    }
    for _ in &children {
        ready.wait()?;
    }
    go.raise(children.len() as u64)?;
    process::join_all(children)?.print()
}

fn queue(number: u32) -> Result<i64> {
    let name = CString::new(format!("queue-cache-{number}"))?;
    // struct mq_attr: flags, maxmsg, msgsize, and reserved words
    let attr: [libc::c_long; 8] = [0, 1, 1, 0, 0, 0, 0, 0];
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    // SAFETY: a name that ends with a NUL, and attributes, which are only read.
    let fd =
        unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0o600, attr.as_ptr()) };
    Errno::result(fd).with_context(|| format!("mq_open, queue {number}"))
}
