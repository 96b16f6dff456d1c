//! The calls that threads have made and the eBPF programs have not sent, since they are sent together.
//!
//! A place belongs to a thread, which alone writes there. Some are taken from their threads while tracing goes on:
//! those that a thread could not empty when it ended, as the ring was full; and, where places run short, those of
//! threads that have done nothing for a while. A thread that is in a call meanwhile finds what it entered in a
//! table ([`NotedCall`]).
//!
//! Invariant: what is read out of a place is of nobody else's any more. The eBPF programs ask for its owner each
//! time that a program is run, and all programs that may have seen the former one have ended before the place is read.

use std::time::Duration;

use aya::maps::{HashMap, MapData};
use ipc_trace_common::{
    record::{BatchHead, QueueRef},
    state::{BATCHES, BatchSlot, NOBODYS, NotedCall},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::mmap::Words;

/// The words of a place, and where its parts are.
pub(super) const WORDS: usize = size_of::<BatchSlot>() / size_of::<u64>();
const OWNER: usize = core::mem::offset_of!(BatchSlot, pid_tgid) / size_of::<u64>();
const ENTERED: usize = core::mem::offset_of!(BatchSlot, enter_ns) / size_of::<u64>();
const WHAT: usize = core::mem::offset_of!(BatchSlot, what) / size_of::<u64>();
const RECORD: usize = core::mem::offset_of!(BatchSlot, record) / size_of::<u64>();
const NOTED_WORDS: usize = size_of::<NotedCall>() / size_of::<u64>();

/// With fewer free places than that, those of idle threads are taken.
const FREE: usize = BATCHES as usize / 4;
/// A thread is idle that was seen doing nothing so often, a second apart.
const IDLE_LOOKS: u8 = 3;

/// What a place looked like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SlotSnapshot {
    owner: u64,
    entered: u64,
    calls: u32,
    last_ns: u64,
}

/// The places.
#[derive(Debug)]
pub(super) struct Batches {
    words: Words,
    /// Which have owners
    taken: HashMap<MapData, u32, u8>,
    noted: HashMap<MapData, u64, [u64; NOTED_WORDS]>,
    /// What they looked like, and how often they have looked so since
    looks: Vec<(SlotSnapshot, u8)>,
}

impl Batches {
    pub(super) fn new(
        words: Words,
        taken: HashMap<MapData, u32, u8>,
        noted: HashMap<MapData, u64, [u64; NOTED_WORDS]>,
    ) -> Self {
        Self { words, taken, noted, looks: vec![Default::default(); BATCHES as usize] }
    }

    /// Records of all calls that were not sent, each in words. All programs must have ended.
    pub(super) fn left(&self) -> Vec<Vec<u64>> {
        let places = 0..BATCHES as usize;
        places
            .filter(|place| self.word(*place, OWNER) != 0)
            .filter_map(|place| self.record(place))
            .collect()
    }

    /// Takes places that are nobody's, and, where places run short, those of idle threads: the records of the calls
    /// in them, each in words.
    pub(super) fn take(&mut self) -> Vec<Vec<u64>> {
        let (mut nobodys, mut idle, mut used) = (Vec::new(), Vec::new(), 0);
        for place in 0..BATCHES as usize {
            match self.word(place, OWNER) {
                0 => {}
                NOBODYS => nobodys.push(place),
                _ => {
                    used += 1;
                    if self.is_idle(place) {
                        idle.push(place);
                    }
                }
            }
        }
        if used + FREE > BATCHES as usize && !idle.is_empty() {
            nobodys.extend(self.take_from(&idle));
        }
        let mut records = Vec::new();
        for place in nobodys {
            records.extend(self.record(place));
            self.words.set(place * WORDS + OWNER, 0);
            // It was there.
            let _ = self.taken.remove(&(place as u32));
        }
        records
    }

    /// Takes these places from their threads, as far as those have not moved meanwhile.
    fn take_from(&mut self, places: &[usize]) -> Vec<usize> {
        let mut owned = Vec::with_capacity(places.len());
        for place in places {
            let owner = self.word(*place, OWNER);
            let call = self.call(*place);
            // Else it would be forgotten that the thread is in a call.
            if call.is_none_or(|call| self.noted.insert(owner, call, 0).is_ok())
                && self.words.exchange(place * WORDS + OWNER, owner, NOBODYS)
            {
                owned.push((*place, owner, call));
            }
        }
        wait_for_programs();
        let mut taken = Vec::with_capacity(owned.len());
        for (place, owner, before) in owned {
            // The thread may have come back, and gone on, while its place was being taken.
            let call = self.call(place);
            if call != before {
                let _ = match call {
                    Some(call) => self.noted.insert(owner, call, 0),
                    None => self.noted.remove(&owner),
                };
            }
            // Else it has given the place up by itself.
            if self.word(place, OWNER) == NOBODYS {
                taken.push(place);
            }
        }
        log::debug!("took the places of {} idle threads, of {}", taken.len(), places.len());
        taken
    }

    /// The call that the owner of a place is in, as [`NotedCall`] has it.
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

    /// Whether a place looks as it did at the last looks.
    fn is_idle(&mut self, place: usize) -> bool {
        let Some(head) = self.head(place) else { return false };
        let look = SlotSnapshot {
            owner: self.word(place, OWNER),
            entered: self.word(place, ENTERED),
            calls: head.count,
            // Of the first call: there are others behind it when it is another one.
            last_ns: self.word(place, RECORD + size_of::<BatchHead>() / size_of::<u64>()),
        };
        let Some((before, times)) = self.looks.get_mut(place) else { return false };
        if *before != look {
            (*before, *times) = (look, 0);
        }
        *times = times.saturating_add(1);
        *times > IDLE_LOOKS
    }

    fn word(&self, place: usize, at: usize) -> u64 {
        self.words.get(place * WORDS + at)
    }

    fn head(&self, place: usize) -> Option<BatchHead> {
        const HEAD: usize = size_of::<BatchHead>() / size_of::<u64>();
        let words: [u64; HEAD] = std::array::from_fn(|at| self.word(place, RECORD + at));
        BatchHead::read_from_bytes(words.as_bytes()).ok()
    }

    /// What is in a place; `None`: no calls.
    fn record(&self, place: usize) -> Option<Vec<u64>> {
        (self.head(place)?.count != 0)
            .then(|| (RECORD..WORDS).map(|at| self.word(place, at)).collect())
    }
}

/// Waits until all programs that are running have ended: they run in read-side critical sections of RCU, and this
/// waits for a grace period (`sys_membarrier`, kernel/sched/membarrier.c).
pub(super) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // With nohz_full. None takes that long.
        std::thread::sleep(Duration::from_millis(20));
    }
}

const _: () = assert!(size_of::<BatchHead>().is_multiple_of(8) && NOTED_WORDS == 6);
