//! The ABI between ipc-trace's eBPF programs and its user space, and the tables from which both are derived.
//!
//! | module | contents |
//! | --- | --- |
//! | [`op`] | the seventeen operations, and the codes that system calls map to |
//! | [`hooks`] | the hook table: every hooked system call, per ABI |
//! | [`layout`] | the kernel-layout table: every kernel struct field that the programs read |
//! | [`record`] | the records that travel through the rings and the namespace list |
//! | `cbor` | values of these types in recordings, with the feature `cbor` alone |
//! | [`state`] | the values of the maps that the eBPF programs and user space share |
//!
//! Invariant: nothing here but `cbor` depends on `std`, allocates, or knows how a record is shown. All types of the ABI are
//! `repr(C)`, made of integers and byte arrays, with explicit padding and sizes asserted at compile time.

#![no_std]

#[cfg(feature = "cbor")]
extern crate std;

#[cfg(feature = "cbor")]
pub mod cbor;
pub mod hooks;
pub mod layout;
pub mod op;
pub mod record;
pub mod state;
