//! The thread that reads the rings: from records of two rings, and what `/proc` adds to some of them, to one order of
//! inputs.
//!
//! The rings are merged by `boot_ns`. A control record takes effect before the first call that came
//! after it; a call that refers to a context waits for that context, which was written into the
//! control ring before the call was written into its own.
//!
//! Invariant: every record that comes out of a ring is counted as delivered, whatever it is. The reader never waits:
//! what can't go on, as a record is not finished or an answer has not come, is taken up again at the next look.

mod control;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use ipc_trace_common::record::{BatchHead, CallRecord, MoveRecord};
use zerocopy::IntoBytes as _;

use crate::{
    input::{Call, Input, batch::CallBatch, counters::Delivered, process::ProcessId, words},
    sources::{
        host::inspector::{AboutContext, AboutMove, Inspector, Question, Reply},
        kernel::{
            decode::{self, Record},
            ring::{Nothing, RecordSource},
        },
    },
};
pub(crate) use control::ThreadRecord;
use control::WaitingRecord;

/// Who is fed: the engine, and who keeps what it is fed with. Questions change nothing.
pub(crate) trait Feed {
    /// Takes an input.
    fn feed(&mut self, input: &Input<'_>);
    /// Whether a thread's context is known.
    fn knows(&self, tid: u32, context: u64) -> bool;
    /// The process and the parent of a thread whose context is known.
    fn mover(&self, tid: u32, context: u64) -> Option<Mover>;
    /// What is to be asked of a process, beside its context's record.
    fn about_context(&self, context: &ThreadRecord) -> AboutContext;
    /// What is to be asked of a thread that moved.
    fn about_move(&self, record: &MoveRecord, mover: Option<Mover>) -> AboutMove;
}

/// Of a thread that moved, what a question about it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mover {
    /// Its process
    pub process: ProcessId,
    /// Its parent
    pub ppid: u32,
    /// Its mount namespace; 0: not known
    pub mnt: u32,
}

/// Who answers questions.
pub(crate) trait Ask {
    /// Asks. The question's number; `None`: nobody answers.
    fn ask(&mut self, question: Question) -> Option<u64>;
    /// The answer, if it has come.
    fn take(&mut self, number: u64) -> Option<Reply>;
    /// Nobody waits for it any more.
    fn give_up(&mut self, number: u64);
}

impl Ask for Inspector {
    fn ask(&mut self, question: Question) -> Option<u64> {
        Self::ask(self, question)
    }

    fn take(&mut self, number: u64) -> Option<Reply> {
        Self::take(self, number)
    }

    fn give_up(&mut self, number: u64) {
        Self::give_up(self, number);
    }
}

/// What a look at the rings needs.
pub(crate) struct With<'a, E, C, A, F> {
    /// The calls' ring
    pub events: &'a mut E,
    /// The control ring
    pub control: &'a mut C,
    /// Who answers
    pub ask: &'a mut A,
    /// Who is fed
    pub feed: &'a mut F,
    /// The boot time, nanoseconds
    pub clock: fn() -> u64,
}

/// How long records are taken before others get a turn, nanoseconds, and how many are taken between two looks at the
/// clock.
const TURN_NS: u64 = 1_000_000;
const CLOCKED: u32 = 16;

/// What was taken out of the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Records of calls
    pub calls: usize,
    /// It ended for a bound: there may be more at once
    pub more: bool,
    /// It ended since something has to come first that is on its way
    pub waits: bool,
}

/// A record can't be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    /// Something has to come first that is on its way
    Waits,
    /// It is others' turn
    Turn,
}

impl Later {
    const fn drained(self, calls: usize) -> Drained {
        match self {
            Self::Waits => Drained { calls, more: false, waits: true },
            Self::Turn => Drained { calls, more: true, waits: false },
        }
    }
}

/// The reader's state.
#[derive(Debug, Default)]
pub(crate) struct RingReader {
    /// What came out of the rings
    pub delivered: Delivered,
    waiting: VecDeque<WaitingRecord>,
    /// The control ring was emptied at that time, or later
    control_read: u64,
    /// The position in it of the record that is waited for, and since when
    stalled: Option<(usize, u64)>,
    /// The position of the record that did not come in time
    given_up: Option<usize>,
    /// A record of the calls' ring that has to wait
    parked: Option<Box<[u64]>>,
    /// When it is others' turn, and how many records are taken until the clock is looked at again
    turn_ends: u64,
    unclocked: u32,
}

