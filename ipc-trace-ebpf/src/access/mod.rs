//! Access paths to other namespaces' objects without an IPC call: from a file to its namespace, and the record of the
//! access.

pub(crate) mod accesses;
pub(crate) mod files;
