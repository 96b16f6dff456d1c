//! `equal-tids` and `colliding-creations`: threads whose IDs have equal low 16 bits, by which a tracer
//! may index its state of threads.
//!
//! `set_tid` of clone3 sets these IDs; `pid_max` must be large enough.

use std::arch::asm;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::abi;
use super::calls::CountingCaller;
use super::churn::enter_new_namespace;
use super::oracle::WorkloadOp;
use super::process::{self, Flag};

/// Options of `equal-tids`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EqualTids {
    /// How many threads there are at the same time
    #[arg(long, default_value_t = 70_000)]
    threads: u32,
    /// How many low halves several threads have
    #[arg(long, default_value_t = 1000)]
    shared: u32,
    /// How many threads have each of those
    #[arg(long, default_value_t = 8)]
    candidates: u32,
    /// How many calls each makes
    #[arg(long, default_value_t = 4)]
    calls: u32,
}

/// Options of `colliding-creations`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CollidingCreations {
    /// How many namespaces are made
    #[arg(long, default_value_t = 3000)]
    count: u32,
}

/// No object has a key from here on.
const FIRST_KEY: u64 = 0x7e51_0000;
/// Users that the threads become, one after the other.
const FIRST_USER: u64 = 61_000;
const USERS: u64 = 1000;
/// The first of the low halves.
const FIRST_LOW: u32 = 0x4000;
/// Bytes of a thread's stack: all of them lie in one mapping, as there may not be so many.
const STACK: usize = 16 << 10;

