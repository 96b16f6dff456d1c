//! `all-args`: every operation with distinct arguments, by every route.

use anyhow::Result;

use super::calls::{CountingCaller, Route, TimeLimit, slot};
use super::mq::close;
use super::process;
use super::sysv::SemStep;

const NOWAIT: i16 = libc::IPC_NOWAIT as i16;
const CREATE: i32 = libc::IPC_CREAT | libc::IPC_EXCL;

pub(crate) fn run() -> Result<()> {
    let mut caller = CountingCaller::with_log("home")?;
    caller.unshare("all-args")?;
    for (i, route) in Route::ALL.into_iter().enumerate() {
        // Keys, names and the like differ from route to route.
        let n = i as i32 + 1;
        caller.by(route);
        shared_memory(&mut caller, n);
        semaphores(&mut caller, n);
        messages(&mut caller, n);
        queues(&mut caller, n);
    }
    let calls = caller.take_log();
    caller.report().fact("tid", process::tid()).fact("calls", calls).print()
}

fn shared_memory(caller: &mut CountingCaller, n: i32) {
    // A negative key is a key; a size above 2 GiB is a size.
    caller.shmget(-0x0021_5200 - n, 0x1_2345, CREATE | 0o640);
    caller.shmget(0x0051_5200 + n, 0xfedc_b000, 0);
    let id = caller.shmget(0x0051_5200 + n, 0x5678, CREATE | 0o600 | libc::SHM_NORESERVE) as i32;
    let hint = if caller.route().is_32bit() { 0x1234_5678 } else { 0x0123_4567_89ab };
    let at = caller.shmat(id, hint, libc::SHM_RND);
    let read_only = caller.shmat(id, 0, libc::SHM_RDONLY);
    caller.shmat(id, 0x1001, 0);
    for cmd in [libc::IPC_STAT, libc::IPC_SET, libc::SHM_LOCK, libc::SHM_UNLOCK, libc::IPC_INFO] {
        caller.shmctl(id, cmd);
    }
    caller.shmctl(0x7bad_1d00, libc::IPC_STAT);
    caller.shmctl(id, 0x7c3d);
    caller.fault().shmctl(id, libc::IPC_STAT);
    caller.shmdt(at as u64);
    caller.shmdt(read_only as u64);
    caller.shmdt(0x0bad_d000);
    caller.shmctl(id, libc::IPC_RMID);
    let other = caller.shmget(-0x0021_5200 - n, 0, 0) as i32;
    caller.shmctl(other, libc::IPC_RMID);
}

fn semaphores(caller: &mut CountingCaller, n: i32) {
    let id = caller.semget(0x05e3_5200 + n, 70, CREATE | 0o606) as i32;
    caller.semget(0x05e3_5200 + n, 71, 0o444);
    caller.semctl(id, 3, libc::SETVAL, 321 + n);
    caller.semctl(id, 4, libc::SETVAL, -7);
    for cmd in [libc::GETVAL, libc::GETPID, libc::GETNCNT, libc::GETZCNT] {
        caller.semctl(id, 3, cmd, 0);
    }
    let values: Vec<u8> = (0..70_u16).flat_map(|i| (i + 10).to_ne_bytes()).collect();
    caller.put(slot::OUT, &values);
    caller.semctl(id, 0, libc::SETALL, 0);
    caller.semctl(id, 0, libc::GETALL, 0);
    caller.semctl(id, 0, libc::IPC_STAT, 0);
    caller.semctl(id, 0, libc::IPC_SET, 0);
    caller.semop(id, &[SemStep(5, 11, 0)]);
    caller.semop(
        id,
        &[SemStep(6, -3, libc::SEM_UNDO as i16), SemStep(69, 0, NOWAIT), SemStep(7, 2, 0)],
    );
    caller.semop(id, &[SemStep(8, -32_000, NOWAIT)]);
    let many: Vec<SemStep> = (0..70).map(|i| SemStep(i, i as i16 + 1, 0)).collect();
    caller.semop(id, &many);
    caller.semop(id, &[]);
    caller.semop(id, &[SemStep(70, 1, 0)]);
    caller.semop(0x7bad_1d01, &[SemStep(1, 2, 0)]);
    caller.fault().semop(id, &[SemStep(0, 1, 0)]);
    let brief = TimeLimit { sec: 0, nsec: 1_234_567 };
    caller.semtimedop(id, &[SemStep(9, -31_000, 0)], Some(brief));
    caller.semtimedop(id, &[SemStep(10, 1, 0)], Some(TimeLimit { sec: 77, nsec: 88 }));
    caller.semtimedop(id, &[SemStep(11, 1, 0)], Some(TimeLimit { sec: 1, nsec: 2_000_000_000 }));
    caller.semtimedop(id, &[SemStep(12, 1, 0)], None);
    caller.semctl(id, 0, libc::IPC_RMID, 0);
}

