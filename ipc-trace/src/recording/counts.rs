//! Payloads of counts: how often calls were made, by second. `recorded_counts` reads them.

#[cfg(any(feature = "sqlite", feature = "parquet", test, fuzzing))]
use ipc_trace_common::cbor::invalid;
use minicbor::Encode;
#[cfg(any(feature = "sqlite", feature = "parquet", test, fuzzing))]
use minicbor::{Decode as _, Decoder, decode::Error};

use crate::event::{
    counts::SecondCounts,
    shared::{SharedState, SharedTables},
};

/// The payload of a block of counts.
#[derive(Encode)]
#[cbor(context_bound = "SharedState")]
struct CountsPayload<'a> {
    #[n(0)]
    counts: &'a [SecondCounts],
}

/// The payload of a block of counts.
pub(super) fn encode(counts: &[SecondCounts]) -> Vec<u8> {
    let encoded = minicbor::to_vec_with(CountsPayload { counts }, &mut SharedTables::default());
    // Writing to memory can't fail, and no type refuses a value.
    encoded.unwrap_or_default()
}

/// Calls `each` with each of the counts of a payload.
///
/// # Errors
/// The payload is malformed; counts before that were passed on.
#[cfg(any(feature = "sqlite", feature = "parquet", test, fuzzing))]
pub(super) fn decode(payload: &[u8], mut each: impl FnMut(SecondCounts)) -> Result<(), Error> {
    let mut from = Decoder::new(payload);
    let mut tables = SharedTables::default();
    // Later versions may have more fields.
    let without_length = || invalid("counts without a length");
    from.array()?.filter(|fields| *fields > 0).ok_or_else(without_length)?;
    let len = from.array()?.ok_or_else(without_length)?;
    // The length isn't trusted: each row is read.
    for _ in 0..len {
        each(SecondCounts::decode(&mut from, &mut tables)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
