//! `bench-loops`: loops of several kinds of calls, one after the other, each with the complete cost of its calls on
//! a machine with one processor. The elapsed time is that of the caller and of the tracer, which is this process's
//! parent. Work that the tracer has left when a loop ends is added.
//!
//! Where the clock counts instructions, those times are numbers of instructions.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::parent_id;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::abi;
use super::calls::CountingCaller;
use super::oracle::WorkloadOp;
use super::process::processor_time;
use super::turns::{self, MessageBuffer, TEXT, Turn};

/// Options of `bench-loops`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchLoops {
    /// How many calls of each kind are timed.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(2..))]
    calls: u64,
}

/// Calls before the timed ones: caches are filled, and the tracer has emitted what it emits once.
const WARM_UP: u64 = 2000;

/// The interval between two checks of whether the tracer is idle. Longer than the tracer's poll interval.
const IDLE_CHECK: Duration = Duration::from_millis(100);

/// A tracer that uses less processor time than this in an interval is idle.
const IDLE_MAX: Duration = Duration::from_millis(2);

/// The name of a queue.
const QUEUE: &[u8] = b"bench-loops";

/// A file that every machine has: of proc, which is neither a file of tmpfs nor of a queue.
const FILE: &CStr = c"/proc/self/comm";

/// A program that ends at once.
const PROGRAM: &CStr = c"/bin/true";

/// Waits until the tracer is idle: the processor time that it has used by then.
fn wait_idle(tracer: u32) -> Result<Duration> {
    let mut before = processor_time(tracer)?;
    loop {
        std::thread::sleep(IDLE_CHECK);
        let now = processor_time(tracer)?;
        if now.saturating_sub(before) < IDLE_MAX {
            return Ok(now);
        }
        before = now;
    }
}

/// What a number of actions took.
#[derive(Clone, Copy, Debug)]
struct LoopTime {
    /// In all, with what the tracer had left to do
    total: Duration,
    /// The part of the tracer's process
    tracer: Duration,
}

impl LoopTime {
    /// Measures `action`.
    fn measure<T>(action: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let tracer = parent_id();
        let used_before = wait_idle(tracer)?;
        let begin = Instant::now();
        let result = action()?;
        let during = begin.elapsed();
        let used_during = processor_time(tracer)?;
        let used_after = wait_idle(tracer)?;
        let time = Self {
            total: during + used_after.saturating_sub(used_during),
            tracer: used_after.saturating_sub(used_before),
        };
        Ok((time, result))
    }

    /// As a row of the report, which gives one of `actions`. `made`: the calls by operation.
    fn row(self, name: &str, actions: u64, made: &BTreeMap<WorkloadOp, u64>) -> Value {
        let per_action = |time: Duration| time.as_nanos() as f64 / actions as f64;
        json!({
            "name": name,
            "ns_per_call": per_action(self.total),
            "tracer_ns_per_call": per_action(self.tracer),
            "made": made,
        })
    }
}

/// Makes at least `calls` calls in turn: what an action of `calls_each` of them took, and how many there were.
///
/// # Safety
///
/// The addresses among the arguments suit the calls.
unsafe fn time_loop(
    caller: &mut CountingCaller,
    (name, calls_each): (&str, u64),
    calls: u64,
    turns: &[Turn],
) -> Result<Value> {
    // SAFETY: as the caller says.
    let (warm_up, failed_first) = unsafe { turns::take(turns, WARM_UP) };
    // SAFETY: as the caller says.
    let (time, (times, failed)) = LoopTime::measure(|| Ok(unsafe { turns::take(turns, calls) }))?;
    let failed = failed + failed_first;
    ensure!(failed == 0, "{failed} calls of {name} did not answer as they must");

    let mut made = BTreeMap::new();
    for turn in turns {
        if let Some(op) = turn.op {
            *made.entry(op).or_insert(0) += warm_up + times;
        }
    }
    turns::note(caller, turns, warm_up + times);
    Ok(time.row(name, times * turns.len() as u64 / calls_each, &made))
}

/// Pages of a segment that are touched for the first time: as many at a time as the segment has. And how many segments
/// were made.
fn touch_pages(caller: &mut CountingCaller, calls: u64) -> Result<(Value, u64)> {
    const PAGE: usize = 4096;
    const PAGES: u64 = 4096;
    let segments = calls.div_ceil(PAGES);
    let mut touch = || -> Result<()> {
        let segment = caller.shmget(libc::IPC_PRIVATE, PAGES as usize * PAGE, 0o600);
        ensure!(!abi::is_error(segment), "shmget: {segment}");
        let at = caller.shmat(segment as i32, 0, 0);
        ensure!(!abi::is_error(at), "shmat: {at}");
        for page in 0..PAGES as usize {
            // SAFETY: the segment is mapped there, and has so many pages.
            unsafe { (at as *mut u8).byte_add(page * PAGE).write_volatile(1) };
        }
        caller.shmdt(at as u64);
        caller.shmctl(segment as i32, libc::IPC_RMID);
        Ok(())
    };
    touch()?;
    let (time, ()) = LoopTime::measure(|| (0..segments).try_for_each(|_| touch()))?;
    let row = time.row("first touch of a shm page", segments * PAGES, &BTreeMap::new());
    Ok((row, segments + 1))
}

