//! Tests with real programs in the running kernel. Workloads count what they do: that is the oracle.
//!
//! | module | what it tests |
//! | --- | --- |
//! | [`budget`] | how large the kernel's programs may be |
//! | [`counts`] | reports: every call is counted, even when the ring overflows |
//! | [`live_output`] | lines: each call once, with its result, duration and end |
//! | [`losses`] | resynchronisation after lost records |
//! | [`floods`] | floods of the control ring by an unprivileged user |
//! | [`args`] | the arguments of every operation, by every route |
//! | [`namespaces`] | creation, moves and destruction of namespaces; queues that are used from others |
//! | [`objects`] | objects: creation, removal, creators and leaks |
//! | [`preemption`] | calls and creations of threads that are preempted everywhere, beside neighbours that use BPF maps |
//! | [`processes`] | callers, even those that live a millisecond or have hostile names |
//! | [`containers`] | containers of calls: moved threads, real Docker and Podman |
//! | [`scenarios`] | findings of access across namespaces |
//! | [`seam`] | replay: the same inputs lead to the same output in a process without rights |
//! | [`recordings`] | recordings: filters, ranges, streams, killed recorders, full disks |
//! | [`filters`] | what each filter selects, and that the rest is accounted for |
//! | [`policy`] | what a policy does to findings |
//! | [`cli_errors`] | user errors |
//! | [`io_failures`] | full disks, closed pipes, signals, stuck readers |
//! | [`doctor`] | `doctor` for this host and user |
//! | [`documents`] | that the commands in the documents run, and what completions and man pages offer |
//! | [`strace`] | comparison with strace, call by call |
//! | [`ls`] | `ls`: what exists, without tracing |
//! | [`cleanup`] | nothing is left in the kernel and on disk afterwards |
//!
//! They need root, `/proc`, `/sys`, `/bin/sh` and the programs that [`strace`], [`ls`] and [`containers`] run, and
//! nothing else: they also run in virtual machines without anything else. No test measures time; those that wait,
//! wait for an event.

mod args;
mod budget;
mod cleanup;
mod cli_errors;
mod containers;
mod counts;
mod doctor;
mod documents;
mod filters;
mod floods;
mod invariants;
mod io_failures;
mod live_output;
mod losses;
mod ls;
mod namespaces;
mod objects;
mod policy;
mod preemption;
mod processes;
mod queries;
mod recording_files;
mod recordings;
mod scenarios;
mod seam;
mod strace;
mod tracer;
