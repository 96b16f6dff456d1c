//! `overwritten`: calls that block while another thread overwrites their arguments in memory. The kernel copied
//! them before; what memory has afterwards was never an argument.

use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context as _, Result, ensure};

use super::abi::is_error;
use super::calls::{CountingCaller, Route, TimeLimit, slot};
use super::mq::close;
use super::oracle::outcome;
use super::process;
use super::sysv::SemStep;

/// A call that blocks.
#[derive(Clone, Copy, Debug)]
enum BlockingKind {
    Semop,
    Semtimedop,
    Msgsnd,
    Msgrcv,
    MqSend,
    MqReceive,
}

const KINDS: [BlockingKind; 6] = [
    BlockingKind::Semop,
    BlockingKind::Semtimedop,
    BlockingKind::Msgsnd,
    BlockingKind::Msgrcv,
    BlockingKind::MqSend,
    BlockingKind::MqReceive,
];

impl BlockingKind {
    /// Its number by that route.
    fn number(self, route: Route) -> i64 {
        match (self, route) {
            (Self::Semop, Route::Native) => libc::SYS_semop,
            (Self::Semtimedop, Route::Native) => libc::SYS_semtimedop,
            (Self::Msgsnd, Route::Native) => libc::SYS_msgsnd,
            (Self::Msgrcv, Route::Native) => libc::SYS_msgrcv,
            (Self::MqSend, Route::Native) => libc::SYS_mq_timedsend,
            (Self::MqReceive, Route::Native) => libc::SYS_mq_timedreceive,
            (Self::Semop | Self::Semtimedop, Route::Int80Direct) => 420,
            (Self::Msgsnd, Route::Int80Direct) => 400,
            (Self::Msgrcv, Route::Int80Direct) => 401,
            (Self::MqSend, Route::Int80Direct) => 418,
            (Self::MqReceive, Route::Int80Direct) => 419,
            (Self::MqSend, Route::Int80Ipc) => 279,
            (Self::MqReceive, Route::Int80Ipc) => 280,
            (_, Route::Int80Ipc) => 117,
        }
    }
}

/// What the calls are about.
#[derive(Clone, Copy, Debug)]
struct OverwrittenObjects {
    set: i32,
    full: i32,
    empty: i32,
    full_queue: i32,
    empty_queue: i32,
}

const TEXT: &[u8] = &[b'm'; 8000];

impl OverwrittenObjects {
    fn make(caller: &mut CountingCaller) -> Result<Self> {
        let set = caller.semget(libc::IPC_PRIVATE, 4, 0o600);
        let full = caller.msgget(libc::IPC_PRIVATE, 0o600);
        let empty = caller.msgget(libc::IPC_PRIVATE, 0o600);
        // 16,384 bytes are a queue's limit: of such messages a third one has to wait.
        for _ in 0..2 {
            caller.msgsnd(full as i32, 7, TEXT, 0);
        }
        let oflag = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let full_queue = caller.mq_open(b"full", oflag, 0o600, Some((1, 64)));
        let empty_queue = caller.mq_open(b"empty", oflag, 0o600, Some((1, 64)));
        caller.mq_send(full_queue as i32, b"first", 1, None);
        for id in [set, full, empty, full_queue, empty_queue] {
            ensure!(!is_error(id), "cannot create an object to block on: {}", outcome(id));
        }
        let [set, full, empty, full_queue, empty_queue] =
            [set, full, empty, full_queue, empty_queue].map(|id| id as i32);
        Ok(Self { set, full, empty, full_queue, empty_queue })
    }

    fn block(self, kind: BlockingKind, caller: &mut CountingCaller) -> i64 {
        let steps = [SemStep(1, 3, 0), SemStep(0, -1, libc::SEM_UNDO as i16)];
        let limit = Some(TimeLimit { sec: 60, nsec: 77 });
        let until = Some(TimeLimit::in_millis(60_000));
        match kind {
            BlockingKind::Semop => caller.semop(self.set, &steps[1..]),
            BlockingKind::Semtimedop => caller.semtimedop(self.set, &steps, limit),
            BlockingKind::Msgsnd => caller.msgsnd(self.full, 7, TEXT, 0),
            BlockingKind::Msgrcv => caller.msgrcv(self.empty, 64, 5, 0),
            BlockingKind::MqSend => caller.mq_send(self.full_queue, b"second", 3, until),
            BlockingKind::MqReceive => caller.mq_receive(self.empty_queue, 64, until),
        }
    }

    fn wake(self, kind: BlockingKind, caller: &mut CountingCaller) -> i64 {
        match kind {
            BlockingKind::Semop | BlockingKind::Semtimedop => {
                caller.semop(self.set, &[SemStep(0, 1, 0)])
            }
            BlockingKind::Msgsnd => caller.msgrcv(self.full, 8000, 0, libc::IPC_NOWAIT),
            BlockingKind::Msgrcv => caller.msgsnd(self.empty, 5, b"wake up", 0),
            BlockingKind::MqSend => caller.mq_receive(self.full_queue, 64, None),
            BlockingKind::MqReceive => caller.mq_send(self.empty_queue, b"wake up", 0, None),
        }
    }
}

pub(crate) fn run() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
    let mut caller = CountingCaller::new("overwritten")?;
    let objects = OverwrittenObjects::make(&mut caller)?;
    let mut calls = Vec::new();
    for route in Route::ALL {
        for kind in KINDS {
            let mut blocked = overwrite(&mut caller, objects, kind, route)
                .with_context(|| format!("{kind:?} by {}", route.name()))?;
            calls.extend(blocked.take_log());
            caller.absorb(blocked);
        }
    }
    close(i64::from(objects.full_queue));
    close(i64::from(objects.empty_queue));
    caller.report().fact("calls", calls).print()
}

/// One call, in a thread of its own.
fn overwrite(
    caller: &mut CountingCaller,
    objects: OverwrittenObjects,
    kind: BlockingKind,
    route: Route,
) -> Result<CountingCaller> {
    let mut blocked = CountingCaller::with_log("overwritten")?;
    blocked.by(route).use_old_msgrcv(true);
    let addresses = [slot::IN, slot::TIME, slot::WORD].map(|slot| blocked.good_pointer(slot));
    let tid = AtomicI32::new(0);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tid.store(process::tid(), Ordering::Release);
            let ret = objects.block(kind, &mut blocked);
            (blocked, ret)
        });
        while tid.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        let tid = tid.load(Ordering::Acquire);
        let is_blocked = process::wait_blocked(std::process::id() as i32, tid, kind.number(route));
        for address in addresses {
            // SAFETY: the arena's mapping lives until the thread is joined, has this much room at each
            // address, and is only used by the kernel while the thread is blocked.
            unsafe { std::ptr::write_bytes(address as *mut u8, 0x5a, 64) };
        }
        // Wake it in any case: otherwise the join below would never return.
        objects.wake(kind, caller);
        let (blocked, ret) = thread.join().expect("the thread panicked");
        is_blocked?;
        ensure!(!is_error(ret), "it failed: {}", outcome(ret));
        Ok(blocked)
    })
}
