//! Values of other crates in CBOR (RFC 8949), for recordings: what the eBPF programs' records hold, by the numbers of
//! fields and not by their layout. A field that is missing is zero, and one that is not known is skipped, so records can
//! grow.

use std::{
    boxed::Box,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    vec::Vec,
};

use crate::{
    op::{Abi, ObjectKind, Op},
    record::{
        AccessRecord, AncestorRecord, CgroupRecord, ContextRecord, ExitRecord, Header,
        NamespaceRecord, NsRef, NsSwitchRecord, PendingRecord, QueueRecord, QueueRef, RecordKind,
        UidExtent, VERSION,
    },
    state::{Coalesced, CoalescedKey, DropKey},
};
use minicbor::{
    Decoder, Encoder,
    decode::Error,
    encode::{Error as EncodeError, Write},
};
use zerocopy::FromZeros as _;

/// The result of encoding.
pub type Encoded<W> = Result<(), EncodeError<<W as Write>::Error>>;

/// A value in CBOR.
pub trait Cbor: Sized {
    /// Appends it.
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W>;

    /// Reads it.
    fn take(from: &mut Decoder<'_>) -> Result<Self, Error>;
}

/// For `#[cbor(with = …)]`.
pub fn encode<T: Cbor, C, W: Write>(value: &T, to: &mut Encoder<W>, _: &mut C) -> Encoded<W> {
    value.put(to)
}

/// For `#[cbor(with = …)]`.
pub fn decode<T: Cbor, C>(from: &mut Decoder<'_>, _: &mut C) -> Result<T, Error> {
    T::take(from)
}

/// Calls `each` with the index of each entry of an array; it returns whether it has read it.
fn entries(
    from: &mut Decoder<'_>,
    mut each: impl FnMut(u64, &mut Decoder<'_>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let len = from.array()?.ok_or_else(|| invalid("an array without a length"))?;
    for index in 0..len {
        if !each(index, from)? {
            from.skip()?;
        }
    }
    Ok(())
}

/// An error about bytes that have no meaning.
#[must_use]
pub fn invalid(what: &'static str) -> Error {
    Error::message(what)
}

/// Implements [`Cbor`] by minicbor's traits.
#[macro_export]
macro_rules! cbor_as_encoded {
    ($($type:ty)*) => {
        $(impl $crate::cbor::Cbor for $type {
            fn put<W: minicbor::encode::Write>(
                &self,
                to: &mut minicbor::Encoder<W>,
            ) -> $crate::cbor::Encoded<W> {
                to.encode(self)?;
                Ok(())
            }

            fn take(from: &mut minicbor::Decoder<'_>) -> Result<Self, minicbor::decode::Error> {
                from.decode()
            }
        })*
    };
}

pub use cbor_as_encoded;

cbor_as_encoded! { u8 u16 u32 u64 i32 i64 bool }

impl Cbor for i128 {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        // Nanoseconds since 1970 take 63 bits until the year 2262.
        i64::try_from(*self).unwrap_or(if *self < 0 { i64::MIN } else { i64::MAX }).put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(i64::take(from)?.into())
    }
}

impl Cbor for Vec<u8> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.bytes(self)?;
        Ok(())
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(from.bytes()?.to_vec())
    }
}

impl Cbor for [u8; 16] {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        let len = self.iter().position(|byte| *byte == 0).unwrap_or(self.len());
        to.bytes(self.get(..len).unwrap_or_default())?;
        Ok(())
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let mut whole = [0; 16];
        fill(from.bytes()?, &mut whole);
        Ok(whole)
    }
}

impl<T: Cbor> Cbor for Option<T> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        match self {
            Some(value) => value.put(to),
            None => to.null().map(drop),
        }
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        if from.datatype()? == minicbor::data::Type::Null {
            from.null()?;
            return Ok(None);
        }
        T::take(from).map(Some)
    }
}

impl<T: Cbor> Cbor for Box<T> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        T::put(self, to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        T::take(from).map(Self::new)
    }
}

impl<T: Cbor> Cbor for Arc<T> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        T::put(self, to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        T::take(from).map(Self::new)
    }
}

/// Types whose arrays are arrays; bytes are not.
pub trait Element: Cbor {}

macro_rules! elements {
    ($($type:ty)*) => { $(impl Element for $type {})* };
}

elements! { u64 NsRef QueueRef UidExtent AncestorRecord Option<Vec<u8>> }

impl<T: Cbor> Element for Arc<T> {}

