//! The short forms of what lines are about: a namespace, a process, a key.

use std::fmt;

use ipc_trace_common::state::HOST_INUM;

use super::escape::{escaped, pad};
use crate::event::{
    Container, IpcNs, IpcNsRef,
    value::{Hex32, Text},
};

/// `comm` has 15 bytes (`TASK_COMM_LEN` without its NUL, include/linux/sched.h).
pub const COMM_WIDTH: usize = 15;

/// A namespace: `host`, its number, or `4026532180#2` from its number's second life on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NsTag {
    inum: u32,
    r#gen: u32,
    host: bool,
}

impl From<IpcNs> for NsTag {
    fn from(ns: IpcNs) -> Self {
        Self { inum: ns.inum, r#gen: ns.r#gen, host: ns.host }
    }
}

impl From<IpcNsRef> for NsTag {
    fn from(ns: IpcNsRef) -> Self {
        Self::new(ns.inum, ns.r#gen)
    }
}

impl NsTag {
    /// The tag of a number and its life. The host's number is never another namespace's.
    #[must_use]
    pub const fn new(inum: u32, r#gen: u32) -> Self {
        Self { inum, r#gen, host: inum == HOST_INUM }
    }
}

impl fmt::Display for NsTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host {
            return f.pad("host");
        }
        write!(f, "{}", self.inum)?;
        let mut width = digits(self.inum);
        if self.r#gen > 1 {
            write!(f, "#{}", self.r#gen)?;
            width += 1 + digits(self.r#gen);
        }
        pad(f, width)
    }
}

fn digits(number: u32) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// `worker[4242]`
#[derive(Clone, Copy, Debug)]
pub struct ProcessTag<'a> {
    comm: &'a Text<'a>,
    pid: u32,
}

impl<'a> ProcessTag<'a> {
    /// The tag of a process with a thread's name.
    #[must_use]
    pub const fn new(comm: &'a Text<'a>, pid: u32) -> Self {
        Self { comm, pid }
    }
}

impl fmt::Display for ProcessTag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", escaped(&self.comm.0, COMM_WIDTH), self.pid)
    }
}

/// Cells of a container's name: longer ones are cut.
const NAME_WIDTH: usize = 48;
/// Digits that are shown of an id, as its runtime does.
const ID_WIDTH: usize = 12;

/// A container: its name, or the beginning of its id.
#[derive(Clone, Copy, Debug)]
pub struct ContainerTag<'a>(pub &'a Container);

impl fmt::Display for ContainerTag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Container { id, name, .. } = self.0;
        match name {
            Some(name) => escaped(&name.0, NAME_WIDTH).fmt(f),
            None => escaped(id.0.get(..ID_WIDTH).unwrap_or(&id.0), NAME_WIDTH).fmt(f),
        }
    }
}

/// A key: `0x8cd1ab21`, or `IPC_PRIVATE` (include/uapi/linux/ipc.h: 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub Hex32);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Hex32(0) => f.write_str("IPC_PRIVATE"),
            key => write!(f, "{key}"),
        }
    }
}
