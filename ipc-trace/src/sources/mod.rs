//! The sources of the engine's inputs.

pub(crate) mod clock;
pub(crate) mod host;
pub(crate) mod kernel;
pub(crate) mod reader;
pub(crate) mod runtimes;