impl<A: Cbor, B: Cbor> Element for (A, B) {}

impl<A: Cbor, B: Cbor, C: Cbor> Element for (A, B, C) {}

impl<T: Element> Cbor for Vec<T> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.array(self.len() as u64)?;
        self.iter().try_for_each(|one| one.put(to))
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        // The length isn't trusted: memory is allocated only for values that exist.
        let mut all = Self::new();
        entries(from, |_, from| {
            all.push(T::take(from)?);
            Ok(true)
        })?;
        Ok(all)
    }
}

impl<T: Element> Cbor for Arc<[T]> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.array(self.len() as u64)?;
        self.iter().try_for_each(|one| one.put(to))
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(Vec::take(from)?.into())
    }
}

impl<const N: usize> Cbor for [u64; N] {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.array(N as u64)?;
        self.iter().try_for_each(|one| one.put(to))
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let mut all = [0; N];
        entries(from, |index, from| {
            let place = usize::try_from(index).ok().and_then(|index| all.get_mut(index));
            let Some(place) = place else { return Ok(false) };
            *place = u64::take(from)?;
            Ok(true)
        })?;
        Ok(all)
    }
}

impl<A: Cbor, B: Cbor> Cbor for (A, B) {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.array(2)?;
        self.0.put(to)?;
        self.1.put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        array_of(from, 2)?;
        Ok((A::take(from)?, B::take(from)?))
    }
}

impl<A: Cbor, B: Cbor, C: Cbor> Cbor for (A, B, C) {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.array(3)?;
        self.0.put(to)?;
        self.1.put(to)?;
        self.2.put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        array_of(from, 3)?;
        Ok((A::take(from)?, B::take(from)?, C::take(from)?))
    }
}

fn array_of(from: &mut Decoder<'_>, len: u64) -> Result<(), Error> {
    match from.array()? {
        Some(found) if found == len => Ok(()),
        _ => Err(invalid("a tuple of another length")),
    }
}

/// A map as pairs, in the order of their keys, so that equal maps are equal bytes.
impl<K: Cbor + Ord + Hash + Copy, V: Cbor + Copy> Cbor for HashMap<K, V> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        let sorted: BTreeMap<_, _> = self.iter().map(|(key, value)| (*key, *value)).collect();
        sorted.put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(BTreeMap::take(from)?.into_iter().collect())
    }
}

impl<K: Cbor + Ord, V: Cbor> Cbor for BTreeMap<K, V> {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.map(self.len() as u64)?;
        self.iter().try_for_each(|(key, value)| {
            key.put(to)?;
            value.put(to)
        })
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let len = from.map()?.ok_or_else(|| invalid("a map without a length"))?;
        (0..len).map(|_| Ok((K::take(from)?, V::take(from)?))).collect()
    }
}

impl Cbor for Op {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        (*self as u8).put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        Self::from_number(u8::take(from)?).ok_or_else(|| invalid("no such operation"))
    }
}

/// As their places in the lists of all.
macro_rules! numbered {
    ($($type:ty: $unknown:literal)*) => {
        $(impl Cbor for $type {
            fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
                (*self as u8).put(to)
            }

            fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
                let number = usize::from(u8::take(from)?);
                Self::ALL.get(number).copied().ok_or_else(|| invalid($unknown))
            }
        })*
    };
}

numbered! {
    Abi: "no such ABI"
    ObjectKind: "no such kind of object"
}

/// The flags, the code and the ABI: the record says its kind.
impl Cbor for Header {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        (self.flags, self.code, self.abi).put(to)
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let (flags, code, abi) = <(u32, u8, u8)>::take(from)?;
        Ok(Self { version: VERSION, kind: 0, abi, code, flags })
    }
}

/// Copies as many bytes as there is room for.
fn fill(bytes: &[u8], to: &mut [u8]) -> usize {
    let len = bytes.len().min(to.len());
    if let (Some(to), Some(bytes)) = (to.get_mut(..len), bytes.get(..len)) {
        to.copy_from_slice(bytes);
    }
    len
}

