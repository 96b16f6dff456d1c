//! The programs: what the kernel calls, each for one way in. No other layer imports them.

mod aux_probes;
mod functions;
mod lives;
mod namespace_list;
#[cfg(not(feature = "probe"))]
mod nopreempt;
mod task_iter;
mod tracepoints;
