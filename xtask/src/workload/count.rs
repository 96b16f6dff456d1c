//! `count`: an exact number of calls of all kinds from several namespaces and threads.

use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::calls::{CountingCaller, Route, TimeLimit};
use super::mq::{self, close};
use super::oracle::WorkloadReport;
use super::process::{self, Flag};
use super::sysv::SemStep;

/// Options of `count`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CountArgs {
    /// How many calls are made in total.
    #[arg(long, default_value_t = 1_000_000)]
    calls: u64,
    /// How many threads make them.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Over how many namespaces the threads are spread.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    namespaces: u32,
    /// The first namespace is a new one too, instead of the one this starts in.
    #[arg(long)]
    fresh: bool,
    /// How many of hundred calls go through `int 0x80`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    int80_percent: u8,
    /// Where the pseudo-random mix begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Make the first call only when this descriptor yields a byte or ends; the namespaces
    /// and threads are there by then.
    #[arg(long)]
    hold_start_fd: Option<i32>,
}

pub(crate) fn run(options: &CountArgs) -> Result<()> {
    let (ready, go) = (Flag::new()?, Flag::new()?);
    let mut children = Vec::new();
    for ns in 0..options.namespaces.min(options.threads) {
        let comm = format!("count-{ns}");
        children.push(process::spawn(comm.as_bytes(), || namespace(options, ns, &ready, &go))?);
    }
    for _ in &children {
        ready.wait()?;
    }
    if let Some(fd) = options.hold_start_fd {
        // SAFETY: the option says that the descriptor is there for this process to use.
        let mut hold = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let _ = hold.read(&mut [0]).context("the descriptor that holds the start")?;
    }
    let start = Instant::now();
    go.raise(children.len() as u64)?;
    let report = process::join_all(children)?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(report.counts.total() == options.calls, "the counts have {}", report.counts.total());
    report
        .fact("calls", options.calls)
        .fact("seconds", seconds)
        .fact("calls_per_second", options.calls as f64 / seconds)
        .print()
}

/// One process: its namespace and its threads.
fn namespace(options: &CountArgs, ns: u32, ready: &Flag, go: &Flag) -> Result<WorkloadReport> {
    let label = format!("ns{ns}");
    if ns > 0 || options.fresh {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
    }
    let numbers: Vec<u32> = (ns..options.threads).step_by(options.namespaces as usize).collect();
    let barrier = Barrier::new(numbers.len() + 1);
    std::thread::scope(|scope| {
        let thread = |&number: &u32| {
            let (label, barrier) = (&label, &barrier);
            scope.spawn(move || {
                let comm = format!("count-{ns}-{number}");
                let named = process::set_comm(&comm.as_bytes()[..comm.len().min(15)]);
                let mut worker = CountWorker::new(options, label, number);
                barrier.wait();
                barrier.wait();
                worker.as_mut().map_or(Ok(()), CountWorker::work)?;
                named.and(worker).map(|worker| worker.caller.report())
            })
        };
        let threads: Vec<_> = numbers.iter().map(thread).collect();
        barrier.wait();
        ready.raise(1)?;
        let started = go.wait_long();
        barrier.wait();
        let mut sum = WorkloadReport::default();
        for thread in threads {
            sum.absorb(thread.join().expect("a thread of the workload panicked")?);
        }
        started.map(|()| sum)
    })
}

/// The most calls that one turn makes.
const TURN: u64 = 8;
/// The most calls it takes to remove what a worker has.
const REMOVAL: u64 = 3;
/// With fewer calls than this to make, a worker makes nothing that needs removal.
const WORTHWHILE: u64 = 64;

/// Of thousand turns, so many are a single call of the frequent kinds.
const COMMON: u64 = 920;

struct CountWorker {
    caller: CountingCaller,
    quota: u64,
    random: u64,
    int80_percent: u64,
    key: i32,
    name: Vec<u8>,
    sem: i32,
    msq: i32,
    mq: i32,
}

