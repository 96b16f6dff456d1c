//! A caller makes IPC calls for one thread by a chosen route, and counts each call (on demand, it also logs the
//! arguments). The operations themselves are in
//! `sysv.rs` and `mq.rs`.

use anyhow::Result;
use serde_json::{Value, json};

use super::abi::{self, Arena};
use super::oracle::{ExpectedCounts, WorkloadOp, WorkloadReport};
use super::process;

/// How calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `syscall`, the x86-64 numbers.
    Native,
    /// `int 0x80`, the i386 numbers of single operations (and 64-bit times).
    Int80Direct,
    /// `int 0x80`, System V operations through `ipc(2)` (and 32-bit times).
    Int80Ipc,
}

impl Route {
    /// All routes.
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::Int80Direct, Self::Int80Ipc];

    /// Whether the kernel takes the arguments as those of a 32-bit process.
    pub(crate) fn is_32bit(self) -> bool {
        self != Self::Native
    }

    /// The name of the ABI.
    pub(crate) fn abi(self) -> &'static str {
        if self.is_32bit() { "i386" } else { "x86_64" }
    }

    /// The name of the route.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Int80Direct => "direct",
            Self::Int80Ipc => "ipc",
        }
    }
}

/// Where things lie in a caller's arena.
pub(super) mod slot {
    /// What calls read: message texts, semaphore operations, attributes.
    pub(crate) const IN: usize = 0;
    /// What calls write, and what `IPC_SET` and its like read back.
    pub(crate) const OUT: usize = 0x6000;
    /// A time.
    pub(crate) const TIME: usize = 0xc000;
    /// One pointer-sized word, or the `ipc_kludge`.
    pub(crate) const WORD: usize = 0xc100;
    /// The name of a queue.
    pub(crate) const NAME: usize = 0xd000;
}

/// An address nobody has mapped.
const BAD_ADDRESS: u64 = 0x10;

/// One operation as each route spells it: number and arguments.
pub(super) struct Spelling {
    /// x86-64.
    pub(super) native: (i64, [u64; 6]),
    /// i386, its own number.
    pub(super) direct: (u32, [u64; 6]),
    /// i386 through `ipc(2)`, or the older number where there are two.
    pub(super) ipc: (u32, [u64; 6]),
}

/// The arguments of `ipc(2)`.
pub(super) fn ipc(call: u32, version: u32, rest: [u64; 5]) -> (u32, [u64; 6]) {
    let [first, second, third, ptr, fifth] = rest;
    (117, [u64::from(call | version << 16), first, second, third, ptr, fifth])
}

/// One thread's calls and their counts.
#[derive(Debug)]
pub(crate) struct CountingCaller {
    route: Route,
    arena: Arena,
    counts: ExpectedCounts,
    made: u64,
    log: Option<Vec<Value>>,
    bad_pointer: bool,
    old_msgrcv: bool,
    prevented: bool,
}

impl CountingCaller {
    /// A caller in the thread's present namespace, which the counts call `label`.
    pub(crate) fn new(label: &str) -> Result<Self> {
        let mut caller = Self {
            route: Route::Native,
            arena: Arena::new()?,
            counts: ExpectedCounts::default(),
            made: 0,
            log: None,
            bad_pointer: false,
            old_msgrcv: false,
            prevented: false,
        };
        caller.moved(label)?;
        Ok(caller)
    }

    /// A caller with a log: every call becomes `{"abi", "route", "op", "ret", "tid",
    /// "caller_inum", "bad_pointer", "args"}`. `ret` is the kernel's raw answer, which is 0 for
    /// a `shmat` through `ipc(2)`; then `stored_addr` is where the segment is. With
    /// `bad_pointer` the kernel could not read what `args` says about memory.
    pub(crate) fn with_log(label: &str) -> Result<Self> {
        let mut caller = Self::new(label)?;
        caller.log = Some(Vec::new());
        Ok(caller)
    }

    /// A caller without calls for another thread of the same namespace.
    pub(crate) fn sibling(&self) -> Result<Self> {
        Self::new(self.counts.label())
    }

    /// Must be called after the thread has switched namespaces.
    pub(crate) fn moved(&mut self, label: &str) -> Result<()> {
        self.counts.enter(label, process::ipc_namespace()?);
        Ok(())
    }

