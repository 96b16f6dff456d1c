//! Values that others share, in CBOR: encoded once; afterwards a number stands for them.

use std::{collections::HashMap, sync::Arc};

use ipc_trace_common::cbor::{Encoded, invalid};
use minicbor::{Decode, Decoder, Encode, Encoder, data::Type, decode::Error, encode::Write};

use super::{Process, identity::Ancestor};

/// Values of one type that others share, by their numbers.
#[derive(Debug)]
pub(crate) struct SharedValues<T> {
    /// While encoding: the numbers of values, by their addresses
    numbers: HashMap<usize, u64>,
    /// While decoding: the values
    values: Vec<T>,
}

impl<T> Default for SharedValues<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

/// The context of encoding and decoding what shares ancestors of processes.
pub(crate) trait SharedAncestors {
    /// Ancestors of processes
    fn ancestors(&mut self) -> &mut SharedValues<Arc<Ancestor>>;
}

/// Encodes a shared value: itself in an array or, if it was encoded before, its number.
pub(crate) fn encode_shared<C, T: Encode<C>, S, W: Write>(
    value: &T,
    to: &mut Encoder<W>,
    context: &mut C,
    table: impl Fn(&mut C) -> &mut SharedValues<S>,
) -> Encoded<W> {
    let address = std::ptr::from_ref(value).addr();
    if let Some(number) = table(context).numbers.get(&address) {
        to.u64(*number)?;
        return Ok(());
    }
    value.encode(to.array(1)?, context)?;
    let numbers = &mut table(context).numbers;
    numbers.insert(address, numbers.len() as u64);
    Ok(())
}

/// Decodes it. `new` makes it shared.
pub(crate) fn decode_shared<'b, C, T: Decode<'b, C>, S: Clone>(
    from: &mut Decoder<'b>,
    context: &mut C,
    table: impl Fn(&mut C) -> &mut SharedValues<S>,
    new: impl Fn(T) -> S,
) -> Result<S, Error> {
    if from.datatype()? != Type::Array {
        let number = usize::try_from(from.u64()?).ok();
        let known = number.and_then(|number| table(context).values.get(number));
        return known.cloned().ok_or_else(|| invalid("no such shared value"));
    }
    if from.array()? != Some(1) {
        return Err(invalid("a shared value of another length"));
    }
    let value = new(T::decode(from, context)?);
    table(context).values.push(value.clone());
    Ok(value)
}

/// Encodes `None` as null.
pub(crate) fn encode_optional<C, T, W: Write>(
    value: Option<&T>,
    to: &mut Encoder<W>,
    context: &mut C,
    encode: impl Fn(&T, &mut Encoder<W>, &mut C) -> Encoded<W>,
) -> Encoded<W> {
    match value {
        Some(value) => encode(value, to, context),
        None => to.null().map(drop),
    }
}

pub(crate) fn decode_optional<'b, C, T>(
    from: &mut Decoder<'b>,
    context: &mut C,
    decode: impl Fn(&mut Decoder<'b>, &mut C) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    if from.datatype()? == Type::Null {
        from.null()?;
        return Ok(None);
    }
    decode(from, context).map(Some)
}

/// For `#[cbor(with = …)]`: an ancestor.
pub(crate) mod ancestor {
    use super::*;

    pub(crate) fn encode<C: SharedAncestors, W: Write>(
        ancestor: &Arc<Ancestor>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        encode_shared(&**ancestor, to, context, C::ancestors)
    }

    pub(crate) fn decode<C: SharedAncestors>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Arc<Ancestor>, Error> {
        decode_shared(from, context, C::ancestors, Arc::new)
    }
}

/// For `#[cbor(with = …)]`: the ancestors of a process.
pub(crate) mod ancestry {
    use super::*;

    type Ancestry = Arc<[Arc<Ancestor>]>;

    fn encode_all<C: SharedAncestors, W: Write>(
        all: &Ancestry,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        to.array(all.len() as u64)?;
        all.iter().try_for_each(|one| ancestor::encode(one, to, context))
    }

    fn decode_all<C: SharedAncestors>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Ancestry, Error> {
        let len = from.array()?.ok_or_else(|| invalid("an array without a length"))?;
        (0..len).map(|_| ancestor::decode(from, context)).collect()
    }

    pub(crate) fn encode<C: SharedAncestors, W: Write>(
        ancestry: &Option<Ancestry>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        encode_optional(ancestry.as_ref(), to, context, encode_all)
    }

    pub(crate) fn decode<C: SharedAncestors>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Option<Ancestry>, Error> {
        decode_optional(from, context, decode_all)
    }
}

/// For `#[cbor(with = …)]`: a process that may be unknown.
pub(crate) mod optional_process {
    use super::*;

    pub(crate) fn encode<C: SharedAncestors, W: Write>(
        process: &Option<Process<'static>>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        process.encode(to, context)
    }

    pub(crate) fn decode<C: SharedAncestors>(
        from: &mut Decoder<'_>,
        context: &mut C,
    ) -> Result<Option<Process<'static>>, Error> {
        Ok(Option::<Process<'_>>::decode(from, context)?.map(Process::into_owned))
    }
}
