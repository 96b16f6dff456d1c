//! The inputs of a block, in columns: equal fields of all calls lie together, each as its difference to the call before
//! it of the same thread and operation, so that little is left to be compressed.
//!
//! `docs/RECORDING.md` describes the columns. Each has a number; a reader skips those that it does not know.

use std::collections::BTreeMap;

use foldhash::HashMap;
use ipc_trace_common::{
    op,
    record::{
        BatchHead, BatchedDuration, BatchedGroup, CallRecord, GIVEN_NAME_LEN, GROUPS, Header,
        NO_DURATION, NamePart, NsRef, PackedCall, QueueRef, RecordKind, VERSION, flag,
    },
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::{
    Damage,
    chunk::{self, Chunk, EntryKind},
    entries,
    varint::{Column, put, put_bytes, put_signed},
};
use crate::input::{Call, batch::CallBatch};

/// The columns, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum ColumnKind {
    /// Runs of inputs of one kind: the length, times 8, plus the kind
    Order = 0,
    /// The callers, as each appears for the first time
    Callers = 1,
    /// By call and batch: its caller
    Caller = 2,
    /// Operations with ABI and flags, as each appears for the first time
    Shapes = 3,
    /// By call: its shape
    Shape = 4,
    /// By call: when it returned, after the call before it
    Time = 5,
    /// By call: how long it took, plus 1; 0: unknown
    Duration = 6,
    /// By call: which of the following it has
    Changed = 7,
    /// Arguments and results that differ from those of the thread's call before of that operation
    Values = 8,
    /// Payloads that differ likewise
    Payloads = 9,
    /// By read: both times, after those of the read before it
    Reads = 10,
    /// Batches
    Batches = 11,
    /// Rare inputs, each after its length
    Rare = 12,
}

use ColumnKind as C;

const COLUMNS: usize = C::Rare as usize + 1;

/// Bits of [`ColumnKind::Changed`], above those of the five arguments.
const RESULT: u64 = 1 << 5;
const PAYLOAD: u64 = 1 << 6;

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
    fn of(call: &CallRecord) -> Self {
        let CallRecord { tid, pid, context, ns, euid, egid, comm, .. } = *call;
        Self { tid, pid, context, ns, euid, egid, comm }
    }

    fn of_batch(head: &BatchHead) -> Self {
        let BatchHead { tid, pid, context, ns, euid, egid, comm, .. } = *head;
        Self { tid, pid, context, ns, euid, egid, comm }
    }
}

/// A thread's last call of an operation.
#[derive(Clone, Debug, Default)]
struct Last {
    args: [u64; 5],
    ret: i64,
    part: Vec<u8>,
}

/// The last calls, by caller and operation.
#[derive(Debug, Default)]
struct Lasts {
    places: Vec<[u32; op::COUNT + 1]>,
    all: Vec<Last>,
}

impl Lasts {
    #[inline]
    fn of(&mut self, caller: usize, op: u8) -> Result<&mut Last, Damage> {
        if caller >= self.places.len() {
            self.places.resize(caller + 1, [u32::MAX; op::COUNT + 1]);
        }
        let place = self.places.get_mut(caller).and_then(|ops| ops.get_mut(usize::from(op)));
        let place = place.ok_or(Damage::Content("no such operation"))?;
        if *place == u32::MAX {
            *place = self.all.len() as u32;
            self.all.push(Last::default());
        }
        self.all.get_mut(*place as usize).ok_or(Damage::Content("no such operation"))
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
    lasts: Lasts,
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
        let caller = self.caller(&Caller::of(record));
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
        let last = self.lasts.of(caller as usize, call.op as u8)?;
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
        self.lasts.places.clear();
        self.lasts.all.clear();
        (self.time, self.read) = (0, [0; 2]);
        (self.inputs, self.calls, self.times) = (0, 0, None);
    }
}

const _: () = assert!(GROUPS == 16);

