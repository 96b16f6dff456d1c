//! The base of all programs: words and memory, constants, counters, the rings, and the context that a program runs
//! with. It imports no other layer.

pub(crate) mod constants;
pub(crate) mod counts;
pub(crate) mod gate;
pub(crate) mod hooked;
pub(crate) mod memory;
pub(crate) mod registers;
pub(crate) mod rings;
pub(crate) mod words;
