//! Ways to other namespaces' objects that are no operations: from a file to whose it is, and what is told of it.

pub(crate) mod accesses;
pub(crate) mod files;
