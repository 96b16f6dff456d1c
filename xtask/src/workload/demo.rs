//! `demo`: the machine's own namespace and two small companies in namespaces of their own,
//! whose processes work together for a second or two.

use std::fs::File;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::abi::is_error;
use super::all_ops::call_all_ops;
use super::calls::{CountingCaller, Route, TimeLimit};
use super::mq::close;
use super::oracle::{WorkloadReport, outcome};
use super::process::{self, Flag, WorkloadChild};
use super::queue_fd_passing::take_labelled_log;
use super::sysv::SemStep;

/// How many orders each company handles.
const ORDERS: u32 = 240;
/// Every so many orders the two sides do something besides.
const NOW_AND_THEN: u32 = 20;
const NOWAIT: i16 = libc::IPC_NOWAIT as i16;

/// The names of a company and its processes.
struct Company {
    name: &'static str,
    front: &'static str,
    back: &'static str,
    legacy: &'static str,
    night: &'static str,
    key: i32,
}

const SHOP: Company = Company {
    name: "shop",
    front: "shop-web",
    back: "shop-db",
    legacy: "shop-till32",
    night: "shop-night",
    key: 0x5409,
};

const BANK: Company = Company {
    name: "bank",
    front: "bank-desk",
    back: "bank-ledger",
    legacy: "bank-cobol32",
    night: "bank-night",
    key: 0xba7c,
};

/// What the processes of a company share.
#[derive(Clone, Copy)]
struct Office {
    shm: i32,
    /// Semaphores: 0 is a lock, 1 counts batches, 2 stays 0.
    sem: i32,
    msq: i32,
    mq: i32,
}

/// Options of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Demo {
    /// Print no counts: for people, who read the tracer's report.
    #[arg(long)]
    silent: bool,
}

pub(crate) fn run(options: &Demo) -> Result<()> {
    let mut host = CountingCaller::new("host")?;
    let queue = format!("ipc-trace-demo-{}", std::process::id());
    for route in Route::ALL {
        call_all_ops(host.by(route), queue.as_bytes());
    }
    let (ready, close_down) = (Flag::new()?, Flag::new()?);
    let bank = person(BANK.name, || company(&BANK, None, &ready, &close_down))?;
    ready.wait()?;
    let elsewhere = File::open(format!("/proc/{}/ns/ipc", bank.pid))?;
    let shop = person(SHOP.name, || company(&SHOP, Some(&elsewhere), &ready, &close_down))?;
    close_down.raise(2)?;
    let mut report = host.report();
    report.absorb(shop.join()?);
    report.absorb(bank.join()?);
    if options.silent { Ok(()) } else { report.print() }
}

/// A process that ends by itself should the others leave it waiting.
fn person(comm: &str, work: impl FnOnce() -> Result<WorkloadReport>) -> Result<WorkloadChild> {
    process::spawn(comm.as_bytes(), || {
        // SAFETY: alarm takes no address; nothing here handles SIGALRM.
        unsafe { libc::alarm(30) };
        let mut report = work()?;
        let who = json!({"comm": comm, "pid": process::tid(), "inum": process::ipc_namespace()?});
        report.absorb(WorkloadReport::default().fact("processes", vec![who]));
        Ok(report)
    })
}

