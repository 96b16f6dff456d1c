//! The programs that the kernel runs, each for one hook. No other layer imports them.

mod aux_probes;
mod functions;
mod namespace_list;
#[cfg(not(feature = "probe"))]
mod nopreempt;
mod task_iter;
mod task_lifecycle;
mod tracepoints;
