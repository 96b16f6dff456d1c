//! Rare inputs as CBOR: an array of the input's number and its fields. Fields that are not known are skipped, and so is an
//! input with an unknown number: both are a later version's.

use ipc_trace_common::cbor::{Cbor, invalid};
use ipc_trace_common::record::{
    AccessRecord, CgroupRecord, ContextRecord, ExitRecord, NamespaceRecord, NsRef, NsSwitchRecord,
    QueueRecord,
};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error};

use super::Damage;
use crate::{
    event::ls::Ls,
    input::{Input, process::Context},
};

/// The result of encoding into memory.
type EncodedEntry = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// Encodes an input's fields, one after the other.
struct Fields<'a>(Encoder<&'a mut Vec<u8>>);

impl<'a> Fields<'a> {
    /// Begins an input with its number and how many fields follow.
    fn new(to: &'a mut Vec<u8>, number: u8, fields: u64) -> Result<Self, Damage> {
        let mut to = Encoder::new(to);
        to.array(1 + fields).and_then(|to| to.u8(number)).map_err(unencodable)?;
        Ok(Self(to))
    }

    /// Appends a value.
    fn value(mut self, value: &impl Encode<()>) -> Result<Self, Damage> {
        self.0.encode(value).map_err(unencodable)?;
        Ok(self)
    }

    /// Appends a value of another crate.
    fn cbor(mut self, value: &impl Cbor) -> Result<Self, Damage> {
        value.put(&mut self.0).map_err(unencodable)?;
        Ok(self)
    }

    /// Appends an array of values.
    fn all<T>(
        mut self,
        all: &[T],
        put: impl Fn(&mut Encoder<&'a mut Vec<u8>>, &T) -> EncodedEntry,
    ) -> Result<Self, Damage> {
        self.0.array(all.len() as u64).map_err(unencodable)?;
        all.iter().try_for_each(|one| put(&mut self.0, one)).map_err(unencodable)?;
        Ok(self)
    }
}

fn unencodable(error: minicbor::encode::Error<std::convert::Infallible>) -> Damage {
    log::debug!("an input can't be encoded: {error}");
    Damage::Content("an input can't be encoded")
}

/// Appends a rare input.
///
/// # Errors
/// It is not rare, or can't be encoded.
pub(super) fn encode(input: &Input<'_>, to: &mut Vec<u8>) -> Result<(), Damage> {
    match input {
        Input::Call(_) | Input::Change(_) | Input::Batch(_) | Input::Read { .. } => {
            return Err(Damage::Content("a call is no rare input"));
        }
        Input::Context(Context { record, called, found }) => {
            Fields::new(to, 1, 3)?.cbor(record.as_ref())?.value(called)?.value(found)?
        }
        Input::Exit(record) => Fields::new(to, 2, 1)?.cbor(*record)?,
        Input::Namespace(record) => Fields::new(to, 3, 1)?.cbor(*record)?,
        Input::Move(record, beside) => Fields::new(to, 4, 2)?.cbor(*record)?.value(beside)?,
        Input::Queue(record) => Fields::new(to, 5, 1)?.cbor(*record)?,
        Input::Cgroup(record) => Fields::new(to, 6, 1)?.cbor(*record)?,
        Input::Access(record) => Fields::new(to, 7, 1)?.cbor(*record)?,
        Input::CoalescedAccesses(all) => Fields::new(to, 8, 1)?.all(all, |to, one| one.put(to))?,
        Input::Cgroups(all) => Fields::new(to, 9, 1)?.all(all, |to, one| one.put(to))?,
        Input::InitialSnapshot { at, ls, before, after } => {
            Fields::new(to, 10, 4)?.value(at)?.value(ls)?.value(before)?.value(after)?
        }
        Input::Opened(at, list) => Fields::new(to, 11, 2)?.value(at)?.value(list)?,
        Input::Tick(moment) => Fields::new(to, 12, 1)?.value(moment)?,
        Input::NamespaceList(list) => Fields::new(to, 13, 1)?.value(list)?,
        Input::Counted(counted) => Fields::new(to, 14, 1)?.value(counted)?,
        Input::Snapshot(ls, before, after) => {
            Fields::new(to, 15, 3)?.value(ls)?.value(before)?.value(after)?
        }
        Input::RemovedScan(ns, at, found) => Fields::new(to, 16, 3)?
            .cbor(ns)?
            .value(at)?
            .all(found, |to, one| to.encode(one).map(drop))?,
        Input::Named(named) => Fields::new(to, 17, 1)?.value(named)?,
        Input::Answer(answer) => Fields::new(to, 18, 1)?.value(answer)?,
        Input::Ending(at) => Fields::new(to, 19, 1)?.value(at)?,
        Input::FinalSnapshot(ls, list) => Fields::new(to, 20, 2)?.value(ls)?.value(list)?,
        Input::Finish(command) => Fields::new(to, 21, 1)?.value(command)?,
    };
    Ok(())
}

/// Decodes an input's fields, one after the other.
struct Taken<'a>(Decoder<'a>, u64);

