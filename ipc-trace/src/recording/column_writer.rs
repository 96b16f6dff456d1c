//! Encodes the inputs of a block in columns.

use foldhash::HashMap;
use ipc_trace_common::record::{
    BatchHead, BatchedDuration, BatchedGroup, CallRecord, GIVEN_NAME_LEN, GROUPS, Header,
    NO_DURATION, NsRef, PackedCall, QueueRef,
};
use zerocopy::FromBytes as _;

use super::{
    Damage,
    chunk::{self, Chunk, EntryKind},
    columns::{C, COLUMNS, ColumnKind, LastCalls, PAYLOAD, RESULT},
    varint::{put, put_bytes, put_signed},
};
use crate::input::{Call, CallPayload, batch::CallBatch};

/// Who calls: what seldom changes from call to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Caller {
    tid: u32,
    pid: u32,
    context: u64,
    ns: NsRef,
    euid: u32,
    egid: u32,
    comm: [u8; 16],
}

impl Caller {
    fn of_call(call: &CallRecord) -> Self {
        let CallRecord { tid, pid, context, ns, euid, egid, comm, .. } = *call;
        Self { tid, pid, context, ns, euid, egid, comm }
    }

    fn of_batch(head: &BatchHead) -> Self {
        let BatchHead { tid, pid, context, ns, euid, egid, comm, .. } = *head;
        Self { tid, pid, context, ns, euid, egid, comm }
    }
}

/// Encodes the inputs of a block.
#[derive(Debug, Default)]
pub(super) struct ColumnWriter {
    columns: [Vec<u8>; COLUMNS],
    /// The kind of the last inputs, and how many there are
    run: Option<(EntryKind, u64)>,
    callers: HashMap<Caller, u32>,
    last_caller: Option<(Caller, u32)>,
    shapes: HashMap<u64, u32>,
    last_shape: Option<(u64, u32)>,
    lasts: LastCalls,
    time: u64,
    read: [u64; 2],
    /// How many inputs there are, and how many calls in them
    pub inputs: u64,
    pub calls: u64,
    /// The first and the last time of an input
    pub times: Option<(u64, u64)>,
}

impl ColumnWriter {
    /// How many bytes the columns have.
    pub(super) fn bytes(&self) -> usize {
        self.columns.iter().map(Vec::len).sum()
    }

    fn column(&mut self, kind: ColumnKind) -> &mut Vec<u8> {
        #[expect(clippy::indexing_slicing, reason = "there is one for each kind")]
        &mut self.columns[kind as usize]
    }

    /// Appends the inputs of a chunk.
    ///
    /// # Errors
    /// One is malformed.
    pub(super) fn append(&mut self, chunk: &Chunk) -> Result<(), Damage> {
        for (kind, bytes) in chunk.entries() {
            match kind {
                EntryKind::Call | EntryKind::Change => self.call(bytes)?,
                EntryKind::Batch => self.batch(bytes)?,
                EntryKind::Read => self.read(chunk::read_times(bytes)?),
                EntryKind::Rare => put_bytes(self.column(C::Rare), chunk::rare_bytes(bytes)?),
            }
            self.inputs += 1;
            match &mut self.run {
                Some((last, count)) if *last == kind => *count += 1,
                run => {
                    if let Some((last, count)) = run.replace((kind, 1)) {
                        put(self.column(C::Order), count << 3 | last as u64);
                    }
                }
            }
        }
        Ok(())
    }

    fn note_time(&mut self, at: u64) {
        let (first, last) = self.times.get_or_insert((at, at));
        (*first, *last) = ((*first).min(at), (*last).max(at));
    }

    #[inline]
    fn caller(&mut self, caller: &Caller) -> u32 {
        if let Some((last, index)) = &self.last_caller
            && last == caller
        {
            return *index;
        }
        let next = self.callers.len() as u32;
        let index = *self.callers.entry(*caller).or_insert(next);
        if index == next {
            let Caller { tid, pid, context, ns, euid, egid, comm } = *caller;
            let to = self.column(C::Callers);
            for value in [tid, pid] {
                put(to, value.into());
            }
            put(to, context);
            for value in [ns.inum, ns.generation, euid, egid] {
                put(to, value.into());
            }
            let len = comm.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            put_bytes(to, comm.get(..len).unwrap_or(&comm));
        }
        self.last_caller = Some((*caller, index));
        index
    }

    #[inline]
    fn shape(&mut self, header: &Header) -> u32 {
        let key =
            u64::from(header.flags) << 16 | u64::from(header.code) << 8 | u64::from(header.abi);
        if let Some((last, index)) = self.last_shape
            && last == key
        {
            return index;
        }
        let next = self.shapes.len() as u32;
        let index = *self.shapes.entry(key).or_insert(next);
        if index == next {
            put(self.column(C::Shapes), key);
        }
        self.last_shape = Some((key, index));
        index
    }

