//! The kernel at hand: what it can do, what is attached to it, and what comes out of it.
//!
//! | module | its job |
//! | --- | --- |
//! | [`features`] | what this kernel and this user may do |
//! | [`btf`] | the kernel's type information |
//! | [`layout`] | where the fields are that the programs read |
//! | [`plan`] | which operation is seen by which backend, and why: pure |
//! | [`attach`] | loads the object and attaches a plan's programs |
//! | [`selftest`] | whether the programs on functions are run |
//! | [`session`] | programs that are attached, their maps and rings |
//! | [`letgo`] | detaching without waiting for it |
//! | [`census`] | what exists now: namespaces, calls that have not returned |
//!
//! Invariant: nothing here knows what an event means or how it is shown.

pub mod attach;
pub mod btf;
pub mod census;
pub mod features;
pub mod layout;
pub mod letgo;
pub mod plan;
pub mod selftest;
pub mod session;
