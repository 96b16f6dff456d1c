//! Where inputs come from.

pub(crate) mod host;
pub(crate) mod kernel;
pub(crate) mod runtimes;
