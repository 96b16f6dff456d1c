//! `carried-queue`: a queue belongs to the namespace it was made in, but its descriptor goes
//! wherever a process takes or sends it, and even outlives the namespace.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde_json::{Value, json};

use super::abi::is_error;
use super::book::{WorkloadReport, outcome};
use super::calls::{CountingCaller, Route};
use super::process::{self, Flag};

const NAME: &[u8] = b"carried";

/// The steps at which the two processes wait for each other.
struct HandoverSteps {
    sent: Flag,
    dead: Flag,
}

pub(crate) fn run() -> Result<()> {
    let steps = HandoverSteps { sent: Flag::new()?, dead: Flag::new()? };
    let (left, right) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
    let stranger = process::spawn(b"stranger", || stranger(&right, &steps))?;
    let carrier = process::spawn(b"carrier", || carrier(&left, &steps))?;
    // The carrier first: it is the one that knows why, should anything fail.
    process::join_all([carrier, stranger])?.print()
}

/// Takes the calls made since the last time and says whose queue they were about.
pub(crate) fn about(caller: &mut CountingCaller, queue: u64, alive: bool) -> Vec<Value> {
    let mut calls = caller.take_log();
    for call in &mut calls {
        call["object_inum"] = json!(queue);
        call["object_alive"] = json!(alive);
    }
    calls
}

/// Makes the queue in X, then uses it from Y: while X lives, and when it is dead.
fn carrier(socket: &OwnedFd, steps: &HandoverSteps) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::with_log("home")?;
    let home = caller.inum();
    let x = caller.unshare("x")?;
    let fd = caller.mq_open(NAME, libc::O_CREAT | libc::O_RDWR, 0o600, Some((8, 64)));
    ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
    let fd = fd as i32;
    caller.mq_send(fd, b"at home", 1, None);
    let release = Flag::new()?;
    let holder = process::spawn(b"x-holder", || {
        release.wait()?;
        Ok(WorkloadReport::default())
    })?;
    let y = caller.unshare("y")?;
    caller.mq_send(fd, b"from another namespace", 2, None);
    caller.mq_receive(fd, 64, None);
    caller.mq_getsetattr(fd, None);
    caller.mq_notify(fd, Some((libc::SIGEV_NONE, 0, 1)));
    caller.mq_notify(fd, None);
    for route in [Route::Int80Direct, Route::Int80Ipc] {
        caller.by(route).mq_send(fd, b"32 bits wide", 3, None);
        caller.mq_receive(fd, 64, None);
    }
    caller.by(Route::Native);
    let mut calls = about(&mut caller, x, true);

    give(socket, fd, x)?;
    steps.sent.wait()?;
    release.raise(1)?;
    holder.join()?;
    // The last member was gone before it could be waited for; a kernel worker clears up.
    std::thread::sleep(Duration::from_millis(20));
    caller.mq_send(fd, b"to a queue of nowhere", 4, None);
    caller.mq_receive(fd, 64, None);
    caller.mq_receive(fd, 1, None);
    caller.mq_getsetattr(fd, None);
    calls.extend(about(&mut caller, x, false));
    steps.dead.raise(1)?;

    // By its name the queue is not to be found here.
    caller.mq_open(NAME, libc::O_RDWR, 0, None);
    caller.mq_unlink(NAME);
    calls.extend(about(&mut caller, y, true));
    Ok(caller.report().fact("calls", calls).fact("home", home).fact("x", x).fact("y", y))
}

/// Gets the descriptor in Z, a namespace which never had to do with X or Y.
fn stranger(socket: &OwnedFd, steps: &HandoverSteps) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::with_log("home")?;
    let z = caller.unshare("z")?;
    let (fd, x) = take(socket)?;
    caller.mq_send(fd.as_raw_fd(), b"from a stranger", 5, None);
    caller.mq_receive(fd.as_raw_fd(), 64, None);
    caller.mq_getsetattr(fd.as_raw_fd(), None);
    let mut calls = about(&mut caller, x, true);
    steps.sent.raise(1)?;
    steps.dead.wait()?;
    caller.mq_send(fd.as_raw_fd(), b"a late stranger", 6, None);
    calls.extend(about(&mut caller, x, false));
    Ok(caller.report().fact("calls", calls).fact("z", z))
}

/// Sends the descriptor, and the number of its queue's namespace.
pub(crate) fn give(socket: &OwnedFd, fd: RawFd, inum: u64) -> Result<()> {
    let rights = [fd];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&inum.to_ne_bytes())],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Receives what [`give`] sent.
pub(crate) fn take(socket: &OwnedFd) -> Result<(OwnedFd, u64)> {
    let mut inum = [0; 8];
    let mut parts = [IoSliceMut::new(&mut inum)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let fd = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::ScmRights(fds) = control { fds.first().copied() } else { None }
    });
    let fd = fd.context("no descriptor came")?;
    // SAFETY: the kernel has just made this descriptor for this process.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, u64::from_ne_bytes(inum)))
}