/// The first process of a company: it opens the office, does its own part and closes.
fn company(
    names: &Company,
    elsewhere: Option<&File>,
    ready: &Flag,
    close_down: &Flag,
) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new("host")?;
    caller.unshare(names.name)?;
    let office = open(&mut caller, names)?;
    ready.raise(1)?;
    let mut staff = vec![
        person(names.back, || back(names, office))?,
        person(names.front, || front(names, office))?,
        person(names.legacy, || legacy(names))?,
    ];
    if let Some(elsewhere) = elsewhere {
        staff.push(person("shop-courier", || courier(names, elsewhere))?);
    }
    for _ in 0..5 {
        call_all_ops(&mut caller, b"all-ops");
        std::thread::sleep(Duration::from_millis(250));
    }
    caller.shmget(names.key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
    caller.msgget(names.key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
    caller.semget(names.key, 9, 0);
    let night = caller.msgget(libc::IPC_PRIVATE, 0o600) as i32;
    let watchman = person(names.night, || {
        let mut caller = CountingCaller::new(names.name)?;
        caller.msgrcv(night, 64, 0, 0);
        Ok(caller.report())
    })?;
    let waits =
        process::wait_blocked(watchman.pid.as_raw(), watchman.pid.as_raw(), libc::SYS_msgrcv);
    caller.msgctl(night, libc::IPC_RMID);
    waits?;
    staff.push(watchman);
    let staff = process::join_all(staff)?;
    close_down.wait()?;
    caller.shmctl(office.shm, libc::IPC_RMID);
    caller.semctl(office.sem, 0, libc::IPC_RMID, 0);
    caller.msgctl(office.msq, libc::IPC_RMID);
    caller.mq_unlink(b"orders");
    let mut report = caller.report();
    report.absorb(staff);
    Ok(report)
}

fn open(caller: &mut CountingCaller, names: &Company) -> Result<Office> {
    let create = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
    let rdwr = libc::O_CREAT | libc::O_RDWR;
    let shm = caller.shmget(names.key, 4096, create);
    let sem = caller.semget(names.key, 3, create);
    let msq = caller.msgget(names.key, create);
    let mq = caller.mq_open(b"orders", rdwr, 0o600, Some((8, 128)));
    for id in [shm, sem, msq, mq] {
        ensure!(!is_error(id), "{} cannot open: {}", names.name, outcome(id));
    }
    caller.semctl(sem as i32, 0, libc::SETVAL, 1);
    Ok(Office { shm: shm as i32, sem: sem as i32, msq: msq as i32, mq: mq as i32 })
}

/// Whether something extra is due with this order.
fn due(order: u32) -> bool {
    order % NOW_AND_THEN == NOW_AND_THEN - 1
}

/// Takes orders and passes them on.
fn front(names: &Company, office: Office) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new(names.name)?;
    let at = caller.shmat(office.shm, 0, 0) as u64;
    for order in 0..ORDERS {
        let text = format!("order {order}");
        caller.semop(office.sem, &[SemStep(0, -1, libc::SEM_UNDO as i16)]);
        caller.semop(office.sem, &[SemStep(0, 1, libc::SEM_UNDO as i16)]);
        caller.msgsnd(office.msq, 1 + i64::from(order % 3), text.as_bytes(), 0);
        if order % 2 == 0 {
            // The other side waits meanwhile.
            std::thread::sleep(Duration::from_millis(12));
        }
        caller.mq_send(office.mq, text.as_bytes(), order % 4, None);
        if due(order) {
            caller.mq_send(office.mq, &[b'x'; 129], 0, None);
            caller.msgsnd(office.msq, -1, b"no such type", 0);
            std::thread::sleep(Duration::from_millis(5));
            caller.semop(office.sem, &[SemStep(1, 1, 0)]);
        }
    }
    caller.shmdt(at);
    caller.shmdt(at);
    Ok(caller.report())
}

/// Waits for orders and records them.
fn back(names: &Company, office: Office) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new(names.name)?;
    let at = caller.shmat(office.shm, 0, libc::SHM_RDONLY) as u64;
    for order in 0..ORDERS {
        caller.msgrcv(office.msq, 128, 0, 0);
        caller.mq_receive(office.mq, 128, None);
        if due(order) {
            caller.semop(office.sem, &[SemStep(1, -1, 0)]);
            caller.semop(office.sem, &[SemStep(2, -1, NOWAIT)]);
            let brief = TimeLimit { sec: 0, nsec: 2_000_000 };
            caller.semtimedop(office.sem, &[SemStep(2, -1, 0)], Some(brief));
            caller.msgrcv(office.msq, 128, 99, libc::IPC_NOWAIT);
            caller.mq_getsetattr(office.mq, None);
        }
    }
    caller.shmdt(at);
    Ok(caller.report())
}

/// A legacy program that makes only 32-bit calls.
fn legacy(names: &Company) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::new(names.name)?;
    for turn in 0..8 {
        for route in [Route::Int80Direct, Route::Int80Ipc] {
            caller.use_old_msgrcv(turn % 2 == 0);
            call_all_ops(caller.by(route), b"all-ops-32-bit");
        }
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(caller.report())
}

/// Opens a queue at home and takes its descriptor along to another company's namespace.
fn courier(names: &Company, elsewhere: &File) -> Result<WorkloadReport> {
    let mut caller = CountingCaller::with_log(names.name)?;
    let home = caller.inum();
    let fd = caller.mq_open(b"parcels", libc::O_CREAT | libc::O_RDWR, 0o600, Some((8, 64)));
    ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
    caller.mq_unlink(b"parcels");
    caller.take_log();
    process::enter_namespace(elsewhere)?;
    caller.moved(BANK.name)?;
    for _ in 0..10 {
        caller.mq_send(fd as i32, b"a parcel from home", 1, None);
        caller.mq_getsetattr(fd as i32, None);
        caller.mq_receive(fd as i32, 64, None);
        std::thread::sleep(Duration::from_millis(100));
    }
    let foreign = take_labelled_log(&mut caller, home, true);
    // Here the name means nothing.
    caller.mq_open(b"parcels", libc::O_RDWR, 0, None);
    close(fd);
    Ok(caller.report().fact("foreign", foreign))
}
