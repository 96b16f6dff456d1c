//! `churn-processes` and `churn-namespaces`: many of them, each for a very short time.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};

use super::calls::CountingCaller;
use super::oracle::{WorkloadOp, WorkloadReport};
use super::process;

const NO_ENTRY: i64 = -(libc::ENOENT as i64);

/// Options of `churn-processes`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChurnProcesses {
    /// How many processes are run.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// How many of them at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    parallel: u32,
    /// Let them be copies of this one, which is several times quicker than to execute something.
    #[arg(long)]
    copies: bool,
}

/// Options of `churn-namespaces`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChurnNamespaces {
    /// How many namespaces are made.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Continue beyond that, slowly, until an inode number is reused: the kernel destroys dead namespaces
    /// asynchronously.
    #[arg(long)]
    until_reused: bool,
}

/// Options of `one-call`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OneCall {
    /// The key asked for; there must be no such segment.
    #[arg(long, default_value_t = 0x0ca1_1000)]
    key: i32,
}

/// The first key that `churn-processes` asks for; each process has its own.
const FIRST_KEY: u64 = 0x0c40_0000;

pub(crate) fn processes(options: &ChurnProcesses) -> Result<()> {
    let exe = std::env::current_exe().context("/proc/self/exe")?;
    let next = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let worker = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= options.count {
                    return Ok(());
                }
                let key = FIRST_KEY + number;
                if options.copies {
                    copy(key)?;
                    continue;
                }
                let status = Command::new("/proc/self/exe")
                    .args(["workload", "one-call", "--key"])
                    .arg(key.to_string())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()
                    .context("/proc/self/exe")?;
                ensure!(status.success(), "one-call: {status}");
            }
        };
        let workers: Vec<_> = (0..options.parallel).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("a thread panicked"))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    // Each process made the same call in the same namespace, or it would have failed.
    let mut caller = CountingCaller::new("home")?;
    caller.note_many(WorkloadOp::Shmget, NO_ENTRY, options.count);
    let report = caller.report();
    report
        .fact("count", options.count)
        .fact("exe", exe.to_string_lossy())
        .fact("seconds", seconds)
        .fact("per_second", options.count as f64 / seconds)
        .print()
}

/// Makes a process that makes one call and ends.
fn copy(key: u64) -> Result<()> {
    // SAFETY: the child makes two system calls and nothing else, whatever other threads held.
    match unsafe { fork() }? {
        // SAFETY: numbers alone.
        ForkResult::Child => unsafe {
            let ret = libc::syscall(libc::SYS_shmget, key, 0, 0);
            let found = ret != -1 || Errno::last_raw() != libc::ENOENT;
            libc::_exit(i32::from(found))
        },
        ForkResult::Parent { child } => {
            let status = waitpid(child, None)?;
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "shmget({key:#x}): {status:?}");
            Ok(())
        }
    }
}

pub(crate) fn one_call(options: &OneCall) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let ret = caller.shmget(options.key, 0, 0);
    caller.report().fact("tid", process::tid()).print()?;
    ensure!(ret == NO_ENTRY, "shmget({:#x}): {ret}", options.key);
    Ok(())
}

/// Creates a namespace, and retries while there are too many (`max_ipc_namespaces`): the kernel destroys dead ones
/// asynchronously.
pub(super) fn retried<T>(make: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    let deadline = Instant::now() + process::WAIT_TIMEOUT;
    loop {
        match make() {
            Err(Errno::ENOSPC) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// Enters a new namespace.
pub(super) fn enter_new_namespace() -> nix::Result<()> {
    retried(|| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC))
}

pub(crate) fn namespaces(options: &ChurnNamespaces) -> Result<()> {
    let mut inums = BTreeSet::new();
    let mut all = WorkloadReport::default();
    let start = Instant::now();
    let reused = |made: u64, inums: &BTreeSet<u64>| (inums.len() as u64) < made;
    let mut made = 0;
    while made < options.count || options.until_reused && !reused(made, &inums) {
        let number = made;
        made += 1;
        if number >= options.count {
            ensure!(start.elapsed() < process::WAIT_TIMEOUT, "no inode number is reused");
            std::thread::sleep(Duration::from_millis(10));
        }
        enter_new_namespace().with_context(|| format!("namespace {number}"))?;
        let mut caller = CountingCaller::new(&format!("churn-{number}"))?;
        caller.semget(0x0c40_0000 | number as i32, 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
        inums.insert(caller.inum());
        all.counts.append(caller.report().counts);
    }
    let seconds = start.elapsed().as_secs_f64();
    all.fact("count", made)
        .fact("tid", process::tid())
        .fact("distinct_inums", inums.len())
        .fact("seconds", seconds)
        .fact("per_second", made as f64 / seconds)
        .print()
}