impl RingReader {
    /// Takes what is in the rings, for a while at most.
    pub(crate) fn drain<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut With<'_, E, C, A, F>,
    ) -> Drained {
        self.turn_ends = (with.clock)().saturating_add(TURN_NS);
        let taken = self.take(with);
        let drained = match taken {
            Ok(drained) => drained,
            Err((calls, later)) => later.drained(calls),
        };
        let now = (with.clock)();
        with.feed.feed(&Input::Read { now, reached: self.reached() });
        drained
    }

    fn take<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<Drained, (usize, Later)> {
        self.read_control(with).map_err(|later| (0, later))?;
        // Then there may be more in the ring.
        let was_full = self.is_full();
        let mut calls = 0;
        if let Some(words) = self.parked.take() {
            if let Err(later) = self.event(words.as_bytes(), with) {
                self.parked = Some(words);
                return Err((0, later));
            }
            calls += 1;
        }
        while let Some(taken) = self.next_event(with) {
            taken.map_err(|later| (calls, later))?;
            calls += 1;
            self.turn(with.clock).map_err(|later| (calls, later))?;
        }
        // Else some of the calls that came before what is waiting are still to be handled.
        if with.events.unfinished().is_none() {
            self.apply(u64::MAX, with).map_err(|later| (calls, later))?;
        }
        Ok(Drained { calls, more: was_full, waits: false })
    }

    /// Whether it is still this one's turn.
    #[inline]
    fn turn(&mut self, clock: fn() -> u64) -> Result<(), Later> {
        self.unclocked += 1;
        if self.unclocked < CLOCKED {
            return Ok(());
        }
        self.unclocked = 0;
        if clock() < self.turn_ends { Ok(()) } else { Err(Later::Turn) }
    }

    #[inline]
    fn next_event<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut With<'_, E, C, A, F>,
    ) -> Option<Result<(), Later>> {
        let With { events, control, ask, feed, clock } = with;
        events.next(|bytes| {
            // The ring is being read.
            let mut with = With {
                events: &mut Nothing,
                control: &mut **control,
                ask: &mut **ask,
                feed: &mut **feed,
                clock: *clock,
            };
            let taken = self.event(bytes, &mut with);
            if taken.is_err() {
                self.parked = Some(words(&[bytes]));
            }
            taken
        })
    }

    /// Records of the calls' ring's kinds that were elsewhere. All that they refer to has been read.
    pub(crate) fn left<C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        records: &[Vec<u64>],
        with: &mut With<'_, Nothing, C, A, F>,
    ) {
        self.turn_ends = u64::MAX;
        for record in records {
            // What is not there now is not waited for: it is at most who the thread is.
            if self.event(record.as_bytes(), with).is_err() {
                self.show(record.as_bytes(), with.feed);
            }
        }
    }

    #[inline]
    fn event<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        bytes: &[u8],
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        match decode::record(bytes) {
            Ok(Record::Call(call)) => {
                let CallRecord { boot_ns, context, tid, .. } = *call.record;
                self.come_to(boot_ns, (tid, context), with)?;
                self.call(call, with.feed);
            }
            Ok(Record::Batch(batch)) => {
                let BatchHead { tid, context, .. } = *batch.head;
                self.come_to(batch.boot_ns(), (tid, context), with)?;
                self.batch(batch, with.feed);
            }
            Ok(other) => self.malformed(&format!("a record that is no call: {other:?}")),
            Err(error) => self.malformed(&error.to_string()),
        }
        Ok(())
    }

    /// A record takes effect, whatever is to come before it.
    #[cold]
    fn show(&mut self, bytes: &[u8], feed: &mut impl Feed) {
        match decode::record(bytes) {
            Ok(Record::Call(call)) => self.call(call, feed),
            Ok(Record::Batch(batch)) => self.batch(batch, feed),
            Ok(_) | Err(_) => self.malformed("a record that is no call"),
        }
    }

    #[inline]
    fn call(&mut self, call: Call<'_>, feed: &mut impl Feed) {
        // A call that the kernel never made is counted by the eBPF programs alone.
        if call.made() != Some(false)
            && let Some(count) = self.delivered.ops.get_mut(call.op as usize)
        {
            *count += 1;
        }
        feed.feed(&Input::Call(call));
    }

    fn batch(&mut self, batch: CallBatch<'_>, feed: &mut impl Feed) {
        batch.count(|counted| match counted {
            Ok((op, count)) => {
                if let Some(delivered) = self.delivered.ops.get_mut(op as usize) {
                    *delivered += count;
                }
            }
            Err(error) => self.malformed(&error.to_string()),
        });
        feed.feed(&Input::Batch(batch));
    }

    #[cold]
    fn malformed(&mut self, what: &str) {
        self.delivered.malformed += 1;
        if self.delivered.malformed == 1 {
            log::warn!("the eBPF programs wrote what is not understood: {what}");
        }
    }

    /// What happened before a moment takes effect, and a thread's context becomes known.
    #[inline]
    fn come_to<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        boot_ns: u64,
        (tid, context): (u32, u64),
        with: &mut With<'_, E, C, A, F>,
    ) -> Result<(), Later> {
        // A context is made after its call's time was taken: its number is its time.
        let until = boot_ns.max(context);
        if until > self.control_read {
            self.read_control(with)?;
        }
        self.apply(until, with)?;
        if !with.feed.knows(tid, context) {
            self.read_control(with)?;
            self.apply(until, with)?;
            if !with.feed.knows(tid, context) {
                self.apply_context(tid, context, with)?;
            }
        }
        Ok(())
    }
}