impl<'a> Taken<'a> {
    fn next(&mut self) -> Result<&mut Decoder<'a>, Error> {
        self.1 = self.1.checked_sub(1).ok_or_else(|| invalid("an input lacks a field"))?;
        Ok(&mut self.0)
    }

    fn value<T: for<'b> Decode<'b, ()>>(&mut self) -> Result<T, Error> {
        self.next()?.decode()
    }

    fn cbor<T: Cbor>(&mut self) -> Result<T, Error> {
        T::take(self.next()?)
    }

    fn all<T>(
        &mut self,
        take: impl Fn(&mut Decoder<'a>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let from = self.next()?;
        let len = from.array()?.ok_or_else(|| invalid("an array without a length"))?;
        (0..len).map(|_| take(from)).collect()
    }
}

/// The names of rare inputs, by their numbers from 1.
pub(super) const NAMES: [&str; 21] = [
    "context",
    "exit",
    "namespace",
    "namespace_switch",
    "queue",
    "cgroup",
    "access",
    "coalesced_accesses",
    "cgroups",
    "initial_snapshot",
    "opened",
    "tick",
    "namespace_list",
    "counters",
    "snapshot",
    "removed_scan",
    "container",
    "answer",
    "ending",
    "final_snapshot",
    "finish",
];

/// The name of a rare input.
pub(super) fn name(bytes: &[u8]) -> &'static str {
    let mut from = Decoder::new(bytes);
    let number = from.array().and_then(|_| from.u8()).unwrap_or(0);
    let at = usize::from(number).checked_sub(1);
    at.and_then(|at| NAMES.get(at)).copied().unwrap_or("unknown")
}

/// Passes a rare input on.
///
/// # Errors
/// The bytes are no input.
pub(super) fn decode(bytes: &[u8], each: &mut impl FnMut(&Input<'_>)) -> Result<(), Damage> {
    decode_input(bytes, each).map_err(|error| {
        log::debug!("a malformed input: {error}");
        Damage::Content("a malformed input")
    })
}

fn decode_input(bytes: &[u8], each: &mut impl FnMut(&Input<'_>)) -> Result<(), Error> {
    let mut from = Decoder::new(bytes);
    let fields = from.array()?.ok_or_else(|| invalid("an input without a length"))?;
    let mut from = Taken(from, fields);
    let number = from.value()?;
    match number {
        1u8 => {
            let record: ContextRecord = from.cbor()?;
            let (called, found) = (from.value()?, from.value()?);
            each(&Input::Context(&Context { record: Box::new(record), called, found }));
        }
        2 => each(&Input::Exit(&from.cbor::<ExitRecord>()?)),
        3 => each(&Input::Namespace(&from.cbor::<NamespaceRecord>()?)),
        4 => {
            let record: NsSwitchRecord = from.cbor()?;
            each(&Input::Move(&record, &from.value()?));
        }
        5 => each(&Input::Queue(&from.cbor::<QueueRecord>()?)),
        6 => each(&Input::Cgroup(&from.cbor::<CgroupRecord>()?)),
        7 => each(&Input::Access(&from.cbor::<AccessRecord>()?)),
        8 => each(&Input::CoalescedAccesses(&from.all(Cbor::take)?)),
        9 => each(&Input::Cgroups(&from.all(Cbor::take)?)),
        10 => {
            let (at, ls) = (from.value()?, from.value::<Option<Ls>>()?);
            let (before, after) = (from.value()?, from.value()?);
            let (ls, before, after) = (ls.as_ref(), &before, &after);
            each(&Input::InitialSnapshot { at, ls, before, after });
        }
        11 => each(&Input::Opened(from.value()?, &from.value()?)),
        12 => each(&Input::Tick(from.value()?)),
        13 => each(&Input::NamespaceList(&from.value()?)),
        14 => each(&Input::Counted(&from.value()?)),
        15 => {
            let ls: Option<Ls> = from.value()?;
            let (before, after) = (from.value()?, from.value()?);
            each(&Input::Snapshot(ls.as_ref(), &before, &after));
        }
        16 => {
            let (ns, at): (NsRef, u64) = (from.cbor()?, from.value()?);
            each(&Input::RemovedScan(ns, at, &from.all(Decoder::decode)?));
        }
        17 => each(&Input::Named(&from.value()?)),
        18 => each(&Input::Answer(&from.value()?)),
        19 => each(&Input::Ending(from.value()?)),
        20 => {
            let ls: Option<Ls> = from.value()?;
            each(&Input::FinalSnapshot(ls.as_ref(), &from.value()?));
        }
        21 => each(&Input::Finish(from.value::<Option<_>>()?.as_ref())),
        _ => {}
    }
    Ok(())
}
