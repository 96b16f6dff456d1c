//! What all programs build on, and what imports none of them: helpers for words and memory, what user space has set,
//! counts, the rings, and what a program finds as it is run.

pub(crate) mod constants;
pub(crate) mod counts;
pub(crate) mod gate;
pub(crate) mod hooked;
pub(crate) mod memory;
pub(crate) mod registers;
pub(crate) mod rings;
pub(crate) mod words;