/// A structure as the array of its fields.
macro_rules! structure {
    ($($type:ident { $($index:literal $field:ident,)* })*) => {
        $(impl Cbor for $type {
            fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
                to.array([$($index),*].len() as u64)?;
                $(self.$field.put(to)?;)*
                Ok(())
            }

            fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
                let mut value = Self::new_zeroed();
                entries(from, |index, from| {
                    match index {
                        $($index => value.$field = Cbor::take(from)?,)*
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(value)
            }
        })*
    };
}

structure! {
    NsRef { 0 inum, 1 generation, }
    QueueRef { 0 ns, 1 ino, 2 dev, 3 flags, }
    UidExtent { 0 first, 1 lower_first, 2 count, }
    AncestorRecord { 0 start_boot_ns, 1 cgroup, 2 comm, 3 pid, }
    DropKey { 0 inum, 1 generation, 2 op, 3 error, }
    CoalescedKey { 0 pid_tgid, 1 file, 2 ns, 3 channel, }
    Coalesced { 0 sent_ns, 1 count, }
}

/// A record as the array of its fields. `names`: bytes, of which as many are used as another field says. `lists`: a list,
/// of which as many entries are used as another field says.
macro_rules! record {
    ($($type:ident = $kind:ident {
        $($index:literal $field:ident,)*
        $(names $at:literal $name:ident $len:ident,)*
        $(list $list_at:literal $list:ident $count:ident $first:literal,)*
    })*) => {
        $(impl Cbor for $type {
            fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
                to.array([0, $($index,)* $($at,)* $($list_at, $first,)*].len() as u64)?;
                self.header.put(to)?;
                $(self.$field.put(to)?;)*
                $(to.bytes(self.$name.get(..self.$len as usize).unwrap_or(&self.$name))?;)*
                $(
                    self.$count.put(to)?;
                    self.$list.get(..self.$count as usize).unwrap_or(&[]).to_vec().put(to)?;
                )*
                Ok(())
            }

            fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
                let mut record = Self::new_zeroed();
                entries(from, |index, from| {
                    match index {
                        0 => record.header = Header::take(from)?,
                        $($index => record.$field = Cbor::take(from)?,)*
                        $($at => record.$len = fill(from.bytes()?, &mut record.$name) as u32,)*
                        $(
                            $first => record.$count = Cbor::take(from)?,
                            $list_at => {
                                let all = Vec::take(from)?;
                                for (place, one) in record.$list.iter_mut().zip(all) {
                                    *place = one;
                                }
                            }
                        )*
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                record.header.kind = RecordKind::$kind as u8;
                Ok(record)
            }
        })*
    };
}

record! {
    PendingRecord = Pending {
        1 enter_boot_ns, 2 context, 3 tid, 4 pid, 5 ns, 6 queue, 7 arg0, 8 comm,
    }
    ExitRecord = Exit { 1 boot_ns, 2 context, 3 tid, 4 pid, }
    NamespaceRecord = Namespace { 1 boot_ns, 2 ns, 3 ns_id, 4 mqueue_dev, 5 mq_queues, }
    NsSwitchRecord = Move {
        1 boot_ns, 2 context, 3 tid, 4 pid, 5 from, 6 to, 7 child_context, 8 child_tid, 9 child_pid, 10 ns_id, 11 way,
    }
    QueueRecord = Queue { 1 boot_ns, 2 queue, names 3 name name_len, }
    CgroupRecord = Cgroup { 1 boot_ns, 2 id, names 3 path path_len, }
    AccessRecord = Access {
        1 boot_ns, 2 context, 3 tid, 4 pid, 5 euid, 6 egid, 7 ns, 8 object, 9 key, 10 count, 11 file, 12 comm,
        names 13 name name_len,
    }
    ContextRecord = Context {
        1 boot_ns, 2 context, 3 start_boot_ns, 4 tid, 5 pid, 6 ppid, 7 euid, 8 egid, 9 pid_ns, 10 mnt_ns, 11 user_ns,
        12 ns, 13 cgroup, 14 comm, 15 capabilities, 16 args_len, 17 ns_pid,
        names 18 exe exe_len,
        list 20 uid_map uid_extents 19,
        list 22 ancestors ancestor_count 21,
    }
}

/// Implements minicbor's traits by [`Cbor`].
#[macro_export]
macro_rules! encode_as_cbor {
    ($type:ty) => {
        impl<C> minicbor::Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                to: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> $crate::cbor::Encoded<W> {
                $crate::cbor::Cbor::put(self, to)
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $type {
            fn decode(
                from: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                $crate::cbor::Cbor::take(from)
            }
        }
    };
}

pub use encode_as_cbor;

encode_as_cbor!(NsRef);
encode_as_cbor!(QueueRef);
encode_as_cbor!(UidExtent);
encode_as_cbor!(CoalescedKey);
encode_as_cbor!(ObjectKind);
