//! The kernel at hand: what it can do, what is attached to it, and what comes out of it.
//!
//! | module | its job |
//! | --- | --- |
//! | [`error`] | why a session can't start, or go on |
//! | [`features`] | what this kernel and this user may do |
//! | [`preemption`] | whether threads can lose their CPU in the middle of programs |
//! | [`btf`] | the kernel's type information |
//! | [`layout`] | where the fields are that the programs read |
//! | [`options`] | what a session is to be like |
//! | [`plan`] | which operation is seen by which backend, and why: pure |
//! | [`attach`] | loads the object and attaches a plan's programs |
//! | `batches` | calls that are not sent yet, of threads that have ended or do nothing |
//! | `trampolines` | programs on functions by fentry and fexit |
//! | `nopreempt` | attaches in ways on which programs are not preempted |
//! | `object` | the object with its maps, of which programs are loaded |
//! | `bpf`, `programs` | bpf(2), as far as it is not about maps; what it made |
//! | `mmap` | maps that are read and written in memory |
//! | `mounts` | looks into file systems without mounting them anywhere |
//! | [`selftest`] | whether the programs on functions are run |
//! | [`ring`] | a ring, with how far it is written and read |
//! | [`session`] | programs that are attached, their maps and rings |
//! | `folds` | accesses that are counted and not told of each |
//! | [`detach`] | detaching without waiting for it |
//! | [`namespace_list`] | what exists now: namespaces, calls that have not returned |
//! | [`task_iter`] | who holds what now: threads, descriptors, mapped segments |
//!
//! Invariant: nothing here knows what an event means or how it is shown.

pub(crate) mod attach;
mod aux_probes;
mod batches;
mod bpf;
pub(crate) mod btf;
mod copies;
pub(crate) mod decode;
pub(crate) mod detach;
pub(crate) mod error;
pub(crate) mod features;
mod folds;
pub(crate) mod layout;
mod mmap;
pub(crate) mod mounts;
pub(crate) mod namespace_list;
mod nopreempt;
mod object;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod preemption;
mod programs;
pub(crate) mod ring;
pub(crate) mod selftest;
pub(crate) mod session;
pub(crate) mod task_iter;
mod trampolines;

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// What a system call that makes a descriptor came back with.
pub(crate) fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given it to this process.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
