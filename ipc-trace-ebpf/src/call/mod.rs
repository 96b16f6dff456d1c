//! A call, from its entry to its record: whether it is wanted, its input, its result.

pub(crate) mod calls;
pub(crate) mod emit;
pub(crate) mod filters;
pub(crate) mod inputs;
pub(crate) mod ns_switch;
pub(crate) mod payload;
