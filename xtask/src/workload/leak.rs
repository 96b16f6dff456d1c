//! `leak`: a process that leaves an object of each kind behind, and one that keeps its own. The report
//! comes first; then the workload waits for the end of its standard input.

use std::io::Read as _;

use anyhow::{Result, ensure};

use super::{abi::is_error, calls::CountingCaller, mq, oracle::outcome, process, sysv::SemStep};

const KEY: i32 = 0x1c61_0000;

pub(crate) fn run() -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    let inum = caller.unshare("leak")?;
    let kept = caller.semget(KEY, 1, libc::IPC_CREAT | 0o600);
    ensure!(!is_error(kept), "semget: {}", outcome(kept));
    let child = process::spawn(b"careless", || {
        let mut caller = CountingCaller::new("leak")?;
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
        let shm = caller.shmget(KEY + 1, 4096, flags);
        let at = caller.shmat(shm as i32, 0, 0);
        let sem = caller.semget(KEY + 1, 1, flags);
        let msg = caller.msgget(KEY + 1, flags);
        let queue = libc::O_CREAT | libc::O_RDWR;
        let fd = caller.mq_open(b"left", queue, 0o600, Some((1, 8)));
        mq::close(fd);
        let used = caller.semop(sem as i32, &[SemStep(0, 1, 0)]);
        for ret in [shm, at, sem, msg, fd, used] {
            ensure!(!is_error(ret), "{}", outcome(ret));
        }
        Ok(caller.report())
    })?;
    let left_by = child.pid.as_raw();
    let mut report = caller.report();
    report.absorb(child.join()?);
    let kept = format!("{KEY:#010x}");
    report.fact("inum", inum).fact("left_by", left_by).fact("kept", kept).print()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
