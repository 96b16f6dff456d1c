//! `saturate`: calls at full speed from several threads of several namespaces, creations of namespaces, and
//! neighbours on all processors, all at once. Threads are preempted wherever they can be.

use std::sync::Barrier;

use anyhow::{Result, ensure};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use nix::{errno::Errno, sched::CloneFlags};
use serde_json::json;

use super::abi;
use super::calls::CountingCaller;
use super::churn;
use super::map_lookups::MapLookups;
use super::oracle::WorkloadReport;
use super::process::{self, Flag};
use super::turns::{self, MessageBuffer, TEXT};

/// Options of `saturate`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Saturate {
    /// In how many new namespaces.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    namespaces: u32,
    /// How many threads make calls in each, and how many create namespaces beside them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// How many calls each thread makes at least.
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// How many namespaces each creating thread creates by unshare, and again by clone.
    #[arg(long, default_value_t = 0)]
    creations: u64,
    /// Run a neighbour on each processor that looks up a value in a BPF map all the time.
    #[arg(long)]
    lookups: bool,
}

pub(crate) fn run(options: &Saturate) -> Result<()> {
    let neighbours = if options.lookups { Some(MapLookups::start()?) } else { None };
    let (ready, go) = (Flag::new()?, Flag::new()?);
    let mut children = Vec::new();
    for number in 0..options.namespaces {
        let calls = || {
            nix::sched::unshare(CloneFlags::CLONE_NEWIPC)?;
            in_threads(options.threads, &ready, &go, |thread| {
                let label = format!("ns{number}");
                let mut caller = CountingCaller::new(&label)?;
                make_calls(&mut caller, options.calls, thread)?;
                Ok(caller.report())
            })
        };
        children.push(process::spawn(b"saturate-calls", calls)?);
        let creations = || {
            in_threads(options.threads, &ready, &go, |_| {
                make_namespaces(options.creations)?;
                Ok(WorkloadReport::default())
            })
            .map(|report| report.fact("creations", json!([creations_of(options)])))
        };
        children.push(process::spawn(b"saturate-create", creations)?);
    }
    for _ in &children {
        ready.wait()?;
    }
    go.raise(children.len() as u64)?;
    let report = process::join_all(children)?;
    let lookups = neighbours.map(MapLookups::end).transpose()?;
    report.fact("lookups", lookups).print()
}

/// The namespaces that this process created.
fn creations_of(options: &Saturate) -> serde_json::Value {
    let each = u64::from(options.threads) * options.creations;
    json!({"pid": std::process::id(), "unshared": each, "cloned": each})
}

/// Runs so many threads at once, starting when all processes are ready.
fn in_threads(
    threads: u32,
    ready: &Flag,
    go: &Flag,
    work: impl Fn(u32) -> Result<WorkloadReport> + Sync,
) -> Result<WorkloadReport> {
    let barrier = Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        let (barrier, work) = (&barrier, &work);
        let thread = |number| {
            scope.spawn(move || {
                barrier.wait();
                work(number)
            })
        };
        let threads: Vec<_> = (0..threads).map(thread).collect();
        ready.raise(1)?;
        let started = go.wait();
        barrier.wait();
        let mut sum = WorkloadReport::default();
        for thread in threads {
            sum.absorb(thread.join().expect("a thread of the workload panicked")?);
        }
        started.map(|()| sum)
    })
}

/// One thread's calls, by turns: semop, msgsnd, msgrcv, shmget, mq_send, mq_receive.
fn make_calls(caller: &mut CountingCaller, calls: u64, thread: u32) -> Result<()> {
    let made = |ret: i64, call: &str| {
        ensure!(!abi::is_error(ret), "{call}: {ret}");
        Ok(ret as u64)
    };
    let name = format!("saturate-{thread}").into_bytes();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let sem = made(caller.semget(libc::IPC_PRIVATE, 1, 0o600), "semget")?;
    let msq = made(caller.msgget(libc::IPC_PRIVATE, 0o600), "msgget")?;
    let mq = made(caller.mq_open(&name, flags, 0o600, Some((1, TEXT as i64))), "mq_open")?;

    let mut message = MessageBuffer::new();
    let mut all = Vec::from(turns::semop(sem));
    all.extend(turns::message(msq, &mut message));
    all.push(turns::missing_segment());
    all.extend(turns::queue(mq, &mut message));
    // SAFETY: a sembuf each, which is only read; `message` has room for all messages, and nothing else is
    // done with it meanwhile.
    let (times, failed) = unsafe { turns::take(&all, calls) };
    ensure!(failed == 0, "{failed} calls had an unexpected result");
    turns::note(caller, &all, times);

    caller.semctl(sem as i32, 0, libc::IPC_RMID, 0);
    caller.msgctl(msq as i32, libc::IPC_RMID);
    caller.mq_unlink(&name);
    Ok(())
}

/// Makes so many namespaces by unshare, and as many by clone, by turns.
fn make_namespaces(times: u64) -> Result<()> {
    for _ in 0..times {
        churn::enter_new_namespace()?;
        let child = churn::retried(clone_into_new)?;
        let status = waitpid(child, None)?;
        ensure!(matches!(status, WaitStatus::Exited(_, 0)), "a child in a namespace: {status:?}");
    }
    Ok(())
}

/// Makes a process in a new namespace, which ends at once.
fn clone_into_new() -> nix::Result<Pid> {
    let flags = libc::CLONE_NEWIPC | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack of its own this is a fork, and the child makes one system
    // call and nothing else, whatever other threads held.
    let pid = unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if pid == 0 {
            libc::_exit(0);
        }
        pid
    };
    Errno::result(pid).map(|pid| Pid::from_raw(pid as i32))
}
