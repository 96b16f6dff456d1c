//! `changing-caller` and `two-namespaces`: threads that change their identity or namespace between identical
//! calls.

use std::io::Read as _;
use std::sync::mpsc;

use anyhow::{Result, anyhow, ensure};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use serde_json::json;

use super::abi::is_error;
use super::calls::CountingCaller;
use super::mq::close;
use super::oracle::{WorkloadReport, outcome};
use super::process;
use super::sysv::SemStep;

/// The user and group that the process switches to.
const USER: u32 = 1004;
const GROUP: u32 = 1005;

/// One thread uses a set that anybody may write under four names: as itself, in another group, as another
/// user, and by another name.
pub(crate) fn caller() -> Result<()> {
    process::spawn(b"as-root", || {
        let mut caller = CountingCaller::new("home")?;
        let inum = caller.unshare("changing")?;
        let set = caller.semget(0x6368_6e67, 1, libc::IPC_CREAT | 0o666);
        ensure!(!is_error(set), "semget: {}", outcome(set));
        let mut phases = Vec::new();
        let mut work = |caller: &mut CountingCaller, calls: u64, comm: &str, uid: u32, gid: u32| {
            for at in 0..calls {
                caller.semop(set as i32, &[SemStep(0, if at % 2 == 0 { 1 } else { -1 }, 0)]);
            }
            phases.push(json!({"calls": calls, "comm": comm, "uid": uid, "gid": gid}));
        };
        work(&mut caller, 40, "as-root", 0, 0);
        let group = Gid::from_raw(GROUP);
        setresgid(group, group, group)?;
        work(&mut caller, 60, "as-root", 0, GROUP);
        let user = Uid::from_raw(USER);
        setresuid(user, user, user)?;
        work(&mut caller, 80, "as-root", USER, GROUP);
        process::set_comm(b"renamed")?;
        work(&mut caller, 100, "renamed", USER, GROUP);
        let report = caller.report().fact("tid", process::tid()).fact("inum", inum);
        Ok(report.fact("phases", phases))
    })?
    .join()?
    .print()
}

/// One process is in two namespaces: a thread in the second uses a queue of the first now and then, and
/// a set of its own many times. It prints the queue's namespace, and waits for a line.
pub(crate) fn namespaces() -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let x = caller.unshare("x")?;
    let fd = caller.mq_open(b"of-x", libc::O_CREAT | libc::O_RDWR, 0o600, Some((8, 8)));
    ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
    println!("{}", json!({"x": x}));
    std::io::stdin().read_exact(&mut [0])?;
    // Calls before a tracer may have started do not count.
    let mut caller = CountingCaller::new("x")?;
    let (send, receive) = mpsc::channel();
    let other = std::thread::spawn(move || -> Result<WorkloadReport> {
        let mut caller = CountingCaller::new("x")?;
        caller.unshare("y")?;
        let set = caller.semget(libc::IPC_PRIVATE, 1, 0o600) as i32;
        for round in 0..8 {
            caller.mq_send(fd as i32, b"y", 0, None);
            for _ in 0..50 {
                caller.semop(set, &[SemStep(0, 1, 0)]);
            }
            caller.semget(0x7965_7900 + round, 1, 0);
        }
        send.send(process::tid())?;
        Ok(caller.report())
    });
    let used = 8;
    for _ in 0..used {
        caller.mq_receive(fd as i32, 8, None);
    }
    let mut report = caller.report();
    let tid = receive.recv()?;
    report.absorb(other.join().map_err(|_| anyhow!("the thread panicked"))??);
    close(fd);
    report.fact("x", x).fact("foreign_tid", tid).fact("foreign", used).print()
}
