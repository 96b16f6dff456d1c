//! `sleepers`: many threads that make calls and then wait, some in a call and some not, until standard input ends.

use std::io::Read as _;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::errno::Errno;

use super::abi::is_error;
use super::calls::CountingCaller;
use super::oracle::{WorkloadOp, outcome};

/// Options of `sleepers`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sleepers {
    /// How many threads, of which every other one waits in a call
    #[arg(long, default_value_t = 3500)]
    threads: u32,
    /// How many calls a thread makes that comes when they have waited
    #[arg(long, default_value_t = 10_000)]
    calls: u32,
}

/// Calls that each makes before it waits, of which the last ones come together.
const BEFORE: u32 = 6;

pub(crate) fn run(options: &Sleepers) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let set = caller.semget(libc::IPC_PRIVATE, 2, 0o600);
    ensure!(!is_error(set), "semget: {}", outcome(set));
    let set = set as i32;
    let threads = options.threads;
    let (asleep, over) = (
        Arc::new(Barrier::new(threads as usize + 1)),
        Arc::new(Barrier::new(threads as usize + 1)),
    );
    let mut all = Vec::new();
    for number in 0..threads {
        let (asleep, over) = (Arc::clone(&asleep), Arc::clone(&over));
        let work = move || -> Result<()> {
            for _ in 0..BEFORE / 2 {
                step(set, 0, 1)?;
                step(set, 0, -1)?;
            }
            asleep.wait();
            if number % 2 == 0 {
                step(set, 1, -1)?;
            }
            over.wait();
            // As before, where what is remembered of a thread may be another thread's by now.
            step(set, 0, 1)?;
            step(set, 0, -1)
        };
        all.push(std::thread::Builder::new().stack_size(64 << 10).spawn(work)?);
    }
    asleep.wait();
    let waiting = threads.div_ceil(2);
    while caller.semctl(set, 1, libc::GETNCNT, 0) < i64::from(waiting) {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("asleep");
    let begin = Instant::now();
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let waited = begin.elapsed().as_nanos();
    let late = std::thread::spawn({
        let calls = options.calls;
        move || (0..calls / 2).try_for_each(|_| step(set, 0, 1).and_then(|()| step(set, 0, -1)))
    });
    late.join().expect("a thread of the workload panicked")?;
    step(set, 1, i16::try_from(waiting)?)?;
    over.wait();
    for thread in all {
        thread.join().expect("a thread of the workload panicked")?;
    }
    let calls = threads * (BEFORE + 2) + waiting + options.calls / 2 * 2 + 1;
    caller.note_many(WorkloadOp::Semop, 0, u64::from(calls));
    caller.semctl(set, 0, libc::IPC_RMID, 0);
    caller.report().fact("waiting", waiting).fact("waited_ns", waited as u64).print()
}

/// semop of one operation.
fn step(set: i32, number: u16, by: i16) -> Result<()> {
    let operation = libc::sembuf { sem_num: number, sem_op: by, sem_flg: 0 };
    // SAFETY: one operation, which is only read.
    let done = unsafe { libc::syscall(libc::SYS_semop, set, &raw const operation, 1) };
    ensure!(done == 0, "semop: {}", Errno::last());
    Ok(())
}