fn messages(caller: &mut CountingCaller, n: i32) {
    let id = caller.msgget(0x0635_5200 + n, CREATE | 0o622) as i32;
    caller.msgget(0x0635_5200 + n, CREATE);
    caller.msgsnd(id, 0x1234_5678, b"seventeen bytes..", 0);
    caller.msgsnd(id, 1 + i64::from(n), b"", libc::IPC_NOWAIT);
    caller.msgsnd(id, -5, b"bad type", libc::IPC_NOWAIT);
    caller.msgsnd_sized(id, 6, b"too long", 0x2_0001, 0);
    caller.fault().msgsnd(id, 7, b"nowhere", 0);
    if !caller.route().is_32bit() {
        caller.msgsnd(id, 0x0012_3456_789a, b"a type for 64 bits", libc::IPC_NOWAIT);
        caller.msgrcv(id, 99, 0x0012_3456_789a, libc::IPC_NOWAIT);
    }
    caller.msgrcv(id, 5, 0x1234_5678, libc::IPC_NOWAIT);
    caller.msgrcv(id, 5, 0x1234_5678, libc::IPC_NOWAIT | libc::MSG_NOERROR);
    // Both ways to pass the arguments, where there are two.
    for old in [true, false] {
        caller.use_old_msgrcv(old);
        caller.msgrcv(id, 4321, 0x765, libc::IPC_NOWAIT);
        caller.msgrcv(id, 1234, -0x10, libc::IPC_NOWAIT);
        caller.msgrcv(id, 64, 2, libc::IPC_NOWAIT | libc::MSG_EXCEPT);
    }
    caller.msgrcv(0x7bad_1d02, 64, 1, 0);
    for cmd in [libc::IPC_STAT, libc::IPC_SET, libc::MSG_INFO, 0x7c3d] {
        caller.msgctl(id, cmd);
    }
    caller.msgctl(id, libc::IPC_RMID);
}

fn queues(caller: &mut CountingCaller, n: i32) {
    let name = format!("all-args-{n}");
    let name = name.as_bytes();
    let oflag = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let fd = caller.mq_open(name, oflag, 0o651, Some((3, 77)));
    caller.mq_open(name, oflag, 0o600, None);
    caller.mq_open(b"all-args-missing", libc::O_WRONLY, 0, None);
    caller.mq_open(b"all-args-bad-size", libc::O_CREAT | libc::O_RDWR, 0o600, Some((-1, 8)));
    caller.mq_open(&[b'n'; 255], libc::O_RDONLY, 0, None);
    caller.mq_open(&[b'n'; 256], libc::O_RDONLY, 0, None);
    caller.mq_open(b"with/slash", libc::O_CREAT | libc::O_RDWR, 0o600, None);
    caller.mq_open(b"", libc::O_RDONLY, 0, None);
    caller.fault().mq_open(name, libc::O_RDONLY, 0, None);
    let mqdes = fd as i32;
    caller.mq_notify(mqdes, Some((libc::SIGEV_NONE, 0, 0x1dea)));
    caller.mq_notify(mqdes, Some((libc::SIGEV_SIGNAL, libc::SIGUSR2, 0x1deb)));
    caller.mq_notify(mqdes, Some((libc::SIGEV_SIGNAL, 99, 0x1dec)));
    caller.mq_notify(mqdes, None);
    let until = TimeLimit { sec: 2_000_000_000, nsec: 123_456_789 };
    caller.mq_send(mqdes, b"eleven.....", 12_345, None);
    caller.mq_send(mqdes, b"sixteen.........", 32_767, Some(until));
    caller.mq_send(mqdes, b"bad priority", 32_768, None);
    caller.mq_send(mqdes, &[b'x'; 78], 1, None);
    caller.mq_send(mqdes, b"", 2, None);
    caller.mq_send(mqdes, b"one too many", 3, None);
    caller.fault().mq_send(mqdes, b"nowhere", 4, None);
    caller.mq_getsetattr(mqdes, None);
    caller.mq_receive(mqdes, 76, None);
    caller.mq_receive(mqdes, 77, Some(until));
    caller.mq_receive(mqdes, 4096, None);
    caller.mq_receive(mqdes, 77, Some(TimeLimit { sec: 3, nsec: -1 }));
    caller.mq_receive(mqdes, 77, None);
    caller.mq_receive(mqdes, 77, None);
    caller.mq_getsetattr(mqdes, Some(0));
    caller.mq_receive(mqdes, 77, Some(TimeLimit { sec: 12, nsec: 34 }));
    caller.mq_getsetattr(mqdes, Some(0x0123_4567));
    caller.mq_send(0x0bad_fd00, b"no descriptor", 0, None);
    caller.mq_receive(0x0bad_fd01, 1, None);
    caller.mq_notify(0x0bad_fd02, None);
    caller.mq_getsetattr(0x0bad_fd03, None);
    caller.mq_unlink(name);
    caller.mq_unlink(name);
    close(fd);
}
