//! What is kept of each thread, between programs: its slot, which copies of a program it was run by, its batch of
//! calls, and who it is.

pub(crate) mod batches;
pub(crate) mod context;
#[cfg(not(feature = "probe"))]
pub(crate) mod copies;
pub(crate) mod slots;