    /// Leaves the present namespace for a new one; its inode number is returned.
    pub(crate) fn unshare(&mut self, label: &str) -> Result<u64> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?;
        self.moved(label)?;
        Ok(self.counts.inum())
    }

    /// The namespace that calls are counted for.
    pub(crate) fn inum(&self) -> u64 {
        self.counts.inum()
    }

    /// How many calls it has made.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Chooses the route of the calls that follow.
    pub(crate) fn by(&mut self, route: Route) -> &mut Self {
        self.route = route;
        self
    }

    /// The next call gets an unmapped address where its data, name or result belongs.
    pub(crate) fn fault(&mut self) -> &mut Self {
        self.bad_pointer = true;
        self
    }

    /// Whether `msgrcv` by [`Route::Int80Ipc`] is the old version 0, with an `ipc_kludge`.
    pub(crate) fn use_old_msgrcv(&mut self, old: bool) {
        self.old_msgrcv = old;
    }

    /// Whether something prevents the calls that follow: they are logged, and don't count.
    pub(crate) fn set_prevented(&mut self, prevented: bool) {
        self.prevented = prevented;
    }

    pub(super) fn is_logging(&self) -> bool {
        self.log.is_some()
    }

    pub(super) fn old_msgrcv(&self) -> bool {
        self.old_msgrcv
    }

    /// Counts calls that were made by other means.
    pub(crate) fn note_many(&mut self, op: WorkloadOp, ret: i64, times: u64) {
        self.made += times;
        self.counts.note_many(op, ret, times);
    }

    /// Takes over the calls of a helper.
    pub(crate) fn absorb(&mut self, other: CountingCaller) {
        self.made += other.made;
        self.counts.merge(other.counts);
    }

    /// Adds to the last call's entry in the log what the call stored somewhere.
    pub(super) fn amend_log(&mut self, name: &str, value: i64) {
        if let Some(entry) = self.log.as_mut().and_then(|log| log.last_mut()) {
            entry[name] = value.into();
        }
    }

    /// The log since the last time it was taken.
    pub(crate) fn take_log(&mut self) -> Vec<Value> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Ends the caller: its counts as a report.
    pub(crate) fn report(self) -> WorkloadReport {
        WorkloadReport::new(self.counts)
    }

    /// The present route.
    pub(crate) fn route(&self) -> Route {
        self.route
    }

    /// The address of a slot, or the bad one if that was asked for.
    pub(super) fn pointer(&self, slot: usize) -> u64 {
        if self.bad_pointer { BAD_ADDRESS } else { self.arena.at(slot) }
    }

    /// The address of a slot, in any case.
    pub(super) fn good_pointer(&self, slot: usize) -> u64 {
        self.arena.at(slot)
    }

    /// Writes plain bytes.
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.arena.write(offset, bytes);
    }

    /// Writes 32-bit words.
    pub(super) fn put_words(&mut self, offset: usize, words: &[u32]) {
        for (i, word) in words.iter().enumerate() {
            self.arena.write(offset + 4 * i, &word.to_ne_bytes());
        }
    }

    /// Writes `long`s as the route has them; the number of bytes is returned.
    pub(super) fn put_longs(&mut self, offset: usize, longs: &[i64]) -> usize {
        let size = if self.route.is_32bit() { 4 } else { 8 };
        for (i, long) in longs.iter().enumerate() {
            self.arena.write(offset + size * i, &long.to_ne_bytes()[..size]);
        }
        size * longs.len()
    }

    /// Writes a time as the route has it; NULL for none.
    pub(super) fn put_time(&mut self, time: Option<TimeLimit>) -> u64 {
        let Some(TimeLimit { sec, nsec }) = time else {
            return 0;
        };
        if self.route == Route::Int80Ipc {
            self.put_words(slot::TIME, &[sec as u32, nsec as u32]);
        } else {
            self.put(slot::TIME, &sec.to_ne_bytes());
            self.put(slot::TIME + 8, &nsec.to_ne_bytes());
        }
        self.arena.at(slot::TIME)
    }

    /// Reads what a call wrote.
    pub(crate) fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.arena.read(offset)
    }

    /// Makes one call.
    pub(super) fn go(
        &mut self,
        op: WorkloadOp,
        spelling: &Spelling,
        args: impl FnOnce() -> Value,
    ) -> i64 {
        let narrow = |args: [u64; 6]| args.map(|arg| arg as u32);
        // SAFETY: all addresses in a spelling point into the arena, with room for the longest answer (see `slot`), or
        // are bad on purpose, which the kernel notices. `shmat` is given no address where something else of the
        // process is mapped, and `shmdt` only undoes it.
        let ret = unsafe {
            match self.route {
                Route::Native => abi::native(spelling.native.0, spelling.native.1),
                Route::Int80Direct => abi::int80(spelling.direct.0, narrow(spelling.direct.1)),
                Route::Int80Ipc => abi::int80(spelling.ipc.0, narrow(spelling.ipc.1)),
            }
        };
        if !self.prevented {
            self.made += 1;
            self.counts.note(op, ret);
        }
        let bad_pointer = std::mem::take(&mut self.bad_pointer);
        if let Some(log) = &mut self.log {
            log.push(json!({
                "abi": self.route.abi(), "route": self.route.name(), "op": op, "ret": ret,
                "tid": process::tid(), "caller_inum": self.counts.inum(), "bad_pointer": bad_pointer,
                "args": args(),
            }));
        }
        ret
    }
}

/// A relative or absolute time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeLimit {
    /// Seconds.
    pub(crate) sec: i64,
    /// Nanoseconds.
    pub(crate) nsec: i64,
}

impl TimeLimit {
    /// The moment on `CLOCK_REALTIME` which lies so many milliseconds ahead.
    pub(crate) fn in_millis(millis: u64) -> Self {
        let then = std::time::SystemTime::now() + std::time::Duration::from_millis(millis);
        let since = then.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { sec: since.as_secs() as i64, nsec: i64::from(since.subsec_nanos()) }
    }

    pub(super) fn json(time: Option<Self>) -> Value {
        time.map_or(Value::Null, |t| json!({"tv_sec": t.sec, "tv_nsec": t.nsec}))
    }
}
