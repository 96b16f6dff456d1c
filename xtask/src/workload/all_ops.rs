//! All 17 operations by one thread, each with a success and a failure.

use super::calls::{CountingCaller, TimeLimit};
use super::mq::close;
use super::sysv::SemStep;

/// A key that no object has.
const FREE: i32 = 0x3fff_fff0;
const NOWAIT: i16 = libc::IPC_NOWAIT as i16;

/// Makes all operations by the caller's present route, and leaves nothing behind. `name` is the
/// queue's.
pub(crate) fn call_all_ops(caller: &mut CountingCaller, name: &[u8]) {
    shared_memory(caller);
    semaphores(caller);
    messages(caller);
    queue(caller, name);
}

fn shared_memory(caller: &mut CountingCaller) {
    let id = caller.shmget(libc::IPC_PRIVATE, 8192, 0o600) as i32;
    let at = caller.shmat(id, 0, 0) as u64;
    caller.shmctl(id, libc::IPC_STAT);
    caller.shmctl(id, libc::IPC_SET);
    caller.shmdt(at);
    caller.shmdt(0x1000);
    caller.shmctl(id, libc::IPC_RMID);
    caller.shmctl(id, libc::IPC_STAT);
    caller.shmat(id, 0, 0);
    caller.shmget(FREE, 0, 0);
}

fn semaphores(caller: &mut CountingCaller) {
    let id = caller.semget(libc::IPC_PRIVATE, 2, 0o600) as i32;
    caller.semctl(id, 0, libc::SETVAL, 1);
    caller.semop(id, &[SemStep(0, -1, NOWAIT), SemStep(1, 1, 0)]);
    caller.semop(id, &[SemStep(0, -1, NOWAIT)]);
    caller.semtimedop(id, &[SemStep(0, -1, 0)], Some(TimeLimit { sec: 0, nsec: 300_000 }));
    caller.semop(id, &[SemStep(7, 1, 0)]);
    caller.fault().semop(id, &[SemStep(0, 1, 0)]);
    caller.semctl(id, 1, libc::GETVAL, 0);
    caller.semctl(id, 0, libc::GETALL, 0);
    caller.semctl(id, 0, libc::IPC_RMID, 0);
    caller.semctl(id, 0, libc::GETVAL, 0);
    caller.semget(FREE, 1, 0);
}

fn messages(caller: &mut CountingCaller) {
    let id = caller.msgget(libc::IPC_PRIVATE, 0o600) as i32;
    caller.msgsnd(id, 3, b"one of all messages", 0);
    caller.msgsnd(id, 0, b"type 0 there is not", 0);
    caller.msgrcv(id, 4, 0, libc::IPC_NOWAIT);
    caller.msgrcv(id, 64, 3, 0);
    caller.msgrcv(id, 64, 0, libc::IPC_NOWAIT);
    caller.msgctl(id, libc::IPC_STAT);
    caller.msgctl(id, libc::IPC_RMID);
    caller.msgctl(id, libc::IPC_STAT);
    caller.msgget(FREE, 0);
}

fn queue(caller: &mut CountingCaller, name: &[u8]) {
    let oflag = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK;
    let fd = caller.mq_open(name, oflag, 0o600, Some((1, 32)));
    caller.mq_open(name, oflag, 0o600, None);
    let mqdes = fd as i32;
    caller.mq_notify(mqdes, Some((libc::SIGEV_NONE, 0, 42)));
    caller.mq_notify(mqdes, Some((libc::SIGEV_NONE, 0, 43)));
    caller.mq_send(mqdes, b"first", 5, None);
    caller.mq_send(mqdes, b"the queue is full", 5, None);
    caller.mq_send(mqdes, &[b'x'; 33], 0, None);
    caller.mq_receive(mqdes, 32, None);
    caller.mq_receive(mqdes, 32, None);
    caller.mq_getsetattr(mqdes, Some(0));
    caller.mq_receive(mqdes, 32, Some(TimeLimit::in_millis(1)));
    close(fd);
    caller.mq_getsetattr(-1, None);
    caller.mq_notify(-1, None);
    caller.mq_unlink(name);
    caller.mq_unlink(name);
}
