//! The ring reader: merges the records of two rings, with details from `/proc` for some of them, into one ordered
//! stream of inputs.
//!
//! The rings are merged by `boot_ns`. A control record is applied before the first call that came after it. A call
//! that refers to a context waits for that context, which was written into the control ring before the call was
//! written into its own.
//!
//! Invariant: every record read from a ring is counted as delivered, whatever it is. The reader never blocks: a
//! record that can't be processed, because an earlier one is uncommitted or an answer has not come, is retried on the
//! next pass.

mod control;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use ipc_trace_common::record::{BatchHead, CallRecord, NsSwitchRecord};
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

/// The receiver of inputs: the engine, and the recorder. Its queries change nothing.
pub(crate) trait Feed {
    /// Takes an input.
    fn feed(&mut self, input: &Input<'_>);
    /// Whether a thread's context is known.
    fn knows(&self, tid: u32, context: u64) -> bool;
    /// The process and the parent of a thread whose context is known.
    fn mover(&self, tid: u32, context: u64) -> Option<Mover>;
    /// What to read from `/proc` about a process, in addition to its context's record.
    fn about_context(&self, context: &ThreadRecord) -> AboutContext;
    /// What to read from `/proc` about a thread that moved.
    fn about_move(&self, record: &NsSwitchRecord, mover: Option<Mover>) -> AboutMove;
}

/// The data about a thread that moved which a question needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mover {
    /// Its process
    pub process: ProcessId,
    /// Its parent
    pub ppid: u32,
    /// Its mount namespace; 0: not known
    pub mnt: u32,
}

/// The `/proc` reader that answers questions.
pub(crate) trait Ask {
    /// Asks a question. Returns its number; `None`: there will be no answer.
    fn ask(&mut self, question: Question) -> Option<u64>;
    /// The answer, if it has arrived.
    fn take(&mut self, number: u64) -> Option<Reply>;
    /// Discards the answer when it arrives.
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

/// What a pass over the rings needs.
pub(crate) struct ReaderCx<'a, E, C, A, F> {
    /// The calls' ring
    pub events: &'a mut E,
    /// The control ring
    pub control: &'a mut C,
    /// The `/proc` reader
    pub ask: &'a mut A,
    /// The receiver of inputs
    pub feed: &'a mut F,
    /// The boot time, nanoseconds
    pub clock: fn() -> u64,
}

/// How long a pass takes records before it yields, nanoseconds, and how many records it takes between two reads of
/// the clock.
const TURN_NS: u64 = 1_000_000;
const RECORDS_PER_CLOCK_READ: u32 = 16;

/// The result of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Records of calls
    pub calls: usize,
    /// It stopped at a limit: there may be more
    pub more: bool,
    /// It stopped because something in flight has to arrive first
    pub in_flight: bool,
}

/// Why a record can't be processed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupted {
    /// Something in flight has to arrive first
    InFlight,
    /// The pass has reached its time limit
    TurnOver,
}

impl Interrupted {
    const fn drained(self, calls: usize) -> Drained {
        match self {
            Self::InFlight => Drained { calls, more: false, in_flight: true },
            Self::TurnOver => Drained { calls, more: true, in_flight: false },
        }
    }
}

/// The reader's state.
#[derive(Debug, Default)]
pub(crate) struct RingReader {
    /// Counts of the records read from the rings
    pub delivered: Delivered,
    waiting: VecDeque<WaitingRecord>,
    /// The control ring has been read up to this time, at least
    control_watermark: u64,
    /// The position of the uncommitted control record that is waited for, and since when
    stalled: Option<(usize, u64)>,
    /// The position of the record that was not committed in time
    given_up: Option<usize>,
    /// A record of the calls' ring that has to wait
    parked: Option<Box<[u64]>>,
    /// When the pass must yield, and how many records were taken since the clock was read
    turn_ends: u64,
    unclocked: u32,
}

