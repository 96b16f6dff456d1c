//! The kernel at hand.
pub mod layout;
