//! The eBPF programs of ipc-trace.
//!
//! In layers, from the bottom up: each module imports only modules listed above it.
//!
//! | layer | module | its job |
//! | --- | --- | --- |
//! | [`base`] | `words` | arithmetic on words and copies of words, in a form that suits the verifier |
//! | | `constants` | constants that user space sets before loading |
//! | | `gate` | what the programs currently do |
//! | | `counts` | the counters |
//! | | `memory` | reading kernel and user memory; the only place that follows kernel pointers |
//! | | `registers` | a call's number, ABI and arguments; what its result means |
//! | | `rings` | the rings: reserving, filling and submitting records |
//! | | `hooked` | access to a hooked function's argument and result |
//! | [`metadata`] | `cgroups` | which cgroup a thread is in; creation and removal of cgroups |
//! | | `ancestry` | a process's ancestors |
//! | | `exe_path` | paths of executables |
//! | | `namespaces` | identity of IPC namespaces: inode number and generation |
//! | | `queues` | from a descriptor to a queue and its namespace |
//! | [`thread`] | `slots` | the state kept for a thread: its context, its current call |
//! | | `copies` | programs that come in several copies, as each might be preempted |
//! | | `batches` | calls of one thread that are sent together |
//! | | `context` | a thread's description, sent once |
//! | [`access`] | `accesses` | accesses to other namespaces' objects without an IPC call |
//! | | `files` | files that may belong to another namespace: queues, segments, `/proc/sysvipc` |
//! | [`call`] | `filters` | which calls are wanted |
//! | | `payload` | the data of one operation: semaphore operations, names, time limits |
//! | | `inputs` | what calls copy from memory, read when they enter the kernel |
//! | | `emit` | records of calls: as events, or as changes of objects |
//! | | `ns_switch` | namespaces created and entered |
//! | | `calls` | entry and return of a call |
//! | [`programs`] | `task_lifecycle` | threads that execute a program, and threads that end |
//! | | `tracepoints` | the programs on tracepoints, those of backend `syscall` among them |
//! | | `functions` | the programs of backend `function` |
//! | | `aux_probes` | the auxiliary probes of backend `function` |
//! | | `nopreempt` | the programs of both backends for kernels that might preempt programs |
//! | | `namespace_list` | lists namespaces and calls that have not returned |
//! | | `task_iter` | lists threads, descriptors and mapped segments |
//! | [`rare`] | | log messages about rare conditions |
//!
//! Each map is defined in the module that uses it. All map types exist since Linux 5.10.
//!
//! Invariant: every return of a wanted call increments `seen`, and then exactly one of the counters `filtered`,
//! `emitted`, `dropped`.

#![no_std]
#![no_main]
// For the one atomic addition in `counts`.
#![feature(asm_experimental_arch)]

mod access;
mod base;
mod call;
mod metadata;
mod programs;
mod rare;
mod thread;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
