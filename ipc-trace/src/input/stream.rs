//! Inputs as a byte stream: the metadata of the run, then each input prefixed with its length and kind. It is
//! read only by the same version.
//!
//! Invariant: any bytes give inputs or an error; never a panic, and no more memory than there are bytes.

use std::io::BufRead;

use borsh::{
    BorshDeserialize, BorshSerialize,
    io::{self, Read, Write},
};
use ipc_trace_common::record::{
    AccessRecord, CgroupRecord, ContextRecord, ExitRecord, NamespaceRecord, NsRef, NsSwitchRecord,
    QueueRecord,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Begin, Call, Input, Moment,
    batch::CallBatch,
    container::RuntimeMetadata,
    counters::Counted,
    namespace_list::NamespaceList,
    process::{Called, Context, InspectorAnswer, MoveContext, ProcInfo},
    raw::{get, get_all, invalid, put, put_all},
    words,
};
use crate::event::{CommandOutcome, ls::Ls, objects::ObjectInfo};

/// Maximal size of an input in bytes: more than for any host with a million objects.
const MAX_INPUT_BYTES: u32 = 1 << 30;

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// The kind of an input.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum InputKind { $($kind,)* }

        impl InputKind {
            const ALL: &[Self] = &[$(Self::$kind,)*];
        }
    };
}

kinds! {
    Call Batch Change Context Exit Namespace Move Queue Cgroup Access CoalescedAccesses Cgroups InitialSnapshot
    Opened Read Tick NamespaceList Counted Snapshot RemovedScan Named Answer Ending FinalSnapshot Finish
}

/// Appends the metadata of a run.
///
/// # Errors
/// None, into memory.
pub(crate) fn begin(begin: &Begin, to: &mut Vec<u8>) -> io::Result<()> {
    let bytes = borsh::to_vec(begin)?;
    length(bytes.len())?.serialize(to)?;
    to.write_all(&bytes)
}

/// Appends an input.
///
/// # Errors
/// It is too long.
pub(crate) fn append(input: &Input<'_>, to: &mut Vec<u8>) -> io::Result<()> {
    let at = to.len();
    to.extend_from_slice(&[0; 5]);
    let kind = put_input(input, to)?;
    let length = length(to.len() - at - 5)?;
    if let Some(head) = to.get_mut(at..at + 5) {
        head.copy_from_slice(&[&length.to_le_bytes()[..], &[kind as u8]].concat());
    }
    Ok(())
}

fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len)
        .ok()
        .filter(|len| *len <= MAX_INPUT_BYTES)
        .ok_or_else(|| invalid("an input is too long"))
}

/// Reads the metadata of a run.
///
/// # Errors
/// It can't be read, or is of another format.
pub(crate) fn read_begin(from: &mut impl Read) -> io::Result<Begin> {
    let length = u32::deserialize_reader(from)?;
    Begin::try_from_slice(&bytes(length, from)?)
}

/// Reads the next input and passes it to `with`; `None`: there is none.
///
/// # Errors
/// It can't be read, or is no input.
pub(crate) fn read<T>(
    from: &mut impl BufRead,
    with: impl FnOnce(&Input<'_>) -> T,
) -> io::Result<Option<T>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let length = u32::deserialize_reader(from)?;
    let kind = InputKind::ALL.get(usize::from(u8::deserialize_reader(from)?));
    let kind = kind.ok_or_else(|| invalid("no such input"))?;
    let mut result = None;
    with_input(*kind, &bytes(length, from)?, |input| result = Some(with(input)))?;
    Ok(result)
}

fn bytes(length: u32, from: &mut impl Read) -> io::Result<Vec<u8>> {
    if length > MAX_INPUT_BYTES {
        return Err(invalid("an input is too long"));
    }
    let mut bytes = Vec::new();
    let mut rest = from.take(length.into());
    if rest.read_to_end(&mut bytes)? != length as usize {
        return Err(invalid("an input ends before its end"));
    }
    Ok(bytes)
}

