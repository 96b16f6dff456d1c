//! Values that others share, in CBOR: encoded once; afterwards a number stands for them.

use std::{any::Any, collections::HashMap, ops::Deref, sync::Arc};

use ipc_trace_common::cbor::{Encoded, invalid};
use minicbor::{Decode, Decoder, Encode, Encoder, data::Type, decode::Error, encode::Write};

/// The context of encoding and decoding values that others share: what is known of each type of them.
pub(crate) trait SharedState {
    /// The only value of a type.
    fn table<T: Default + 'static>(&mut self) -> &mut T;
}

/// The context.
#[derive(Debug, Default)]
pub(crate) struct SharedTables(Vec<Box<dyn Any>>);

impl SharedState for SharedTables {
    fn table<T: Default + 'static>(&mut self) -> &mut T {
        let at = match self.0.iter().position(|table| table.is::<T>()) {
            Some(at) => at,
            None => {
                self.0.push(Box::new(T::default()));
                self.0.len() - 1
            }
        };
        #[expect(clippy::expect_used, reason = "it was found there, or put there")]
        self.0.get_mut(at).and_then(|table| table.downcast_mut()).expect("a table of this type")
    }
}

/// Values of one type that others share, by their numbers.
#[derive(Debug)]
struct SharedValues<S> {
    /// While encoding: the numbers of values, by their addresses
    numbers: HashMap<usize, u64>,
    /// While decoding: the values
    values: Vec<S>,
}

impl<S> Default for SharedValues<S> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

/// Encodes `None` as null.
fn encode_optional<C, T, W: Write>(
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

fn decode_optional<'b, C, T>(
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

/// For `#[cbor(with = …)]`: a shared value: itself in an array or, if it was encoded before, its number. `S`: an `Rc` or an
/// `Arc`.
pub(crate) mod value {
    use super::*;

    pub(crate) fn encode<S, C: SharedState, W: Write>(
        value: &S,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W>
    where
        S: Deref<Target: Encode<C> + Sized> + 'static,
    {
        let value = &**value;
        let address = std::ptr::from_ref(value).addr();
        if let Some(number) = context.table::<SharedValues<S>>().numbers.get(&address) {
            to.u64(*number)?;
            return Ok(());
        }
        value.encode(to.array(1)?, context)?;
        let numbers = &mut context.table::<SharedValues<S>>().numbers;
        numbers.insert(address, numbers.len() as u64);
        Ok(())
    }

    pub(crate) fn decode<'b, S, C: SharedState>(
        from: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<S, Error>
    where
        S: Deref<Target: Decode<'b, C> + Sized> + From<S::Target> + Clone + 'static,
    {
        if from.datatype()? != Type::Array {
            let number = usize::try_from(from.u64()?).ok();
            let values = &context.table::<SharedValues<S>>().values;
            let known = number.and_then(|number| values.get(number));
            return known.cloned().ok_or_else(|| invalid("no such shared value"));
        }
        if from.array()? != Some(1) {
            return Err(invalid("a shared value of another length"));
        }
        let value = S::from(S::Target::decode(from, context)?);
        context.table::<SharedValues<S>>().values.push(value.clone());
        Ok(value)
    }
}

/// For `#[cbor(with = …)]`: the same, or nothing.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn encode<S, C: SharedState, W: Write>(
        value: &Option<S>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W>
    where
        S: Deref<Target: Encode<C> + Sized> + 'static,
    {
        encode_optional(value.as_ref(), to, context, value::encode)
    }

    pub(crate) fn decode<'b, S, C: SharedState>(
        from: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Option<S>, Error>
    where
        S: Deref<Target: Decode<'b, C> + Sized> + From<S::Target> + Clone + 'static,
    {
        decode_optional(from, context, value::decode)
    }
}

/// For `#[cbor(with = …)]`: a list of such values, or nothing.
pub(crate) mod optional_arcs {
    use super::*;

    type Arcs<T> = Arc<[Arc<T>]>;

    fn encode_all<T: Encode<C> + 'static, C: SharedState, W: Write>(
        all: &Arcs<T>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        to.array(all.len() as u64)?;
        all.iter().try_for_each(|one| value::encode(one, to, context))
    }

    fn decode_all<'b, T: Decode<'b, C> + 'static, C: SharedState>(
        from: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Arcs<T>, Error> {
        let len = from.array()?.ok_or_else(|| invalid("an array without a length"))?;
        (0..len).map(|_| value::decode(from, context)).collect()
    }

    pub(crate) fn encode<T: Encode<C> + 'static, C: SharedState, W: Write>(
        all: &Option<Arcs<T>>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Encoded<W> {
        encode_optional(all.as_ref(), to, context, encode_all)
    }

    pub(crate) fn decode<'b, T: Decode<'b, C> + 'static, C: SharedState>(
        from: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Option<Arcs<T>>, Error> {
        decode_optional(from, context, decode_all)
    }
}