/// `struct clone_args` (include/uapi/linux/sched.h).
#[derive(Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The phase that threads wait for, and how many threads have reached it.
static PHASE: AtomicU32 = AtomicU32::new(0);
static ARRIVED: AtomicU32 = AtomicU32::new(0);
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Makes a thread of that number, which runs [`thread`].
fn start_thread(tid: u32, index: u32, stack: u64) -> Result<(), Errno> {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let args = CloneArgs {
        flags: flags as u64,
        stack,
        stack_size: STACK as u64,
        set_tid: (&raw const tid) as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    let ret: i64;
    // SAFETY: the new thread begins behind the instruction, on its own stack, with the registers that this
    // one has: it goes into a function that never returns. This one finds the call's result.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => ret,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") u64::from(index),
            in("r13") thread as extern "C" fn(u64) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if ret < 0 { Err(Errno::from_raw(-ret as i32)) } else { Ok(()) }
}

/// Waits for a phase. No function of the C library may be called in these threads, which share what the first
/// one has for itself.
fn arrive(phase: u32) {
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    loop {
        let now = PHASE.load(Ordering::Acquire);
        if now >= phase {
            return;
        }
        let at = PHASE.as_ptr() as u64;
        // SAFETY: FUTEX_WAIT on a word that is always there.
        unsafe { abi::native(libc::SYS_futex, [at, 128, u64::from(now), 0, 0, 0]) };
    }
}

extern "C" fn thread(index: u64) -> ! {
    // SAFETY: numbers, and a name that ends with NUL, as these calls want them.
    unsafe {
        let tid = abi::native(libc::SYS_gettid, [0; 6]) as u64;
        let mut name = [0_u8; 16];
        for (at, byte) in name.iter_mut().enumerate().take(8) {
            let digit = (tid >> (28 - 4 * at)) as u8 & 15;
            *byte = if digit < 10 { b'0' | digit } else { b'a' + (digit - 10) };
        }
        abi::native(libc::SYS_prctl, [libc::PR_SET_NAME as u64, name.as_ptr() as u64, 0, 0, 0, 0]);
        let user = FIRST_USER + index % USERS;
        abi::native(libc::SYS_setresuid, [user, user, user, 0, 0, 0]);
        arrive(1);
        for _ in 0..CALLS.load(Ordering::Relaxed) {
            abi::native(libc::SYS_semget, [FIRST_KEY + index, 1, 0, 0, 0, 0]);
        }
        arrive(2);
        loop {
            abi::native(libc::SYS_exit, [0; 6]);
        }
    }
}

/// Waits until all threads wait, and releases them into a phase.
fn release_phase(threads: u32, phase: u32) -> Result<()> {
    let begin = Instant::now();
    while ARRIVED.load(Ordering::Acquire) < threads * phase {
        let there = ARRIVED.load(Ordering::Acquire);
        ensure!(
            begin.elapsed() < process::WAIT_TIMEOUT * 2,
            "only {there} threads reached phase {phase}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    PHASE.store(phase, Ordering::Release);
    let at = PHASE.as_ptr() as u64;
    // SAFETY: FUTEX_WAKE on a word that is always there.
    unsafe { abi::native(libc::SYS_futex, [at, 129, i32::MAX as u64, 0, 0, 0]) };
    Ok(())
}

pub(crate) fn run(options: &EqualTids) -> Result<()> {
    let &EqualTids { threads, shared, candidates, calls } = options;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
    let mut caller = CountingCaller::new("equal")?;
    CALLS.store(calls, Ordering::Relaxed);
    let size = STACK * threads as usize;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
    let stacks = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    ensure!(stacks != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    // Those that share their low halves, and then others, each of which has one for itself.
    let lows = (0..candidates).flat_map(|_| 0..shared).map(|low| FIRST_LOW + low);
    let others =
        (0..u32::from(u16::MAX)).filter(|low| !(FIRST_LOW..FIRST_LOW + shared).contains(low));
    let mut tids = Vec::new();
    let mut highs = vec![1_u32; 1 << 16];
    for low in lows.chain(others).take(threads as usize) {
        let index = tids.len() as u32;
        let stack = stacks as u64 + STACK as u64 * u64::from(index);
        loop {
            let high = &mut highs[low as usize];
            let tid = *high << 16 | low;
            *high += 1;
            match start_thread(tid, index, stack) {
                Ok(()) => {
                    tids.push(tid);
                    break;
                }
                // Another thread has that ID.
                Err(Errno::EEXIST) if *high < 64 => {}
                Err(error) => bail!("clone3 of {tid}, the {index}th: {error}"),
            }
        }
    }
    let count = tids.len() as u32;
    ensure!(count == threads, "there are no more than {count} different low halves");
    release_phase(count, 1)?;
    release_phase(count, 2)?;
    caller.note_many(
        WorkloadOp::Semget,
        -i64::from(libc::ENOENT),
        u64::from(count) * u64::from(calls),
    );
    caller
        .report()
        .fact("tids", tids)
        .fact("first_key", FIRST_KEY)
        .fact("first_user", FIRST_USER)
        .fact("users", USERS)
        .fact("calls", calls)
        .print()
}

/// Forks a process of that number.
fn fork(tid: u32, work: impl FnOnce() -> Result<()>) -> Result<Pid> {
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: (&raw const tid) as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    let parent = nix::unistd::getpid();
    // SAFETY: without CLONE_VM and with no stack of its own this is a fork of a process with one thread.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if ret != 0 {
        ensure!(ret > 0, "clone3 of {tid}: {}", std::io::Error::last_os_error());
        return Ok(Pid::from_raw(ret as i32));
    }
    crate::child::end_with(parent);
    let code = match work() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("process {tid}: {error:#}");
            1
        }
    };
    // SAFETY: ends the child without running what belongs to the parent.
    unsafe { libc::_exit(code) }
}

/// One process creates namespaces, while another one whose PID has the same low half makes calls.
pub(crate) fn creations(options: &CollidingCreations) -> Result<()> {
    const LOW: u32 = 0x5a5a;
    let [maker, neighbour] = [21, 20].map(|high| high << 16 | LOW);
    let caller = CountingCaller::new("home")?;
    let ready = Flag::new()?;
    let beside = fork(neighbour, || {
        let key = FIRST_KEY - 1;
        // SAFETY: numbers alone.
        let call = || unsafe { abi::native(libc::SYS_semget, [key, 1, 0, 0, 0, 0]) };
        call();
        ready.raise(1)?;
        // Until it is killed.
        loop {
            call();
        }
    })?;
    ready.wait()?;
    let count = options.count;
    let mother = fork(maker, || {
        for _ in 0..count {
            enter_new_namespace()?;
        }
        Ok(())
    })?;
    let status = waitpid(mother, None)?;
    nix::sys::signal::kill(beside, nix::sys::signal::Signal::SIGKILL)?;
    waitpid(beside, None)?;
    ensure!(status == WaitStatus::Exited(mother, 0), "the maker: {status:?}");
    let report = caller.report().fact("maker", maker).fact("neighbour", neighbour);
    report.fact("count", count).print()
}
