//! The programs: what the kernel calls, each for one way in. No other layer imports them.

mod census;
mod functions;
mod lives;
mod reached;
#[cfg(not(feature = "probe"))]
mod steady;
mod survey;
mod tracepoints;
