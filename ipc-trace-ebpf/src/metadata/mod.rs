//! Metadata read from the kernel's structures that is valid for more than one call: cgroups, ancestors, executables,
//! namespaces and queues. Metadata with a record of its own is sent when it first appears.

pub(crate) mod ancestry;
pub(crate) mod cgroups;
pub(crate) mod exe_path;
pub(crate) mod namespaces;
pub(crate) mod queues;
