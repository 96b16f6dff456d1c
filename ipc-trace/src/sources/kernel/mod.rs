//! The running kernel: its features, the programs attached to it, and their records.
//!
//! | module | its job |
//! | --- | --- |
//! | [`error`] | why a session can't start, or go on |
//! | [`features`] | the features of this kernel, and the privileges of this user |
//! | [`preemption`] | whether threads can be preempted inside programs |
//! | [`btf`] | the kernel's type information |
//! | [`field_offsets`] | the offsets of the fields that the programs read |
//! | [`options`] | a session's options |
//! | [`plan`] | which backend sees which operation, and why: pure |
//! | [`attach`] | loads the object and attaches a plan's programs |
//! | `batches` | unsent calls of threads that have ended or are idle |
//! | `trampolines` | programs on functions by fentry and fexit |
//! | `nopreempt` | hooks on which programs are not preempted |
//! | `loader` | the object with its maps, from which programs are loaded |
//! | `bpf`, `attachments` | bpf(2), except for maps; attached programs and links |
//! | `mmap` | maps that are mapped into memory |
//! | `fsmount` | reads file systems without attaching them to the mount tree |
//! | [`selftest`] | whether the programs on functions run |
//! | [`ring`] | a ring, with its read and write positions |
//! | [`session`] | attached programs, their maps and rings |
//! | `coalesced` | accesses that are counted without being reported one by one |
//! | [`detach`] | detaching in the background |
//! | [`namespace_list`] | lists namespaces and calls that have not returned |
//! | [`task_iter`] | lists threads, descriptors and mapped segments |
//!
//! Invariant: nothing here knows what an event means or how it is shown.

pub(crate) mod attach;
mod attachments;
mod aux_probes;
mod batches;
mod bpf;
pub(crate) mod btf;
mod coalesced;
mod copies;
pub(crate) mod decode;
pub(crate) mod detach;
pub(crate) mod error;
pub(crate) mod features;
pub(crate) mod field_offsets;
pub(crate) mod fsmount;
mod loader;
mod mmap;
pub(crate) mod namespace_list;
mod nopreempt;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod preemption;
pub(crate) mod ring;
pub(crate) mod selftest;
pub(crate) mod session;
pub(crate) mod task_iter;
mod trampolines;

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// The result of a system call that returns a descriptor.
pub(crate) fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given it to this process.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
