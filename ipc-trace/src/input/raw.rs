//! Plain values of the eBPF programs' records, as bytes.

use borsh::{
    BorshDeserialize as _, BorshSerialize as _,
    io::{Error, ErrorKind, Read, Result, Write},
};
use ipc_trace_common::op::{Abi, Op};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(super) fn put<T: IntoBytes + Immutable, W: Write>(value: &T, to: &mut W) -> Result<()> {
    to.write_all(value.as_bytes())
}

pub(super) fn get<T: FromBytes + IntoBytes, R: Read>(from: &mut R) -> Result<T> {
    let mut value = T::new_zeroed();
    from.read_exact(value.as_mut_bytes())?;
    Ok(value)
}

pub(super) fn put_all<T: IntoBytes + Immutable, W: Write>(all: &[T], to: &mut W) -> Result<()> {
    put_len(all.len(), to)?;
    to.write_all(all.as_bytes())
}

/// One by one: the length isn't trusted, and memory is allocated only for data that exists.
pub(super) fn get_all<T: FromBytes + IntoBytes, R: Read>(from: &mut R) -> Result<Vec<T>> {
    let len = u32::deserialize_reader(from)?;
    (0..len).map(|_| get(from)).collect()
}

pub(super) fn put_len<W: Write>(len: usize, to: &mut W) -> Result<()> {
    let len = u32::try_from(len).map_err(|_| invalid("too many"))?;
    len.serialize(to)
}

pub(super) fn op<R: Read>(from: &mut R) -> Result<Op> {
    Op::from_number(u8::deserialize_reader(from)?).ok_or_else(|| invalid("no such operation"))
}

pub(super) fn abi<R: Read>(from: &mut R) -> Result<Abi> {
    let number = usize::from(u8::deserialize_reader(from)?);
    Abi::ALL.get(number).copied().ok_or_else(|| invalid("no such ABI"))
}

pub(super) fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