impl CountWorker {
    fn new(options: &CountArgs, label: &str, number: u32) -> Result<Self> {
        let threads = u64::from(options.threads);
        let extra = u64::from(u64::from(number) < options.calls % threads);
        let pid = std::process::id();
        Ok(Self {
            caller: CountingCaller::new(label)?,
            quota: options.calls / threads + extra,
            // Odd and mixed, so never 0, where xorshift would stay for ever.
            random: (options.seed ^ u64::from(number) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                | 1,
            int80_percent: u64::from(options.int80_percent),
            key: 0x4000_0000 | ((pid & 0xf_ffff) << 10 | (number & 0x3ff)) as i32,
            name: format!("ipc-trace-count-{pid}-{number}").into_bytes(),
            sem: -1,
            msq: -1,
            mq: -1,
        })
    }

    /// A number below `bound`.
    fn pick(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    fn left(&self) -> u64 {
        self.quota - self.caller.made()
    }

    fn work(&mut self) -> Result<()> {
        if self.quota >= WORTHWHILE {
            self.removed_while_waiting()?;
            let excl = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
            let open = libc::O_CREAT | libc::O_RDWR | libc::O_NONBLOCK;
            self.sem = self.caller.semget(self.key, 2, excl) as i32;
            self.msq = self.caller.msgget(self.key, excl) as i32;
            self.mq = self.caller.mq_open(&self.name, open, 0o600, Some((8, 64))) as i32;
            while self.left() >= TURN + REMOVAL {
                self.turn();
            }
            self.caller.semctl(self.sem, 0, libc::IPC_RMID, 0);
            self.caller.msgctl(self.msq, libc::IPC_RMID);
            self.caller.mq_unlink(&self.name);
            close(i64::from(self.mq));
        }
        while self.left() > 0 {
            self.fail_once();
        }
        Ok(())
    }

    /// A queue and a semaphore set vanish while a second thread waits for them: EIDRM.
    fn removed_while_waiting(&mut self) -> Result<()> {
        let caller = &mut self.caller;
        let label = "helper";
        let msq = caller.msgget(libc::IPC_PRIVATE, 0o600) as i32;
        let sem = caller.semget(libc::IPC_PRIVATE, 1, 0o600) as i32;
        let tid = AtomicI32::new(0);
        let pid = std::process::id() as i32;
        let until_blocked = |number| {
            while tid.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            process::wait_blocked(pid, tid.load(Ordering::Acquire), number)
        };
        let mut helper = caller.sibling()?;
        let helper = std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name(label.into()).spawn_scoped(scope, || {
                    tid.store(process::tid(), Ordering::Release);
                    helper.msgrcv(msq, 64, 0, 0);
                    helper.semop(sem, &[SemStep(0, -1, 0)]);
                    helper
                })?;
            // Remove both in any case, so that the helper ends. Removing too early makes it EINVAL.
            let first = until_blocked(libc::SYS_msgrcv);
            caller.msgctl(msq, libc::IPC_RMID);
            let second = first.and_then(|()| until_blocked(libc::SYS_semop));
            caller.semctl(sem, 0, libc::IPC_RMID, 0);
            let helper = thread.join().expect("the helper panicked");
            second.map(|()| helper)
        })?;
        caller.absorb(helper);
        Ok(())
    }

    /// One turn: mostly one call, never more than [`TURN`].
    fn turn(&mut self) {
        let route = match self.pick(200) {
            n if n >= 2 * self.int80_percent => Route::Native,
            n if n % 2 == 0 => Route::Int80Direct,
            _ => Route::Int80Ipc,
        };
        let old = self.pick(2) == 0;
        let len = 1 + self.pick(48) as usize;
        let kind = self.pick(1000);
        let fault = self.pick(100) == 0;
        if kind >= COMMON {
            self.caller.by(route);
            return self.rare(kind);
        }
        let (sem, msq, mq) = (self.sem, self.msq, self.mq);
        let caller = self.caller.by(route);
        caller.use_old_msgrcv(old);
        if fault {
            caller.fault();
        }
        let text = [0x61; 128];
        let nowait = libc::IPC_NOWAIT as i16;
        match kind {
            0..150 => caller.semop(sem, &[SemStep(0, 1, 0)]),
            150..300 => caller.semop(sem, &[SemStep(0, -1, nowait)]),
            300..302 => {
                caller.semtimedop(sem, &[SemStep(1, -1, 0)], Some(TimeLimit { sec: 0, nsec: 1000 }))
            }
            302..500 => caller.msgsnd(msq, 1 + (kind % 3) as i64, &text[..len], libc::IPC_NOWAIT),
            500..680 => caller.msgrcv(msq, 128, (kind % 4) as i64, libc::IPC_NOWAIT),
            680..700 => caller.msgrcv(msq, 8, 0, libc::IPC_NOWAIT),
            700..800 => caller.mq_send(mq, &text[..len], (kind % 5) as u32, None),
            800..890 => caller.mq_receive(mq, 64, None),
            890..895 => caller.mq_receive(mq, 16, None),
            895..900 => caller.mq_send(mq, &text, 0, None),
            _ => caller.mq_getsetattr(mq, Some(i64::from(libc::O_NONBLOCK))),
        };
    }

