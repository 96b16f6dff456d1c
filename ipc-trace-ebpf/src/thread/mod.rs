//! The state kept for each thread between programs: its slot, the copies of programs that ran for it, its batch of
//! calls, and its description.

mod batch_slots;
pub(crate) mod batched_calls;
pub(crate) mod batches;
pub(crate) mod context;
#[cfg(not(feature = "probe"))]
pub(crate) mod copies;
mod groups;
pub(crate) mod slots;
