//! The kernel side of ipc-trace.
//!
//! | module | its job |
//! | --- | --- |
//! | [`constants`] | what the user side sets before loading |
//! | [`words`] | arithmetic on words, and words copied, as the verifier wants it |
//! | [`gate`] | what the programs are to do now |
//! | [`counts`] | what is counted |
//! | [`rings`] | the rings, and the way of a record into them |
//! | [`memory`] | reading kernel and user memory; the only place that follows kernel pointers |
//! | [`registers`] | a call's number, ABI and arguments |
//! | [`slots`] | what is remembered of a thread: its context, the call that it is in |
//! | [`namespaces`] | identity of IPC namespaces: number and generation |
//! | [`context`] | who a thread is, sent once |
//! | [`ancestry`] | whom a process descends from |
//! | [`executables`] | paths of executables |
//! | [`cgroups`] | which cgroup a thread is in; cgroups made and removed |
//! | [`queues`] | from a descriptor to a queue and its namespace |
//! | [`files`] | files that may belong to another namespace: queues, segments, `/proc/sysvipc` |
//! | [`accesses`] | ways to other namespaces' objects that are no operations |
//! | [`filters`] | which calls are wanted |
//! | [`tracepoints`] | the entry points of the tracepoints' programs |
//! | [`lives`] | threads that execute a program, and that end |
//! | [`hooked`] | what a program on a function has at hand |
//! | [`functions`] | the entry points of backend `function` |
//! | [`reached`] | functions on those ways, for backend `function` |
//! | `steady` | the entry points of both backends where programs might be preempted |
//! | `copies` | programs of which there are several, as each might be preempted |
//! | [`calls`] | entry and return of a call |
//! | [`batches`] | calls of one thread that are sent together |
//! | [`emit`] | records of calls: as events, or as changes of objects |
//! | [`inputs`] | what calls take from memory, read when they enter the kernel |
//! | [`detail`] | what belongs to one operation: semaphore operations, names, time limits |
//! | [`moves`] | namespaces entered and made |
//! | [`census`] | what exists: namespaces, calls that have not returned |
//! | [`survey`] | who holds what: threads, descriptors, mapped segments |
//! | [`rare`] | what is rare, for the user's log |
//!
//! Invariant: every return of a wanted call ends in exactly one of the counters `filtered`,
//! `emitted`, `dropped`, after `seen`.

#![no_std]
#![no_main]
// For the one atomic addition in `counts`.
#![feature(asm_experimental_arch)]

mod accesses;
mod ancestry;
mod batches;
mod calls;
mod census;
mod cgroups;
mod constants;
mod context;
#[cfg(not(feature = "probe"))]
mod copies;
mod counts;
mod detail;
mod emit;
mod executables;
mod files;
mod filters;
mod functions;
mod gate;
mod hooked;
mod inputs;
mod lives;
mod memory;
mod moves;
mod namespaces;
mod queues;
mod rare;
mod reached;
mod registers;
mod rings;
mod slots;
#[cfg(not(feature = "probe"))]
mod steady;
mod survey;
mod tracepoints;
mod words;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
