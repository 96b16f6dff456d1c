//! `queue-fd-passing`: a queue belongs to the namespace that it was created in. Processes can take or
//! send its descriptor elsewhere, and it even outlives the namespace.

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
use super::calls::{CountingCaller, Route};
use super::oracle::{WorkloadReport, outcome};
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
    // Join the carrier first: after a failure its error is the more useful one.
    process::join_all([carrier, stranger])?.print()
}

/// Takes the calls since the last time, and labels each with its queue's namespace.
pub(crate) fn take_labelled_log(
    caller: &mut CountingCaller,
    queue: u64,
    alive: bool,
) -> Vec<Value> {
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
    let mut calls = take_labelled_log(&mut caller, x, true);

    send_fd(socket, fd, x)?;
    steps.sent.wait()?;
    release.raise(1)?;
    holder.join()?;
    // A kernel worker destroys the namespace some time after its last member has ended.
    std::thread::sleep(Duration::from_millis(20));
    caller.mq_send(fd, b"to a queue of nowhere", 4, None);
    caller.mq_receive(fd, 64, None);
    caller.mq_receive(fd, 1, None);
    caller.mq_getsetattr(fd, None);
    calls.extend(take_labelled_log(&mut caller, x, false));
    steps.dead.raise(1)?;

    // Here the queue's name does not exist.
    caller.mq_open(NAME, libc::O_RDWR, 0, None);
    caller.mq_unlink(NAME);
    calls.extend(take_labelled_log(&mut caller, y, true));
    Ok(caller.report().fact("calls", calls).fact("home", home).fact("x", x).fact("y", y))
}

/// Receives the descriptor in Z, a namespace without any relation to X or Y.
fn stranger(socket: &OwnedFd, steps: &HandoverSteps) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::with_log("home")?;
    let z = caller.unshare("z")?;
    let (fd, x) = receive_fd(socket)?;
    caller.mq_send(fd.as_raw_fd(), b"from a stranger", 5, None);
    caller.mq_receive(fd.as_raw_fd(), 64, None);
    caller.mq_getsetattr(fd.as_raw_fd(), None);
    let mut calls = take_labelled_log(&mut caller, x, true);
    steps.sent.raise(1)?;
    steps.dead.wait()?;
    caller.mq_send(fd.as_raw_fd(), b"a late stranger", 6, None);
    calls.extend(take_labelled_log(&mut caller, x, false));
    Ok(caller.report().fact("calls", calls).fact("z", z))
}

/// Sends the descriptor, and the number of its queue's namespace.
pub(crate) fn send_fd(socket: &OwnedFd, fd: RawFd, inum: u64) -> Result<()> {
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

/// Receives what [`send_fd`] sent.
pub(crate) fn receive_fd(socket: &OwnedFd) -> Result<(OwnedFd, u64)> {
    let mut inum = [0; 8];
    let mut parts = [IoSliceMut::new(&mut inum)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let fd = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::ScmRights(fds) = control { fds.first().copied() } else { None }
    });
    let fd = fd.context("no descriptor arrived")?;
    // SAFETY: the kernel has just made this descriptor for this process.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, u64::from_ne_bytes(inum)))
}
