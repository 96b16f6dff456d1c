//! Traces System V and POSIX-queue IPC by IPC namespace.

pub mod decode;
pub mod event;
pub mod kernel;
pub mod text;