fn put_input(input: &Input<'_>, to: &mut Vec<u8>) -> io::Result<InputKind> {
    Ok(match input {
        Input::Call(call) => {
            put_words(&call.to_words(), to)?;
            InputKind::Call
        }
        Input::Batch(batch) => {
            put_words(&batch.to_words(), to)?;
            InputKind::Batch
        }
        Input::Change(call) => {
            put_words(&call.to_words(), to)?;
            InputKind::Change
        }
        Input::Context(Context { record, called, found }) => {
            put(record.as_ref(), to)?;
            (called, found).serialize(to)?;
            InputKind::Context
        }
        Input::Exit(record) => {
            put(*record, to)?;
            InputKind::Exit
        }
        Input::Namespace(record) => {
            put(*record, to)?;
            InputKind::Namespace
        }
        Input::Move(record, beside) => {
            put(*record, to)?;
            beside.serialize(to)?;
            InputKind::Move
        }
        Input::Queue(record) => {
            put(*record, to)?;
            InputKind::Queue
        }
        Input::Cgroup(record) => {
            put(*record, to)?;
            InputKind::Cgroup
        }
        Input::Access(record) => {
            put(*record, to)?;
            InputKind::Access
        }
        Input::CoalescedAccesses(all) => {
            let (keys, counts): (Vec<_>, Vec<_>) = all.iter().copied().unzip();
            put_all(&keys, to)?;
            put_all(&counts, to)?;
            InputKind::CoalescedAccesses
        }
        Input::Cgroups(all) => {
            all.serialize(to)?;
            InputKind::Cgroups
        }
        Input::InitialSnapshot { at, ls, before, after } => {
            (at, ls, before, after).serialize(to)?;
            InputKind::InitialSnapshot
        }
        Input::Opened(at, namespace_list) => {
            (at, namespace_list).serialize(to)?;
            InputKind::Opened
        }
        Input::Read { now, watermark } => {
            (now, watermark).serialize(to)?;
            InputKind::Read
        }
        Input::Tick(moment) => {
            moment.serialize(to)?;
            InputKind::Tick
        }
        Input::NamespaceList(namespace_list) => {
            namespace_list.serialize(to)?;
            InputKind::NamespaceList
        }
        Input::Counted(counted) => {
            counted.serialize(to)?;
            InputKind::Counted
        }
        Input::Snapshot(ls, before, after) => {
            (ls, before, after).serialize(to)?;
            InputKind::Snapshot
        }
        Input::RemovedScan(ns, at, found) => {
            put(ns, to)?;
            (at, found).serialize(to)?;
            InputKind::RemovedScan
        }
        Input::Named(named) => {
            named.serialize(to)?;
            InputKind::Named
        }
        Input::Answer(answer) => {
            answer.serialize(to)?;
            InputKind::Answer
        }
        Input::Ending(at) => {
            at.serialize(to)?;
            InputKind::Ending
        }
        Input::FinalSnapshot(ls, namespace_list) => {
            (ls, namespace_list).serialize(to)?;
            InputKind::FinalSnapshot
        }
        Input::Finish(command) => {
            command.serialize(to)?;
            InputKind::Finish
        }
    })
}

fn put_words(words: &[u64], to: &mut Vec<u8>) -> io::Result<()> {
    to.write_all(words.as_bytes())
}

fn record<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
    bytes: &mut &[u8],
    with: impl FnOnce(&T),
) -> io::Result<()> {
    with(&get(bytes)?);
    Ok(())
}

