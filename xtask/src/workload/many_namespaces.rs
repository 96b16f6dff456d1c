//! `many-namespaces`: many processes in many IPC namespaces with many objects. It reports when all of them exist,
//! and waits for the end of its standard input.

use std::io::Read as _;

use anyhow::{Result, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Uid, fork, pause, setresuid},
};

use crate::child::end_with;

use super::{
    abi::is_error,
    calls::CountingCaller,
    oracle::outcome,
    process::{self, Flag},
};

/// Options of `many-namespaces`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ManyNamespaces {
    /// Namespaces
    #[arg(long, default_value_t = 10)]
    namespaces: u32,
    /// Processes in each
    #[arg(long, default_value_t = 10)]
    processes: u32,
    /// Objects of each of the four kinds in each namespace
    #[arg(long, default_value_t = 25)]
    objects: u32,
}

pub(crate) fn run(options: &ManyNamespaces) -> Result<()> {
    let caller = CountingCaller::new("home")?;
    let (ready, mut all) = (Flag::new()?, Vec::new());
    for number in 0..options.namespaces {
        // RLIMIT_MSGQUEUE limits what all queues of a user need, in whatever namespaces.
        let user = Uid::from_raw(100_000 + number);
        all.push(process::spawn(b"founder", || create_namespace(options, user, &ready))?);
    }
    for _ in 0..options.namespaces {
        ready.wait_long()?;
    }
    let pids: Vec<i32> = all.iter().map(|founder| founder.pid.as_raw()).collect();
    caller.report().fact("founders", pids).print()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // Each takes its namespace's other processes with it.
    for founder in &all {
        kill(founder.pid, Signal::SIGKILL)?;
    }
    for founder in &all {
        waitpid(founder.pid, None)?;
    }
    Ok(())
}

/// Creates a namespace, and stays in it until it is killed.
fn create_namespace(
    options: &ManyNamespaces,
    user: Uid,
    ready: &Flag,
) -> Result<super::oracle::WorkloadReport> {
    // Otherwise each of thousands of processes would inherit a descriptor of each earlier one.
    let only = ready.raw() as u32;
    for (first, last) in [(3, only - 1), (only + 1, u32::MAX)] {
        // SAFETY: the owners of these descriptors never use or close them: this process ends by a
        // signal, or by the error that it prints on standard error.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
    let mut caller = CountingCaller::new("home")?;
    caller.unshare("many")?;
    setresuid(user, Uid::from_raw(0), Uid::from_raw(0))?;
    let flags = libc::IPC_CREAT | 0o600;
    for number in 0..options.objects {
        let key = 0x1c5f_0000 | number as i32;
        let name = format!("object-{number}");
        let queue = libc::O_CREAT | libc::O_RDWR;
        let fd = caller.mq_open(name.as_bytes(), queue, 0o600, Some((1, 8)));
        super::mq::close(fd);
        for ret in [
            caller.shmget(key, 4096, flags),
            caller.semget(key, 1, flags),
            caller.msgget(key, flags),
            fd,
        ] {
            ensure!(!is_error(ret), "object {number}: {}", outcome(ret));
        }
    }
    for _ in 1..options.processes {
        let parent = nix::unistd::getpid();
        // SAFETY: this process has one thread, and the child only waits.
        if let ForkResult::Child = unsafe { fork() }? {
            end_with(parent);
            loop {
                pause();
            }
        }
    }
    ready.raise(1)?;
    loop {
        pause();
    }
}
