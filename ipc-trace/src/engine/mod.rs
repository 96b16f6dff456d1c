//! Inputs to events: pure.

pub(crate) mod detect;
pub(crate) mod pipeline;
pub(crate) mod policy;
pub(crate) mod track;
