//! The calls of threads that the eBPF programs have not sent yet, since they are sent in batches.
//!
//! A slot belongs to a thread, and only that thread writes to it. User space takes some slots from their threads
//! during tracing: slots that a thread could not empty when it ended, because the ring was full; and those of idle
//! threads, if they have calls or slots run short. A thread that is in a call meanwhile finds the call's entry in a table
//! ([`NotedCall`]).
//!
//! Invariant: a slot is read only when no thread owns it any more. The eBPF programs check the owner each time that
//! they run, and all programs that may have seen the former owner have ended before the slot is read.

use std::time::Duration;

use aya::maps::{HashMap, MapData};
use ipc_trace_common::{
    record::{BatchHead, QueueRef},
    state::{BATCHES, BatchSlot, NotedCall, UNOWNED},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::mmap::Words;

/// The number of words of a slot, and the offsets of its fields.
pub(super) const WORDS: usize = size_of::<BatchSlot>() / size_of::<u64>();
const OWNER: usize = core::mem::offset_of!(BatchSlot, pid_tgid) / size_of::<u64>();
const ENTERED: usize = core::mem::offset_of!(BatchSlot, enter_ns) / size_of::<u64>();
const WHAT: usize = core::mem::offset_of!(BatchSlot, what) / size_of::<u64>();
const RECORD: usize = core::mem::offset_of!(BatchSlot, record) / size_of::<u64>();
const NOTED_WORDS: usize = size_of::<NotedCall>() / size_of::<u64>();

/// If fewer slots are free than that, those of idle threads are taken.
const FREE: usize = BATCHES as usize / 4;
/// A thread is idle if its slot did not change for that many checks, a second apart.
const IDLE_CHECKS: u8 = 3;

/// The state of a slot at a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SlotSnapshot {
    owner: u64,
    entered: u64,
    calls: u32,
    first_ns: u64,
}

/// The slots.
#[derive(Debug)]
pub(super) struct Batches {
    words: Words,
    /// Which slots have owners
    taken: HashMap<MapData, u32, u8>,
    noted: HashMap<MapData, u64, [u64; NOTED_WORDS]>,
    /// Their state at the last check, and how many checks it has not changed since
    checks: Vec<(SlotSnapshot, u8)>,
}

impl Batches {
    pub(super) fn new(
        words: Words,
        taken: HashMap<MapData, u32, u8>,
        noted: HashMap<MapData, u64, [u64; NOTED_WORDS]>,
    ) -> Self {
        Self { words, taken, noted, checks: vec![Default::default(); BATCHES as usize] }
    }

    /// Records of all calls that were not sent, each in words. All programs must have ended.
    pub(super) fn left(&self) -> Vec<Vec<u64>> {
        let places = 0..BATCHES as usize;
        places
            .filter(|place| self.word(*place, OWNER) != 0)
            .filter_map(|place| self.record(place))
            .collect()
    }

    /// Takes slots without an owner, and those of idle threads that have calls, or all of these if slots run short:
    /// returns the records of the calls in them, each in words.
    pub(super) fn take(&mut self) -> Vec<Vec<u64>> {
        let (mut nobodys, mut idle, mut empty, mut used) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for place in 0..BATCHES as usize {
            match self.word(place, OWNER) {
                0 => {}
                UNOWNED => nobodys.push(place),
                _ => {
                    used += 1;
                    match self.idle_calls(place) {
                        None => {}
                        Some(0) => empty.push(place),
                        Some(_) => idle.push(place),
                    }
                }
            }
        }
        if used + FREE > BATCHES as usize {
            idle.append(&mut empty);
        }
        if !idle.is_empty() {
            nobodys.extend(self.take_from(&idle));
        }
        let mut records = Vec::new();
        for place in nobodys {
            records.extend(self.record(place));
            self.words.set(place * WORDS + OWNER, 0);
            // It existed.
            let _ = self.taken.remove(&(place as u32));
        }
        records
    }

    /// Takes these slots from their threads, unless a thread has changed its slot meanwhile.
    fn take_from(&mut self, places: &[usize]) -> Vec<usize> {
        let mut owned = Vec::with_capacity(places.len());
        for place in places {
            let owner = self.word(*place, OWNER);
            let call = self.call(*place);
            // Else the thread's current call would be forgotten.
            if call.is_none_or(|call| self.noted.insert(owner, call, 0).is_ok())
                && self.words.exchange(place * WORDS + OWNER, owner, UNOWNED)
            {
                owned.push((*place, owner, call));
            }
        }
        wait_for_programs();
        let mut taken = Vec::with_capacity(owned.len());
        for (place, owner, before) in owned {
            // The thread may have made another call while its slot was being taken.
            let call = self.call(place);
            if call != before {
                let _ = match call {
                    Some(call) => self.noted.insert(owner, call, 0),
                    None => self.noted.remove(&owner),
                };
            }
            // Else the thread has released the slot itself.
            if self.word(place, OWNER) == UNOWNED {
                taken.push(place);
            }
        }
        log::debug!("took the places of {} idle threads, of {}", taken.len(), places.len());
        taken
    }

    /// The current call of a slot's owner, as a [`NotedCall`].
    fn call(&self, place: usize) -> Option<[u64; NOTED_WORDS]> {
        let entered = self.word(place, ENTERED);
        let head = self.head(place)?;
        let QueueRef { ns, ino, dev, flags } = head.queue;
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        (entered != 0).then(|| {
            [
                entered,
                self.word(place, WHAT),
                pair(ns.inum, ns.generation),
                ino,
                pair(dev, flags),
                head.context,
            ]
        })
    }

    /// The number of calls in a slot that has not changed in the last checks; `None`: it has.
    fn idle_calls(&mut self, place: usize) -> Option<u32> {
        let head = self.head(place)?;
        let snapshot = SlotSnapshot {
            owner: self.word(place, OWNER),
            entered: self.word(place, ENTERED),
            calls: head.count,
            // It differs if the slot has other calls by now.
            first_ns: head.first_ns,
        };
        let (before, times) = self.checks.get_mut(place)?;
        if *before != snapshot {
            (*before, *times) = (snapshot, 0);
        }
        *times = times.saturating_add(1);
        (*times > IDLE_CHECKS).then_some(snapshot.calls)
    }

    fn word(&self, place: usize, at: usize) -> u64 {
        self.words.get(place * WORDS + at)
    }

    fn head(&self, place: usize) -> Option<BatchHead> {
        const HEAD: usize = size_of::<BatchHead>() / size_of::<u64>();
        let words: [u64; HEAD] = std::array::from_fn(|at| self.word(place, RECORD + at));
        BatchHead::read_from_bytes(words.as_bytes()).ok()
    }

    /// The record of a slot's calls; `None`: no calls.
    fn record(&self, place: usize) -> Option<Vec<u64>> {
        (self.head(place)?.count != 0)
            .then(|| (RECORD..WORDS).map(|at| self.word(place, at)).collect())
    }
}

/// Waits until all running programs have ended: they run in read-side critical sections of RCU, and this waits for a
/// grace period (`sys_membarrier`, kernel/sched/membarrier.c).
pub(super) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // With nohz_full the call fails. No program runs that long.
        std::thread::sleep(Duration::from_millis(20));
    }
}

const _: () = assert!(size_of::<BatchHead>().is_multiple_of(8) && NOTED_WORDS == 6);
