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
use super::book::Op;
use super::calls::Caller;
use super::process::processor_time;

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

/// A semaphore is given back and taken: `sem_num`, `sem_op`, `sem_flg`.
const STEPS: [[u16; 3]; 2] =
    [[0, 1, libc::IPC_NOWAIT as u16], [0, -1_i16 as u16, libc::IPC_NOWAIT as u16]];

/// Bytes of a message's text.
const TEXT: usize = 16;

/// A key that is nobody's.
const NO_KEY: u64 = 0x7bad_0000;

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

/// One call with what it must answer.
struct Turn {
    op: Option<Op>,
    number: i64,
    args: [u64; 6],
    expected: i64,
}

/// Makes so many calls by turns: how many of each, and how many did not answer as they must.
///
/// # Safety
///
/// The addresses among the arguments suit the calls.
unsafe fn round(turns: &[Turn], calls: u64) -> (u64, u64) {
    let (times, mut failed) = (calls.div_ceil(turns.len() as u64), 0);
    for _ in 0..times {
        for turn in turns {
            // SAFETY: as the caller says.
            failed += u64::from(unsafe { abi::native(turn.number, turn.args) } != turn.expected);
        }
    }
    (times, failed)
}

/// Makes at least `calls` calls by turns: what one of them took, and how many there were.
///
/// # Safety
///
/// The addresses among the arguments suit the calls.
unsafe fn lap(caller: &mut Caller, name: &str, calls: u64, turns: &[Turn]) -> Result<Value> {
    let tracer = parent_id();
    // SAFETY: as the caller says.
    let (warm_up, failed_first) = unsafe { round(turns, WARM_UP) };
    let used_before = settle(tracer)?;
    let begin = Instant::now();
    // SAFETY: as the caller says.
    let (times, failed) = unsafe { round(turns, calls) };
    let during = begin.elapsed();
    let used_during = processor_time(tracer)?;
    let used_after = settle(tracer)?;
    let failed = failed + failed_first;
    ensure!(failed == 0, "{failed} calls of {name} did not answer as they must");

    let mut made = BTreeMap::new();
    for turn in turns {
        if let Some(op) = turn.op {
            *made.entry(op).or_insert(0) += warm_up + times;
            caller.note_many(op, turn.expected, warm_up + times);
        }
    }
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
    let mut caller = Caller::new("home")?;
    let calls = options.calls;
    let id = |ret: i64, call: &str| {
        ensure!(!abi::is_error(ret), "{call}: {ret}");
        Ok(ret as u64)
    };
    let turn = |op, number, args, expected| Turn { op: Some(op), number, args, expected };

    let sem = id(caller.semget(libc::IPC_PRIVATE, 1, 0o600), "semget")?;
    let semop = STEPS.each_ref().map(|step| {
        let args = [sem, step.as_ptr() as u64, 1, 0, 0, 0];
        turn(Op::Semop, libc::SYS_semtimedop, args, 0)
    });
    // SAFETY: one sembuf each, which is only read, and no time limit.
    let semop = unsafe { lap(&mut caller, "semop", calls, &semop)? };
    caller.semctl(sem as i32, 0, libc::IPC_RMID, 0);

    // struct msgbuf { long mtype; char mtext[]; }; of a queue's message, the text alone.
    let mut message = [1_u64; 1 + TEXT / 8];
    let at = message.as_mut_ptr() as u64;
    let (text, len) = (at + 8, TEXT as u64);

    let msq = id(caller.msgget(libc::IPC_PRIVATE, 0o600), "msgget")?;
    let msg = [
        turn(Op::Msgsnd, libc::SYS_msgsnd, [msq, at, len, 0, 0, 0], 0),
        turn(Op::Msgrcv, libc::SYS_msgrcv, [msq, at, len, 0, 0, 0], TEXT as i64),
    ];
    // SAFETY: `message` has room for both, and nothing else is done with it meanwhile.
    let msgsnd = unsafe { lap(&mut caller, "msgsnd, msgrcv", calls, &msg)? };
    caller.msgctl(msq as i32, libc::IPC_RMID);

    let missing = -i64::from(libc::ENOENT);
    let shmget = turn(Op::Shmget, libc::SYS_shmget, [NO_KEY, 4096, 0, 0, 0, 0], missing);
    // SAFETY: no addresses.
    let shmget = unsafe { lap(&mut caller, "shmget, ENOENT", calls, &[shmget])? };

    let size = Some((10, len as i64));
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let mq = id(caller.mq_open(QUEUE, flags, 0o600, size), "mq_open")?;
    let queue = [
        turn(Op::MqSend, libc::SYS_mq_timedsend, [mq, text, len, 0, 0, 0], 0),
        turn(Op::MqReceive, libc::SYS_mq_timedreceive, [mq, text, len, 0, 0, 0], TEXT as i64),
    ];
    // SAFETY: as for msgsnd and msgrcv; no time limit, and no address for the priority.
    let mq_send = unsafe { lap(&mut caller, "mq_send, mq_receive", calls, &queue)? };
    caller.mq_unlink(QUEUE);

    let parent = i64::from(parent_id());
    let getppid = Turn { op: None, number: libc::SYS_getppid, args: [0; 6], expected: parent };
    // SAFETY: no addresses.
    let getppid = unsafe { lap(&mut caller, "getppid", calls, &[getppid])? };

    let laps = vec![semop, msgsnd, shmget, mq_send, getppid];
    caller.report().fact("laps", laps).print()
}
