//! Short forms for text: a namespace, a process, a container, a key.

use std::fmt;

use ipc_trace_common::state::HOST_INUM;

use super::{
    Container, IpcNs, IpcNsRef, Process,
    escape::{escaped, pad},
    value::{Hex32, OsBytes},
};

/// `comm` has 15 bytes (`TASK_COMM_LEN` without its NUL, include/linux/sched.h).
pub(crate) const COMM_WIDTH: usize = 15;

/// A namespace: `host`, its number, or `4026532180#2` from its number's second generation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NsTag {
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
    /// The tag of a number and its generation. The host's number is never reused.
    #[must_use]
    pub(crate) const fn new(inum: u32, r#gen: u32) -> Self {
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
pub(crate) struct ProcessTag<'a> {
    comm: &'a OsBytes<'a>,
    pid: u32,
}

impl<'a> ProcessTag<'a> {
    /// The tag of a process with a thread's name.
    #[must_use]
    pub(crate) const fn new(comm: &'a OsBytes<'a>, pid: u32) -> Self {
        Self { comm, pid }
    }
}

impl fmt::Display for ProcessTag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", escaped(&self.comm.0, COMM_WIDTH), self.pid)
    }
}

/// Width of a container's name in cells: longer ones are cut.
const NAME_WIDTH: usize = 48;
/// Number of digits shown of an id, as runtimes do.
const ID_WIDTH: usize = 12;

/// A container: its name, or the beginning of its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerTag<'a>(pub &'a Container);

impl fmt::Display for ContainerTag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Container { name, .. } = self.0;
        match name {
            Some(name) => escaped(&name.0, NAME_WIDTH).fmt(f),
            None => ShortId(self.0).fmt(f),
        }
    }
}

/// The beginning of a container's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShortId<'a>(pub &'a Container);

impl fmt::Display for ShortId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.0.id.0;
        escaped(id.get(..ID_WIDTH).unwrap_or(id), NAME_WIDTH).fmt(f)
    }
}

/// `app1 (docker, alpine:latest)`, `app (containerd, pod shop/web-0)`
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerText<'a>(pub &'a Container);

impl fmt::Display for ContainerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Container { runtime, image, pod, pod_namespace, ipc_mode, .. } = self.0;
        write!(f, "{} ({runtime}", ContainerTag(self.0))?;
        if let Some(image) = image {
            write!(f, ", {}", escaped(&image.0, NAME_WIDTH))?;
        }
        if let Some(pod) = pod {
            f.write_str(", pod ")?;
            if let Some(namespace) = pod_namespace {
                write!(f, "{}/", escaped(&namespace.0, NAME_WIDTH))?;
            }
            escaped(&pod.0, NAME_WIDTH).fmt(f)?;
        }
        if let Some(mode) = ipc_mode {
            let len = match mode.0.strip_prefix(b"container:") {
                Some(id) if id.len() == 64 => mode.0.len() - id.len() + ID_WIDTH,
                _ => mode.0.len(),
            };
            let mode = mode.0.get(..len).unwrap_or(&mode.0);
            write!(f, ", --ipc {}", escaped(mode, NAME_WIDTH))?;
        }
        f.write_str(")")
    }
}

/// Appends the actor: ` by worker[4242] in app1`, as far as it is known.
pub(crate) fn write_who(
    out: &mut dyn fmt::Write,
    process: Option<&Process<'_>>,
    container: Option<&Container>,
) -> fmt::Result {
    if let Some(process) = process {
        write!(out, " by {}", ProcessTag::new(&process.comm, process.pid))?;
    }
    match container {
        Some(container) => write!(out, " in {}", ContainerTag(container)),
        None => Ok(()),
    }
}

/// A key: `0x8cd1ab21`, or `IPC_PRIVATE` (include/uapi/linux/ipc.h: 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SysvKey(pub Hex32);

impl fmt::Display for SysvKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Hex32(0) => f.write_str("IPC_PRIVATE"),
            key => write!(f, "{key}"),
        }
    }
}