fn with_input(kind: InputKind, bytes: &[u8], with: impl FnOnce(&Input<'_>)) -> io::Result<()> {
    let mut rest = bytes;
    let from = &mut rest;
    match kind {
        InputKind::Call | InputKind::Change => {
            let words = words(&[bytes]);
            let call =
                Call::decode(words.as_bytes()).map_err(|error| invalid(&error.to_string()))?;
            let is_call = kind == InputKind::Call;
            with(&if is_call { Input::Call(call) } else { Input::Change(call) });
            return Ok(());
        }
        InputKind::Batch => {
            let words = words(&[bytes]);
            let batch =
                CallBatch::new(words.as_bytes()).map_err(|error| invalid(&error.to_string()))?;
            with(&Input::Batch(batch));
            return Ok(());
        }
        InputKind::Context => {
            let record: Box<ContextRecord> = Box::new(get(from)?);
            let (called, found) = <(Called, ProcInfo)>::deserialize(from)?;
            with(&Input::Context(&Context { record, called, found }));
        }
        InputKind::Exit => record(from, |record: &ExitRecord| with(&Input::Exit(record)))?,
        InputKind::Namespace => {
            record(from, |record: &NamespaceRecord| with(&Input::Namespace(record)))?;
        }
        InputKind::Move => {
            let record: NsSwitchRecord = get(from)?;
            with(&Input::Move(&record, &MoveContext::deserialize(from)?));
        }
        InputKind::Queue => record(from, |record: &QueueRecord| with(&Input::Queue(record)))?,
        InputKind::Cgroup => record(from, |record: &CgroupRecord| with(&Input::Cgroup(record)))?,
        InputKind::Access => record(from, |record: &AccessRecord| with(&Input::Access(record)))?,
        InputKind::CoalescedAccesses => {
            let (keys, counts) = (get_all(from)?, get_all(from)?);
            let all: Vec<_> = keys.into_iter().zip(counts).collect();
            with(&Input::CoalescedAccesses(&all));
        }
        InputKind::Cgroups => with(&Input::Cgroups(&Vec::deserialize(from)?)),
        InputKind::InitialSnapshot => {
            let (at, ls, before, after) =
                <(u64, Option<Ls>, NamespaceList, NamespaceList)>::deserialize(from)?;
            with(&Input::InitialSnapshot { at, ls: ls.as_ref(), before: &before, after: &after });
        }
        InputKind::Opened => {
            let (at, namespace_list) = <(u64, NamespaceList)>::deserialize(from)?;
            with(&Input::Opened(at, &namespace_list));
        }
        InputKind::Read => {
            let (now, watermark) = <(u64, u64)>::deserialize(from)?;
            with(&Input::Read { now, watermark });
        }
        InputKind::Tick => with(&Input::Tick(Moment::deserialize(from)?)),
        InputKind::NamespaceList => with(&Input::NamespaceList(&NamespaceList::deserialize(from)?)),
        InputKind::Counted => with(&Input::Counted(&Counted::deserialize(from)?)),
        InputKind::Snapshot => {
            let (ls, before, after) =
                <(Option<Ls>, NamespaceList, NamespaceList)>::deserialize(from)?;
            with(&Input::Snapshot(ls.as_ref(), &before, &after));
        }
        InputKind::RemovedScan => {
            let ns: NsRef = get(from)?;
            let (at, found) = <(u64, Vec<ObjectInfo>)>::deserialize(from)?;
            with(&Input::RemovedScan(ns, at, &found));
        }
        InputKind::Named => with(&Input::Named(&RuntimeMetadata::deserialize(from)?)),
        InputKind::Answer => with(&Input::Answer(&InspectorAnswer::deserialize(from)?)),
        InputKind::Ending => with(&Input::Ending(u64::deserialize(from)?)),
        InputKind::FinalSnapshot => {
            let (ls, namespace_list) = <(Option<Ls>, NamespaceList)>::deserialize(from)?;
            with(&Input::FinalSnapshot(ls.as_ref(), &namespace_list));
        }
        InputKind::Finish => {
            with(&Input::Finish(Option::<CommandOutcome>::deserialize(from)?.as_ref()))
        }
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(invalid("an input has more bytes than it needs")),
    }
}