    #[inline]
    fn call(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let call = Call::decode(bytes).map_err(|_| Damage::Content("a malformed call"))?;
        let record = call.record;
        let part = call.part.as_bytes();
        let part = part.get(..used(&call, part)).unwrap_or(part);
        self.calls += 1;
        self.note_time(record.boot_ns);
        let caller = self.caller(&Caller::of_call(record));
        let shape = self.shape(&record.header);
        put(self.column(C::Caller), caller.into());
        put(self.column(C::Shape), shape.into());
        let after = record.boot_ns.wrapping_sub(self.time) as i64;
        self.time = record.boot_ns;
        put_signed(self.column(C::Time), after);
        put(self.column(C::Duration), record.duration_ns.wrapping_add(1));
        const { assert!(NO_DURATION.wrapping_add(1) == 0) };
        let [.., changed, values, payloads] = &mut self.columns[..=C::Payloads as usize] else {
            return Err(Damage::Content("no columns"));
        };
        let last = self.lasts.get_mut(caller as usize, call.op as u8)?;
        let mut bits = 0;
        for (at, (arg, last)) in record.args.iter().zip(&mut last.args).enumerate() {
            if arg != last {
                bits |= 1 << at;
                put_signed(values, arg.wrapping_sub(*last) as i64);
                *last = *arg;
            }
        }
        if record.ret != last.ret {
            bits |= RESULT;
            put_signed(values, record.ret.wrapping_sub(last.ret));
            last.ret = record.ret;
        }
        if part != last.part {
            bits |= PAYLOAD;
            put_bytes(payloads, part);
            last.part.clear();
            last.part.extend_from_slice(part);
        }
        put(changed, bits);
        Ok(())
    }

    fn read(&mut self, times: [u64; 2]) {
        let [now, _] = times;
        self.note_time(now);
        let before = std::mem::replace(&mut self.read, times);
        for (time, before) in times.into_iter().zip(before) {
            put_signed(self.column(C::Reads), time.wrapping_sub(before) as i64);
        }
    }

    fn batch(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let malformed = |_| Damage::Content("a malformed batch");
        let batch = CallBatch::new(bytes).map_err(malformed)?;
        let caller = self.caller(&Caller::of_batch(batch.head));
        put(self.column(C::Caller), caller.into());
        let [head, groups, durations] = batch.parts();
        let (head, _) = BatchHead::ref_from_prefix(head).map_err(|_| Damage::Content("no head"))?;
        let groups =
            <[BatchedGroup]>::ref_from_bytes(groups).map_err(|_| Damage::Content("no groups"))?;
        let durations = <[BatchedDuration]>::ref_from_bytes(durations)
            .map_err(|_| Damage::Content("no durations"))?;
        self.note_time(head.first_ns);
        self.note_time(batch.boot_ns().max(head.first_ns));
        let before = std::mem::replace(&mut self.time, head.first_ns);
        let to = &mut self.columns[C::Batches as usize];
        put(to, head.header.flags.into());
        put_queue(to, &head.queue);
        put_signed(to, head.first_ns.wrapping_sub(before) as i64);
        put(to, head.count.into());
        let used = || groups.iter().enumerate().filter(|(_, group)| group.what != 0);
        put(to, used().count() as u64);
        for (at, group) in used() {
            let BatchedGroup { what, count, last_ns, sent, results } = *group;
            let PackedCall { id, abi, code } = PackedCall::unpacked(what);
            self.calls += count;
            put(to, at as u64);
            for value in [code.into(), abi.into(), u64::from(group.error())] {
                put(to, value);
            }
            put_signed(to, id.into());
            put(to, count);
            put_signed(to, last_ns.wrapping_sub(head.first_ns) as i64);
            put(to, sent);
            put(to, results);
        }
        put(to, durations.len() as u64);
        for duration in durations {
            put(to, duration.ns() << 4 | duration.group() as u64);
        }
        Ok(())
    }

    /// Appends the columns to `to`: of each its number, its length and its bytes. The next input begins a new block.
    pub(super) fn finish(&mut self, to: &mut Vec<u8>) {
        if let Some((kind, count)) = self.run.take() {
            put(self.column(C::Order), count << 3 | kind as u64);
        }
        for (number, column) in self.columns.iter_mut().enumerate() {
            if !column.is_empty() {
                put(to, number as u64);
                put_bytes(to, column);
                column.clear();
            }
        }
        self.callers.clear();
        self.shapes.clear();
        (self.last_caller, self.last_shape) = (None, None);
        self.lasts.clear();
        (self.time, self.read) = (0, [0; 2]);
        (self.inputs, self.calls, self.times) = (0, 0, None);
    }
}

const _: () = assert!(GROUPS == 16);

/// How many bytes of a payload mean something: of a name, those that it has.
fn used(call: &Call<'_>, part: &[u8]) -> usize {
    match &call.part {
        CallPayload::Name(name) => {
            part.len() - GIVEN_NAME_LEN + (name.name_len as usize).min(GIVEN_NAME_LEN)
        }
        CallPayload::None
        | CallPayload::InlineSemop(_)
        | CallPayload::Semop(_)
        | CallPayload::Msg(_)
        | CallPayload::Ctl(_)
        | CallPayload::Queue(_) => part.len(),
    }
}

fn put_queue(to: &mut Vec<u8>, queue: &QueueRef) {
    let QueueRef { ns, ino, dev, flags } = *queue;
    put(to, flags.into());
    // Without a flag nothing is known of it.
    if flags != 0 {
        for value in [u64::from(ns.inum), ns.generation.into(), ino, dev.into()] {
            put(to, value);
        }
    }
}