    /// The turns of several calls, which end with nothing left behind.
    fn rare(&mut self, kind: u64) {
        let (key, excl) = (self.key, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
        let (sem, msq, mq) = (self.sem, self.msq, self.mq);
        let caller = &mut self.caller;
        match kind {
            920..925 => {
                let id = caller.shmget(libc::IPC_PRIVATE, 4096, 0o600) as i32;
                let at = caller.shmat(id, 0, 0) as u64;
                caller.shmctl(id, libc::IPC_STAT);
                caller.shmdt(at);
                caller.shmdt(0x1000);
                caller.shmctl(id, libc::IPC_RMID);
            }
            925..935 => {
                caller.semget(key, 2, excl);
                caller.semctl(sem, 1, libc::GETVAL, 0);
                caller.semctl(sem, 0, libc::IPC_STAT, 0);
                caller.semctl(sem, 0, libc::SETVAL, 5);
                caller.semctl(sem, 2, libc::SETVAL, 5);
            }
            935..945 => {
                caller.msgget(key, excl);
                caller.msgctl(msq, libc::IPC_STAT);
                caller.fault().msgctl(msq, libc::IPC_STAT);
            }
            945..950 => {
                caller.mq_open(&self.name, libc::O_CREAT | libc::O_EXCL, 0o600, None);
                close(caller.mq_open(&self.name, libc::O_RDONLY, 0, None));
                caller.mq_notify(mq, Some((libc::SIGEV_NONE, 0, 7)));
                caller.mq_notify(mq, Some((libc::SIGEV_NONE, 0, 8)));
                caller.mq_notify(mq, None);
            }
            950..955 => {
                let id = caller.msgget(libc::IPC_PRIVATE, 0o600) as i32;
                caller.msgsnd(id, 9, b"soon gone", libc::IPC_NOWAIT);
                caller.msgctl(id, libc::IPC_RMID);
                caller.msgrcv(id, 64, 0, libc::IPC_NOWAIT);
            }
            955..958 => {
                let name = [&self.name[..], b"-other"].concat();
                let size: mq::QueueSize = (2, 16);
                let fd = caller.mq_open(&name, libc::O_CREAT | libc::O_RDWR, 0o600, Some(size));
                caller.mq_unlink(&name);
                caller.mq_send(fd as i32, b"last message", 1, Some(TimeLimit::in_millis(0)));
                close(fd);
            }
            _ => self.fail_once(),
        }
    }

    /// One call that fails, of any of the 17 kinds.
    fn fail_once(&mut self) {
        let (kind, free) = (self.pick(17), 0x3fff_fff0);
        let caller = &mut self.caller;
        match kind {
            0 => caller.shmget(free, 0, 0),
            1 => caller.shmat(-1, 0, 0),
            2 => caller.shmdt(0x1000),
            3 => caller.shmctl(-1, libc::IPC_STAT),
            4 => caller.semget(free, 0, 0),
            5 => caller.semop(-1, &[SemStep(0, 1, 0)]),
            6 => caller.semctl(-1, 0, libc::GETVAL, 0),
            7 => caller.msgget(free, 0),
            8 => caller.msgsnd(-1, 1, b"x", libc::IPC_NOWAIT),
            9 => caller.msgrcv(-1, 1, 0, libc::IPC_NOWAIT),
            10 => caller.msgctl(-1, libc::IPC_STAT),
            11 => caller.mq_open(b"ipc-trace-there-is-none", libc::O_RDWR, 0, None),
            12 => caller.mq_unlink(b"ipc-trace-there-is-none"),
            13 => caller.mq_send(-1, b"x", 0, None),
            14 => caller.mq_receive(-1, 64, None),
            15 => caller.mq_notify(-1, None),
            _ => caller.mq_getsetattr(-1, None),
        };
    }
}
