//! Exports: events into files that other programs open.
//!
//! | module | its job |
//! | --- | --- |
//! | [`trace`] | a timeline that ui.perfetto.dev and chrome://tracing open |
//!
//! Invariant: an export reads events and sends nothing back; a write that fails never stops the engine.

pub(crate) mod trace;
