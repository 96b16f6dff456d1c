//! Loops of several kinds, one after the other, each with all that its calls cost on a machine with
//! one processor: the time that passes is that of the caller and of the tracer, which is this
//! process's parent. What the tracer has left to do when a loop ends is added.
//!
//! Where the clock counts instructions, those times are numbers of instructions.

use std::collections::BTreeMap;
use std::os::unix::process::parent_id;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::abi;
use super::calls::CountingCaller;
use super::process::processor_time;
use super::turns::{self, MessageBuffer, TEXT, Turn};

/// Options of `laps`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Laps {
    /// How many calls of each kind are timed.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(2..))]
    calls: u64,
}

/// Calls before the timed ones: caches are filled, and the tracer has told what it tells once.
const WARM_UP: u64 = 2000;

/// How long the tracer is left alone before it is looked at again. Longer than it naps.
const STEP: Duration = Duration::from_millis(100);

/// A tracer that uses less of a step than this has nothing to do.
const QUIET: Duration = Duration::from_millis(2);

/// The name of a queue.
const QUEUE: &[u8] = b"laps";

/// Waits until the tracer has nothing to do: what it has used by then.
fn settle(tracer: u32) -> Result<Duration> {
    let mut before = processor_time(tracer)?;
    loop {
        std::thread::sleep(STEP);
        let now = processor_time(tracer)?;
        if now.saturating_sub(before) < QUIET {
            return Ok(now);
        }
        before = now;
    }
}

/// Makes at least `calls` calls by turns: what one of them took, and how many there were.
///
/// # Safety
///
/// The addresses among the arguments suit the calls.
unsafe fn lap(
    caller: &mut CountingCaller,
    name: &str,
    calls: u64,
    turns: &[Turn],
) -> Result<Value> {
    let tracer = parent_id();
    // SAFETY: as the caller says.
    let (warm_up, failed_first) = unsafe { turns::take(turns, WARM_UP) };
    let used_before = settle(tracer)?;
    let begin = Instant::now();
    // SAFETY: as the caller says.
    let (times, failed) = unsafe { turns::take(turns, calls) };
    let during = begin.elapsed();
    let used_during = processor_time(tracer)?;
    let used_after = settle(tracer)?;
    let failed = failed + failed_first;
    ensure!(failed == 0, "{failed} calls of {name} did not answer as they must");

    let mut made = BTreeMap::new();
    for turn in turns {
        if let Some(op) = turn.op {
            *made.entry(op).or_insert(0) += warm_up + times;
        }
    }
    turns::note(caller, turns, warm_up + times);
    let whole = during + used_after.saturating_sub(used_during);
    let calls = (times * turns.len() as u64) as f64;
    let per_call = |time: Duration| time.as_nanos() as f64 / calls;
    Ok(json!({
        "name": name,
        "ns_per_call": per_call(whole),
        "tracer_ns_per_call": per_call(used_after.saturating_sub(used_before)),
        "made": made,
    }))
}

pub(crate) fn run(options: &Laps) -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let calls = options.calls;
    let id = |ret: i64, call: &str| {
        ensure!(!abi::is_error(ret), "{call}: {ret}");
        Ok(ret as u64)
    };
    let mut memory = MessageBuffer::new();

    let sem = id(caller.semget(libc::IPC_PRIVATE, 1, 0o600), "semget")?;
    // SAFETY: one sembuf each, which is only read, and no time limit.
    let semop = unsafe { lap(&mut caller, "semop", calls, &turns::semop(sem))? };
    caller.semctl(sem as i32, 0, libc::IPC_RMID, 0);

    let msq = id(caller.msgget(libc::IPC_PRIVATE, 0o600), "msgget")?;
    let message = turns::message(msq, &mut memory);
    // SAFETY: `memory` has room for both, and nothing else is done with it meanwhile.
    let msgsnd = unsafe { lap(&mut caller, "msgsnd, msgrcv", calls, &message)? };
    caller.msgctl(msq as i32, libc::IPC_RMID);

    // SAFETY: no addresses.
    let shmget = unsafe { lap(&mut caller, "shmget, ENOENT", calls, &[turns::missing_segment()])? };

    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let mq = id(caller.mq_open(QUEUE, flags, 0o600, Some((10, TEXT as i64))), "mq_open")?;
    let queue = turns::queue(mq, &mut memory);
    // SAFETY: as for msgsnd and msgrcv.
    let mq_send = unsafe { lap(&mut caller, "mq_send, mq_receive", calls, &queue)? };
    caller.mq_unlink(QUEUE);

    let parent = i64::from(parent_id());
    let getppid = Turn { op: None, number: libc::SYS_getppid, args: [0; 6], expected: parent };
    // SAFETY: no addresses.
    let getppid = unsafe { lap(&mut caller, "getppid", calls, &[getppid])? };

    let laps = vec![semop, msgsnd, shmget, mq_send, getppid];
    caller.report().fact("laps", laps).print()
}
