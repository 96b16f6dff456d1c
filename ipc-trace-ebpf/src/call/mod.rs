//! A call, from its entry to its record: whether it is wanted, what it takes from memory, what it did.

pub(crate) mod calls;
pub(crate) mod detail;
pub(crate) mod emit;
pub(crate) mod filters;
pub(crate) mod inputs;
pub(crate) mod moves;
