//! The eBPF programs of ipc-trace.
//!
//! In layers, from the ground up: each module imports some of those that come before it here, and none that come
//! after.
//!
//! | layer | module | its job |
//! | --- | --- | --- |
//! | [`base`] | `words` | arithmetic on words, and words copied, as the verifier wants it |
//! | | `constants` | what user space sets before loading |
//! | | `gate` | what the programs are to do now |
//! | | `counts` | what is counted |
//! | | `memory` | reading kernel and user memory; the only place that follows kernel pointers |
//! | | `registers` | a call's number, ABI and arguments; what its result means |
//! | | `rings` | the rings, and the way of a record into them |
//! | | `hooked` | what a program on a function has at hand |
//! | [`facts`] | `cgroups` | which cgroup a thread is in; cgroups made and removed |
//! | | `ancestry` | whom a process descends from |
//! | | `executables` | paths of executables |
//! | | `namespaces` | identity of IPC namespaces: number and generation |
//! | | `queues` | from a descriptor to a queue and its namespace |
//! | [`thread`] | `slots` | what is remembered of a thread: its context, the call that it is in |
//! | | `copies` | programs of which there are several, as each might be preempted |
//! | | `batches` | calls of one thread that are sent together |
//! | | `context` | who a thread is, sent once |
//! | [`ways`] | `accesses` | ways to other namespaces' objects that are no operations |
//! | | `files` | files that may belong to another namespace: queues, segments, `/proc/sysvipc` |
//! | [`call`] | `filters` | which calls are wanted |
//! | | `detail` | what belongs to one operation: semaphore operations, names, time limits |
//! | | `inputs` | what calls take from memory, read when they enter the kernel |
//! | | `emit` | records of calls: as events, or as changes of objects |
//! | | `moves` | namespaces entered and made |
//! | | `calls` | entry and return of a call |
//! | [`programs`] | `lives` | threads that execute a program, and that end |
//! | | `tracepoints` | the entry points of the tracepoints' programs, backend `syscall`'s among them |
//! | | `functions` | the entry points of backend `function` |
//! | | `aux_probes` | functions on those ways, for backend `function` |
//! | | `nopreempt` | the entry points of both backends where programs might be preempted |
//! | | `namespace_list` | what exists: namespaces, calls that have not returned |
//! | | `task_iter` | who holds what: threads, descriptors, mapped segments |
//! | [`rare`] | | what is rare, for the user's log |
//!
//! A map is beside who uses it. None is of a kind newer than Linux 5.10.
//!
//! Invariant: every return of a wanted call ends in exactly one of the counters `filtered`,
//! `emitted`, `dropped`, after `seen`.

#![no_std]
#![no_main]
// For the one atomic addition in `counts`.
#![feature(asm_experimental_arch)]

mod base;
mod call;
mod facts;
mod programs;
mod rare;
mod thread;
mod ways;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