/// How many bytes of a payload mean something: of a name, those that it has.
fn used(call: &Call<'_>, part: &[u8]) -> usize {
    match &call.part {
        crate::input::CallPayload::Name(name) => {
            part.len() - GIVEN_NAME_LEN + (name.name_len as usize).min(GIVEN_NAME_LEN)
        }
        _ => part.len(),
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

/// Decodes the inputs of a block.
#[derive(Debug, Default)]
pub(super) struct ColumnReader<'a> {
    /// The kind of the next inputs, and how many there are
    run: Option<(EntryKind, u64)>,
    columns: [Column<'a>; COLUMNS],
    callers: Vec<CallRecord>,
    shapes: Vec<Header>,
    lasts: Lasts,
    time: u64,
    read: [u64; 2],
}

impl<'a> ColumnReader<'a> {
    /// Finds the columns of a block.
    ///
    /// # Errors
    /// They are malformed.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Damage> {
        let mut reader = Self::default();
        let mut from = Column(bytes);
        while !from.0.is_empty() {
            let (number, column) = (from.small::<usize>()?, from.bytes()?);
            // Others are a later version's.
            if let Some(place) = reader.columns.get_mut(number) {
                place.0 = column;
            }
        }
        Ok(reader)
    }

    /// Appends inputs to `to` until it has `enough` bytes. Returns whether there are more.
    ///
    /// # Errors
    /// The columns are malformed: what came before is in the chunk.
    pub(super) fn fill(&mut self, to: &mut Chunk, enough: usize) -> Result<bool, Damage> {
        while to.bytes() < enough {
            let (kind, count) = match self.run.take() {
                Some(run) => run,
                None if self.column(C::Order).0.is_empty() => return Ok(false),
                None => {
                    let run = self.column(C::Order).number()?;
                    (EntryKind::of(run & 7)?, run >> 3)
                }
            };
            if let Some(left) = count.checked_sub(1) {
                self.run = (left > 0).then_some((kind, left));
                self.entry(kind, to)?;
            }
        }
        Ok(true)
    }

    #[inline]
    fn column(&mut self, kind: ColumnKind) -> &mut Column<'a> {
        #[expect(clippy::indexing_slicing, reason = "there is one for each kind")]
        &mut self.columns[kind as usize]
    }

    #[inline]
    fn entry(&mut self, kind: EntryKind, to: &mut Chunk) -> Result<(), Damage> {
        match kind {
            EntryKind::Call | EntryKind::Change => self.call(kind, to),
            EntryKind::Batch => self.batch(to),
            EntryKind::Read => {
                for at in 0..2 {
                    let after = self.column(C::Reads).signed()?;
                    if let Some(time) = self.read.get_mut(at) {
                        *time = time.wrapping_add_signed(after);
                    }
                }
                to.push_parts(kind, &[self.read.as_bytes()]);
                Ok(())
            }
            EntryKind::Rare => {
                to.push_rare(self.column(C::Rare).bytes()?);
                Ok(())
            }
        }
    }

    /// The next caller's index; each new one is the next number.
    #[inline]
    fn caller(&mut self) -> Result<usize, Damage> {
        let index: usize = self.column(C::Caller).small()?;
        if index == self.callers.len() {
            let from = self.column(C::Callers);
            let (tid, pid, context) = (from.small()?, from.small()?, from.number()?);
            let ns = NsRef { inum: from.small()?, generation: from.small()? };
            let (euid, egid, name) = (from.small()?, from.small()?, from.bytes()?);
            let mut comm = [0; 16];
            for (to, byte) in comm.iter_mut().zip(name) {
                *to = *byte;
            }
            let rest = CallRecord::new_zeroed();
            self.callers.push(CallRecord { tid, pid, context, ns, euid, egid, comm, ..rest });
        }
        Ok(index)
    }

    #[inline]
    fn shape(&mut self) -> Result<Header, Damage> {
        let index: usize = self.column(C::Shape).small()?;
        if index == self.shapes.len() {
            let key = self.column(C::Shapes).number()?;
            let flags = u32::try_from(key >> 16).map_err(|_| Damage::Content("too many flags"))?;
            let [abi, code, ..] = key.to_le_bytes();
            let header =
                Header { version: VERSION, kind: RecordKind::Call as u8, abi, code, flags };
            self.shapes.push(header);
        }
        self.shapes.get(index).copied().ok_or(Damage::Content("no such kind of call"))
    }

    #[inline]
    fn call(&mut self, kind: EntryKind, to: &mut Chunk) -> Result<(), Damage> {
        let caller = self.caller()?;
        let header = self.shape()?;
        let mut record = *self.callers.get(caller).ok_or(Damage::Content("no such caller"))?;
        self.time = self.time.wrapping_add_signed(self.column(C::Time).signed()?);
        record.header = header;
        record.boot_ns = self.time;
        record.duration_ns = self.column(C::Duration).number()?.wrapping_sub(1);
        let (op, ..) =
            crate::input::meaning(&header).map_err(|_| Damage::Content("no such operation"))?;
        let last = self.lasts.of(caller, op as u8)?;
        #[expect(clippy::indexing_slicing, reason = "there is one for each kind")]
        let bits = self.columns[C::Changed as usize].number()?;
        #[expect(clippy::indexing_slicing, reason = "there is one for each kind")]
        let values = &mut self.columns[C::Values as usize];
        for (at, last) in last.args.iter_mut().enumerate() {
            if bits & 1 << at != 0 {
                *last = last.wrapping_add_signed(values.signed()?);
            }
        }
        if bits & RESULT != 0 {
            last.ret = last.ret.wrapping_add(values.signed()?);
        }
        if bits & PAYLOAD != 0 {
            #[expect(clippy::indexing_slicing, reason = "there is one for each kind")]
            let part = self.columns[C::Payloads as usize].bytes()?;
            last.part.clear();
            last.part.extend_from_slice(part);
        }
        (record.args, record.ret) = (last.args, last.ret);
        let part = &last.part[..];
        let missing = wanted(op.detail(), &header).saturating_sub(part.len());
        const ZEROES: [u8; size_of::<NamePart>()] = [0; size_of::<NamePart>()];
        to.push_parts(kind, &[record.as_bytes(), part, ZEROES.get(..missing).unwrap_or(&ZEROES)]);
        Ok(())
    }

    fn batch(&mut self, to: &mut Chunk) -> Result<(), Damage> {
        let caller = self.caller()?;
        let caller = *self.callers.get(caller).ok_or(Damage::Content("no such caller"))?;
        let CallRecord { tid, pid, context, ns, euid, egid, comm, .. } = caller;
        let mut head = BatchHead::new_zeroed();
        let before = self.time;
        let from = self.column(C::Batches);
        let flags = from.small()?;
        head.header =
            Header { version: VERSION, kind: RecordKind::Batch as u8, abi: 0, code: 0, flags };
        (head.tid, head.pid, head.context, head.ns) = (tid, pid, context, ns);
        (head.euid, head.egid, head.comm) = (euid, egid, comm);
        head.queue.flags = from.small()?;
        if head.queue.flags != 0 {
            head.queue.ns = NsRef { inum: from.small()?, generation: from.small()? };
            (head.queue.ino, head.queue.dev) = (from.number()?, from.small()?);
        }
        head.first_ns = before.wrapping_add_signed(from.signed()?);
        head.count = from.small()?;
        let mut groups = [BatchedGroup::new_zeroed(); GROUPS];
        for _ in 0..from.number()? {
            let at: usize = from.small()?;
            let (code, abi, error) = (from.small()?, from.small()?, from.small::<u16>()?);
            let id = i32::try_from(from.signed()?).map_err(|_| Damage::Content("no id"))?;
            let group = groups.get_mut(at).ok_or(Damage::Content("too many groups"))?;
            let what = PackedCall { id, abi, code }.packed();
            group.what = what | u64::from(error) << BatchedGroup::ERROR_SHIFT;
            group.count = from.number()?;
            group.last_ns = head.first_ns.wrapping_add_signed(from.signed()?);
            (group.sent, group.results) = (from.number()?, from.number()?);
        }
        let mut durations = Vec::new();
        for _ in 0..from.number()? {
            let duration = from.number()?;
            let (ns, group) = (duration >> 4, duration & 15);
            let packed = ns | group << BatchedDuration::NS_BITS;
            let packed = u32::try_from(packed).map_err(|_| Damage::Content("too long a time"))?;
            durations.push(BatchedDuration(packed));
        }
        self.time = head.first_ns;
        to.push_parts(
            EntryKind::Batch,
            &[head.as_bytes(), groups.as_bytes(), durations.as_bytes()],
        );
        Ok(())
    }
}