impl RingReader {
    /// Takes the records in the rings, up to a time limit.
    pub(crate) fn drain<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Drained {
        self.turn_ends = (with.clock)().saturating_add(TURN_NS);
        let taken = self.take(with);
        let drained = match taken {
            Ok(drained) => drained,
            Err((calls, interrupted)) => interrupted.drained(calls),
        };
        let now = (with.clock)();
        with.feed.feed(&Input::Read { now, watermark: self.watermark() });
        drained
    }

    fn take<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<Drained, (usize, Interrupted)> {
        self.read_control(with).map_err(|interrupted| (0, interrupted))?;
        // If so, there may be more in the ring.
        let was_full = self.is_full();
        let mut calls = 0;
        if let Some(words) = self.parked.take() {
            if let Err(interrupted) = self.event(words.as_bytes(), with) {
                self.parked = Some(words);
                return Err((0, interrupted));
            }
            calls += 1;
        }
        while let Some(taken) = self.next_event(with) {
            taken.map_err(|interrupted| (calls, interrupted))?;
            calls += 1;
            self.turn(with.clock).map_err(|interrupted| (calls, interrupted))?;
        }
        // Otherwise some of the calls before the waiting records are still to be handled.
        if with.events.uncommitted().is_none() {
            self.apply(u64::MAX, with).map_err(|interrupted| (calls, interrupted))?;
        }
        Ok(Drained { calls, more: was_full, in_flight: false })
    }

    /// Whether the pass may continue.
    #[inline]
    fn turn(&mut self, clock: fn() -> u64) -> Result<(), Interrupted> {
        self.unclocked += 1;
        if self.unclocked < RECORDS_PER_CLOCK_READ {
            return Ok(());
        }
        self.unclocked = 0;
        if clock() < self.turn_ends { Ok(()) } else { Err(Interrupted::TurnOver) }
    }

    #[inline]
    fn next_event<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Option<Result<(), Interrupted>> {
        let ReaderCx { events, control, ask, feed, clock } = with;
        events.next(|bytes| {
            // The event ring is borrowed by this call.
            let mut with = ReaderCx {
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

    /// Processes records of the calls' ring's kinds that come from elsewhere. All records that they refer to have
    /// been read.
    pub(crate) fn take_unsent_batches<C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        records: &[Vec<u64>],
        with: &mut ReaderCx<'_, Nothing, C, A, F>,
    ) {
        self.turn_ends = u64::MAX;
        for record in records {
            // A missing record isn't waited for: it can only be the thread's context.
            if self.event(record.as_bytes(), with).is_err() {
                self.show(record.as_bytes(), with.feed);
            }
        }
    }

    #[inline]
    fn event<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        bytes: &[u8],
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        match decode::record(bytes) {
            Ok(Record::Call(call)) => {
                let CallRecord { boot_ns, context, tid, .. } = *call.record;
                self.advance_to(boot_ns, (tid, context), with)?;
                self.call(call, with.feed);
            }
            Ok(Record::Batch(batch)) => {
                let BatchHead { tid, context, .. } = *batch.head;
                self.advance_to(batch.boot_ns(), (tid, context), with)?;
                self.batch(batch, with.feed);
            }
            Ok(other) => self.malformed(&format!("a record that is no call: {other:?}")),
            Err(error) => self.malformed(&error.to_string()),
        }
        Ok(())
    }

    /// Processes a record without waiting for earlier ones.
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
        // Only the eBPF programs count a call that the kernel never made.
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
            log::warn!("the eBPF programs wrote a malformed record: {what}");
        }
    }

    /// Applies what happened before a point in time, and makes a thread's context known.
    #[inline]
    fn advance_to<E: RecordSource, C: RecordSource, A: Ask, F: Feed>(
        &mut self,
        boot_ns: u64,
        (tid, context): (u32, u64),
        with: &mut ReaderCx<'_, E, C, A, F>,
    ) -> Result<(), Interrupted> {
        // A context is created after its call's time was taken: its number is its time.
        let until = boot_ns.max(context);
        if until > self.control_watermark {
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