/// Children that end at once, without a call of IPC; `program`: after they have executed it.
fn fork_children(name: &str, program: Option<&CStr>, children: u64) -> Result<Value> {
    let fork = || -> Result<()> {
        // SAFETY: the child only makes calls that are safe between fork and exec.
        let child = unsafe { libc::fork() };
        if child == 0 {
            if let Some(program) = program {
                let argv = [program.as_ptr(), std::ptr::null()];
                // SAFETY: both lists end with a null pointer.
                unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), argv[1..].as_ptr()) };
            }
            // SAFETY: it ends the child.
            unsafe { libc::_exit(i32::from(program.is_some())) };
        }
        ensure!(child > 0, "fork: {}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: the status is written to `status`.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        ensure!(ended == child && status == 0, "{name}: a child ended with {status}");
        Ok(())
    };
    (0..children.div_ceil(10)).try_for_each(|_| fork())?;
    let (time, ()) = LoopTime::measure(|| (0..children).try_for_each(|_| fork()))?;
    Ok(time.row(name, children, &BTreeMap::new()))
}

pub(crate) fn run(options: &BenchLoops) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let calls = options.calls;
    let id = |ret: i64, call: &str| {
        ensure!(!abi::is_error(ret), "{call}: {ret}");
        Ok(ret as u64)
    };
    let mut memory = MessageBuffer::new();

    let sem = id(caller.semget(libc::IPC_PRIVATE, 1, 0o600), "semget")?;
    // SAFETY: one sembuf each, which is only read, and no time limit.
    let semop = unsafe { time_loop(&mut caller, ("semop", 1), calls, &turns::semop(sem))? };
    caller.semctl(sem as i32, 0, libc::IPC_RMID, 0);

    let msq = id(caller.msgget(libc::IPC_PRIVATE, 0o600), "msgget")?;
    let message = turns::message(msq, &mut memory);
    // SAFETY: `memory` has room for both, and nothing else is done with it meanwhile.
    let msgsnd = unsafe { time_loop(&mut caller, ("msgsnd, msgrcv", 1), calls, &message)? };
    caller.msgctl(msq as i32, libc::IPC_RMID);

    // SAFETY: no addresses.
    let mut shmget = unsafe {
        time_loop(&mut caller, ("shmget, ENOENT", 1), calls, &[turns::missing_segment()])?
    };

    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let mq = id(caller.mq_open(QUEUE, flags, 0o600, Some((10, TEXT as i64))), "mq_open")?;
    let queue = turns::queue(mq, &mut memory);
    // SAFETY: as for msgsnd and msgrcv.
    let mq_send = unsafe { time_loop(&mut caller, ("mq_send, mq_receive", 1), calls, &queue)? };
    caller.mq_unlink(QUEUE);

    let parent = i64::from(parent_id());
    let getppid = Turn { op: None, number: libc::SYS_getppid, args: [0; 6], expected: parent };
    // SAFETY: no addresses.
    let getppid = unsafe { time_loop(&mut caller, ("getppid", 1), calls, &[getppid])? };

    let zero = std::fs::File::open("/dev/zero")?;
    let fd = zero.as_raw_fd() as u64;
    // SAFETY: `memory` has room for what is read.
    let read =
        unsafe { time_loop(&mut caller, ("read", 1), calls, &[turns::read(fd, &mut memory)])? };
    drop(zero);
    // The lowest free descriptor is the next one, again and again.
    // SAFETY: the path has its NUL; the descriptor is not in use.
    let open =
        unsafe { time_loop(&mut caller, ("open and close", 2), calls, &turns::file(FILE, fd))? };
    // SAFETY: nothing else is mapped there.
    let mmap = unsafe { time_loop(&mut caller, ("mmap and munmap", 2), calls, &turns::mapping())? };
    let (touch, segments) = touch_pages(&mut caller, calls / 8)?;
    // All calls of an operation are in one row.
    let found = shmget["made"]["shmget"].as_u64().unwrap_or(0);
    shmget["made"]["shmget"] = (found + segments).into();
    let fork = fork_children("fork, exit, wait", None, calls / 300)?;
    let exec = fork_children("fork, exec, exit, wait", Some(PROGRAM), calls / 1000)?;

    let loops = vec![semop, msgsnd, shmget, mq_send, getppid, read, open, mmap, touch, fork, exec];
    caller.report().fact("loops", loops).print()
}
