//! Tight loops for benches: what one call costs, with and without a tracer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};

use super::abi;
use super::calls::CountingCaller;
use super::oracle::{WorkloadOp, WorkloadReport};
use super::process;

/// Options of the loops with a number of calls.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CountedLoop {
    /// How many calls are timed.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Leave for a new IPC namespace first.
    #[arg(long)]
    fresh: bool,
}

/// Options of `semop-flood`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SemopFlood {
    /// For how long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many threads, each with its own semaphore set.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Leave for a new IPC namespace first.
    #[arg(long)]
    fresh: bool,
    /// So many calls, spread over the time, on a queue of another namespace.
    #[arg(long, default_value_t = 0)]
    foreign: u32,
}

/// A semaphore set and the two operations which undo each other, laid out in advance.
struct Seesaw {
    caller: CountingCaller,
    sem: i32,
    steps: [[u16; 3]; 2],
}

impl Seesaw {
    fn new(mut caller: CountingCaller) -> Result<Self> {
        let sem = caller.semget(libc::IPC_PRIVATE, 1, 0o600);
        ensure!(!abi::is_error(sem), "semget: {sem}");
        let nowait = libc::IPC_NOWAIT as u16;
        Ok(Self { caller, sem: sem as i32, steps: [[0, 1, nowait], [0, -1_i16 as u16, nowait]] })
    }

    /// Makes `calls` calls; how many of them failed is returned.
    #[inline]
    fn swing(&self, calls: u64) -> u64 {
        let mut failed = 0;
        for i in 0..calls {
            let step = self.steps[(i & 1) as usize].as_ptr() as u64;
            // SAFETY: one sembuf, which is only read, and no timeout.
            let ret =
                unsafe { abi::native(libc::SYS_semtimedop, [self.sem as u64, step, 1, 0, 0, 0]) };
            failed += u64::from(ret != 0);
        }
        failed
    }

    /// Removes the set, and counts these calls as successful.
    fn end(mut self, calls: u64, failed: u64) -> Result<WorkloadReport> {
        ensure!(failed == 0, "{failed} calls of semtimedop failed");
        self.caller.note_many(WorkloadOp::Semop, 0, calls);
        self.caller.semctl(self.sem, 0, libc::IPC_RMID, 0);
        Ok(self.caller.report())
    }
}

fn caller(fresh: bool) -> Result<CountingCaller> {
    if fresh {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
    }
    CountingCaller::new(if fresh { "fresh" } else { "home" })
}

/// The time that calls take: wall time, and the thread's processor time, which
/// does not depend on what else is running.
struct Stopwatch {
    wall: Instant,
    processor: Duration,
}

impl Stopwatch {
    fn start() -> Result<Self> {
        Ok(Self { processor: processor_time()?, wall: Instant::now() })
    }

    fn enter(self, report: WorkloadReport, calls: u64) -> Result<WorkloadReport> {
        let wall = self.wall.elapsed();
        let processor = processor_time()?.saturating_sub(self.processor);
        let per_call = |time: Duration| time.as_nanos() as f64 / calls as f64;
        Ok(report
            .fact("calls", calls)
            .fact("ns_per_call", per_call(wall))
            .fact("processor_ns_per_call", per_call(processor))
            .fact("tid", process::tid()))
    }
}

fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

pub(crate) fn semop(options: &CountedLoop) -> Result<()> {
    let seesaw = Seesaw::new(caller(options.fresh)?)?;
    let stopwatch = Stopwatch::start()?;
    let failed = seesaw.swing(options.calls);
    let times = stopwatch.enter(WorkloadReport::default(), options.calls)?;
    let mut report = seesaw.end(options.calls, failed)?;
    report.absorb(times);
    report.print()
}

pub(crate) fn getppid(options: &CountedLoop) -> Result<()> {
    let caller = caller(options.fresh)?;
    let stopwatch = Stopwatch::start()?;
    for _ in 0..options.calls {
        // SAFETY: getppid takes no argument.
        unsafe { abi::native(libc::SYS_getppid, [0; 6]) };
    }
    stopwatch.enter(caller.report(), options.calls)?.print()
}

pub(crate) fn flood(options: &SemopFlood) -> Result<()> {
    let seconds = Duration::try_from_secs_f64(options.seconds)?;
    let parent = caller(options.fresh)?;
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let report = std::thread::scope(|scope| -> Result<WorkloadReport> {
        let mut threads = Vec::new();
        for number in 0..options.threads {
            let (over, sibling) = (&over, parent.sibling());
            let name = format!("flood-{number}");
            threads.push(std::thread::Builder::new().name(name).spawn_scoped(
                scope,
                move || {
                    let seesaw = Seesaw::new(sibling?)?;
                    let (mut calls, mut failed) = (0, 0);
                    while !over.load(Ordering::Relaxed) {
                        failed += seesaw.swing(1000);
                        calls += 1000;
                    }
                    seesaw.end(calls, failed)
                },
            )?);
        }
        let foreign = if options.foreign > 0 {
            use_foreign_queue(parent.sibling()?, options.foreign, seconds)
        } else {
            std::thread::sleep(seconds);
            Ok(WorkloadReport::default())
        };
        over.store(true, Ordering::Relaxed);
        let mut report = foreign?;
        for thread in threads {
            report.absorb(thread.join().expect("a thread of the workload panicked")?);
        }
        Ok(report)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    // Each thread also made and removed its set; the queue was opened and unlinked.
    let foreign = u64::from(options.foreign);
    let others = if foreign > 0 { foreign + 2 } else { 0 };
    let calls = report.counts.total() - 2 * u64::from(options.threads) - others;
    report
        .fact("calls", calls)
        .fact("seconds", elapsed)
        .fact("calls_per_second", calls as f64 / elapsed)
        .print()
}

/// Makes a queue, leaves its namespace, and makes so many calls on it within this time.
fn use_foreign_queue(
    mut caller: CountingCaller,
    calls: u32,
    within: Duration,
) -> Result<WorkloadReport> {
    const NAME: &[u8] = b"foreign-in-a-flood";
    let (flags, size) = (libc::O_CREAT | libc::O_RDWR | libc::O_NONBLOCK, Some((8, 64)));
    let fd = caller.mq_open(NAME, flags, 0o600, size);
    ensure!(!abi::is_error(fd), "mq_open: {fd}");
    caller.mq_unlink(NAME);
    caller.unshare("beside-the-flood")?;
    let start = Instant::now();
    for number in 0..calls {
        match number % 3 {
            0 => caller.mq_send(fd as i32, b"in between", 1, None),
            1 => caller.mq_receive(fd as i32, 64, None),
            _ => caller.mq_getsetattr(fd as i32, None),
        };
        let due = within.mul_f64(f64::from(number + 1) / f64::from(calls));
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(caller.report().fact("foreign_tid", process::tid()))
}
