//! Decodes the inputs of a block.

use std::collections::BTreeMap;

use ipc_trace_common::{
    op::Detail,
    record::{
        BatchHead, BatchedDuration, BatchedGroup, CallRecord, CtlPart, GROUPS, Header, MsgPart,
        NamePart, NsRef, PackedCall, QueuePart, RecordKind, SemopPart, VERSION, flag,
    },
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{
    Damage,
    chunk::{Chunk, EntryKind},
    columns::{C, COLUMNS, ColumnKind, LastCalls, PAYLOAD, RESULT},
    entries,
    varint::Numbers,
};

/// Decodes the inputs of a block.
#[derive(Debug, Default)]
pub(super) struct ColumnReader<'a> {
    /// The kind of the next inputs, and how many there are
    run: Option<(EntryKind, u64)>,
    columns: [Numbers<'a>; COLUMNS],
    callers: Vec<CallRecord>,
    shapes: Vec<Header>,
    lasts: LastCalls,
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
        let mut from = Numbers(bytes);
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
                    (EntryKind::from_number(run & 7)?, run >> 3)
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
    fn column(&mut self, kind: ColumnKind) -> &mut Numbers<'a> {
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
        let last = self.lasts.get_mut(caller, op as u8)?;
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
        let (Ok(kind), count) = (EntryKind::from_number(run & 7), run >> 3) else { return };
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
fn wanted(detail: Detail, header: &Header) -> usize {
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
