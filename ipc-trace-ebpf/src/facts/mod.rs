//! What is read of the kernel's structures and holds for more than one call: cgroups, ancestors, executables, namespaces
//! and queues. What has a record of its own is sent when it shows itself.

pub(crate) mod ancestry;
pub(crate) mod cgroups;
pub(crate) mod executables;
pub(crate) mod namespaces;
pub(crate) mod queues;
