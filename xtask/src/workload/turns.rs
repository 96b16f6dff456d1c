//! Calls that are made over and over, prepared in advance: nothing happens between two calls.

use std::ffi::CStr;

use super::abi;
use super::calls::CountingCaller;
use super::oracle::WorkloadOp;

/// A semaphore is given back and taken: `sem_num`, `sem_op`, `sem_flg`.
const STEPS: [[u16; 3]; 2] =
    [[0, 1, libc::IPC_NOWAIT as u16], [0, -1_i16 as u16, libc::IPC_NOWAIT as u16]];

/// Bytes of a message's text.
pub(super) const TEXT: usize = 16;

/// A key that no object has.
const NO_KEY: u64 = 0x7bad_0000;

/// One call with its expected result.
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

/// A file is opened and closed. `fd`: the lowest free descriptor.
pub(super) fn file(path: &CStr, fd: u64) -> [Turn; 2] {
    let at = libc::AT_FDCWD as u64;
    let turn = |number, args, expected| Turn { op: None, number, args, expected };
    [
        turn(
            libc::SYS_openat,
            [at, path.as_ptr() as u64, libc::O_RDONLY as u64, 0, 0, 0],
            fd as i64,
        ),
        turn(libc::SYS_close, [fd, 0, 0, 0, 0, 0], 0),
    ]
}

/// A page is mapped and unmapped.
pub(super) fn mapping() -> [Turn; 2] {
    /// Where no program maps anything by itself.
    const AT: u64 = 0x1000_0000_0000;
    const LEN: u64 = 4096;
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let turn = |number, args, expected| Turn { op: None, number, args, expected };
    [
        turn(libc::SYS_mmap, [AT, LEN, protection, flags, u64::MAX, 0], AT as i64),
        turn(libc::SYS_munmap, [AT, LEN, 0, 0, 0, 0], 0),
    ]
}

/// Bytes are read from a descriptor.
pub(super) fn read(fd: u64, buffer: &mut MessageBuffer) -> Turn {
    let args = [fd, buffer.at(), TEXT as u64, 0, 0, 0];
    Turn { op: None, number: libc::SYS_read, args, expected: TEXT as i64 }
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

/// Makes at least `calls` calls by turns: how many of each, and how many had an unexpected result.
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

/// Counts so many calls of each, with the expected result.
pub(super) fn note(caller: &mut CountingCaller, turns: &[Turn], times: u64) {
    for turn in turns {
        if let Some(op) = turn.op {
            caller.note_many(op, turn.expected, times);
        }
    }
}