/// Counts the inputs of a block by kind. Of a malformed block, those that are known.
pub(super) fn count_kinds(bytes: &[u8], to: &mut BTreeMap<&'static str, u64>) {
    let Ok(mut reader) = ColumnReader::new(bytes) else { return };
    while let Ok(run) = reader.column(C::Order).number() {
        let (Ok(kind), count) = (EntryKind::of(run & 7), run >> 3) else { return };
        let name = match kind {
            EntryKind::Call => "call",
            EntryKind::Change => "change",
            EntryKind::Batch => "batch",
            EntryKind::Read => "read",
            EntryKind::Rare => {
                for _ in 0..count {
                    let Ok(bytes) = reader.column(C::Rare).bytes() else { return };
                    *to.entry(entries::name(bytes)).or_default() += 1;
                }
                continue;
            }
        };
        *to.entry(name).or_default() += count;
    }
}

/// How many bytes the payload of a call has.
fn wanted(detail: ipc_trace_common::op::Detail, header: &Header) -> usize {
    use ipc_trace_common::{
        op::Detail,
        record::{CtlPart, MsgPart, QueuePart, SemopPart},
    };
    match detail {
        Detail::Plain => 0,
        Detail::Semop if header.flags & flag::INLINE != 0 => 0,
        Detail::Semop => size_of::<SemopPart>(),
        Detail::Message => size_of::<MsgPart>(),
        Detail::Control => size_of::<CtlPart>(),
        Detail::Queue => size_of::<QueuePart>(),
        Detail::Name => size_of::<NamePart>(),
    }
}
