//! Calls that are made over and over, laid out in advance: nothing is done between one and the next.

use super::abi;
use super::book::WorkloadOp;
use super::calls::CountingCaller;

/// A semaphore is given back and taken: `sem_num`, `sem_op`, `sem_flg`.
const STEPS: [[u16; 3]; 2] =
    [[0, 1, libc::IPC_NOWAIT as u16], [0, -1_i16 as u16, libc::IPC_NOWAIT as u16]];

/// Bytes of a message's text.
pub(super) const TEXT: usize = 16;

/// A key that is nobody's.
const NO_KEY: u64 = 0x7bad_0000;

/// One call with what it must answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Which operation it is, if it is one
    pub(super) op: Option<WorkloadOp>,
    /// The native system call
    pub(super) number: i64,
    /// Its arguments
    pub(super) args: [u64; 6],
    /// The kernel's raw answer
    pub(super) expected: i64,
}

impl Turn {
    fn new(op: WorkloadOp, number: i64, args: [u64; 6], expected: i64) -> Self {
        Self { op: Some(op), number, args, expected }
    }
}

/// Memory that messages are sent from and received into.
#[derive(Debug)]
pub(super) struct MessageBuffer(Box<[u64; 1 + TEXT / 8]>);

impl MessageBuffer {
    /// A message of type 1.
    pub(super) fn new() -> Self {
        Self(Box::new([1; _]))
    }

    /// Where it begins: `struct msgbuf { long mtype; char mtext[]; }`.
    fn at(&mut self) -> u64 {
        self.0.as_mut_ptr() as u64
    }
}

/// A semaphore is given back and taken.
pub(super) fn semop(sem: u64) -> [Turn; 2] {
    STEPS.each_ref().map(|step| {
        Turn::new(
            WorkloadOp::Semop,
            libc::SYS_semtimedop,
            [sem, step.as_ptr() as u64, 1, 0, 0, 0],
            0,
        )
    })
}

/// A message is sent and received.
pub(super) fn message(msq: u64, message: &mut MessageBuffer) -> [Turn; 2] {
    let args = [msq, message.at(), TEXT as u64, 0, 0, 0];
    [
        Turn::new(WorkloadOp::Msgsnd, libc::SYS_msgsnd, args, 0),
        Turn::new(WorkloadOp::Msgrcv, libc::SYS_msgrcv, args, TEXT as i64),
    ]
}

/// A segment that nobody has made is asked for.
pub(super) fn missing_segment() -> Turn {
    let missing = -i64::from(libc::ENOENT);
    Turn::new(WorkloadOp::Shmget, libc::SYS_shmget, [NO_KEY, 4096, 0, 0, 0, 0], missing)
}

/// A message of a POSIX queue is sent and received: its text alone, without a time limit, and without an
/// address for the priority.
pub(super) fn queue(mq: u64, message: &mut MessageBuffer) -> [Turn; 2] {
    let args = [mq, message.at() + 8, TEXT as u64, 0, 0, 0];
    [
        Turn::new(WorkloadOp::MqSend, libc::SYS_mq_timedsend, args, 0),
        Turn::new(WorkloadOp::MqReceive, libc::SYS_mq_timedreceive, args, TEXT as i64),
    ]
}

/// Makes at least `calls` calls by turns: how many of each, and how many did not answer as they must.
///
/// # Safety
///
/// The addresses among the arguments suit the calls.
pub(super) unsafe fn take(turns: &[Turn], calls: u64) -> (u64, u64) {
    let (times, mut failed) = (calls.div_ceil(turns.len() as u64), 0);
    for _ in 0..times {
        for turn in turns {
            // SAFETY: as the caller says.
            failed += u64::from(unsafe { abi::native(turn.number, turn.args) } != turn.expected);
        }
    }
    (times, failed)
}

/// Enters that each of them was made so often, and answered as it must.
pub(super) fn note(caller: &mut CountingCaller, turns: &[Turn], times: u64) {
    for turn in turns {
        if let Some(op) = turn.op {
            caller.note_many(op, turn.expected, times);
        }
    }
}
