//! The ABI between ipc-trace's eBPF programs and its user space, and the tables from which both are
//! derived.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`op`] | the seventeen operations, and the codes that system calls map to |
//! | [`hooks`] | the hook table: every way into the kernel, per ABI |
//! | [`layout`] | the kernel-layout table: every kernel struct field that the programs read |
//! | [`record`] | the records that travel through the rings and the namespace list |
//! | [`state`] | the values of the maps that both sides touch |
//!
//! Invariant: nothing here depends on `std`, allocates, or knows how a record is shown. All types
//! that cross the border are `repr(C)`, made of integers and byte arrays, with explicit padding
//! and sizes asserted at compile time.

#![no_std]

pub mod hooks;
pub mod layout;
pub mod op;
pub mod record;
pub mod state;
