//! One line for a call that returned.
//!
//! ```text
//! 14:44:40.565  4026532180      4242 worker           semop(…) = -1 EAGAIN  8.1 µs
//! ```
//!
//! The columns before the call have fixed widths. The most important fact comes first after the result: an object of
//! another namespace.

use std::fmt::{self, Display, Write as _};

use ipc_trace_common::op::{Abi, Op};

use super::{
    args::{CallText, Said},
    style::{Palette, Role},
    units::{Duration, TimeOfDay},
};
use crate::event::{
    Ipc, ReadFrom,
    args::Args,
    value::{CallError, OsBytes},
};
use crate::event::{
    escape::{escaped, quoted},
    tag::{COMM_WIDTH, ContainerTag, NsTag, SysvKey},
};

/// Cells of a namespace's label: ten digits, `#`, and a generation below 100.
pub(super) const NS_WIDTH: usize = 13;
/// Cells of a pid: `PID_MAX_LIMIT` is 4 Mi (include/linux/threads.h).
pub(super) const PID_WIDTH: usize = 7;
/// Cells of a name after the result: longer ones are cut.
const NAME_WIDTH: usize = 48;

/// The style of lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineStyle {
    /// The colours
    pub palette: Palette,
    /// The machine's own ABI, which is not shown
    pub native: Abi,
}

/// The line, without its newline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLine<'a> {
    ipc: &'a Ipc<'a>,
    style: LineStyle,
}

/// The line of a call.
#[must_use]
pub(crate) const fn line<'a>(ipc: &'a Ipc<'a>, style: LineStyle) -> CallLine<'a> {
    CallLine { ipc, style }
}

impl Display for CallLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ipc, style: LineStyle { palette, native } } = *self;
        let process = &ipc.process;
        write!(
            f,
            "{}  {:<NS_WIDTH$} {:>PID_WIDTH$} {:<COMM_WIDTH$}  {} = {}",
            palette.paint(Role::Dim, TimeOfDay(ipc.time)),
            palette.paint(Role::Namespace, NsTag::from(ipc.ipc_ns)),
            process.pid,
            escaped(&process.comm.0, COMM_WIDTH),
            CallText(&ipc.args),
            ReturnValue(self),
        )?;
        if ipc.made == Some(false) {
            write!(f, "  {}", palette.paint(Role::Loss, "not made by the kernel"))?;
        }
        if ipc.object.foreign == Some(true) {
            write!(f, "  {}", palette.paint(Role::Foreign, Foreign(ipc)))?;
        }
        self.object(f)?;
        if let Some(nanos) = ipc.duration_ns {
            write!(f, "  {}", Duration(nanos))?;
        }
        if process.tid != process.pid {
            write!(f, "  {}", palette.paint(Role::Dim, format_args!("tid {}", process.tid)))?;
        }
        if ipc.abi.0 != native {
            write!(f, "  {}", palette.paint(Role::Dim, ipc.abi))?;
        }
        if let Some(container) = &ipc.container {
            let tag = ContainerTag(container);
            write!(f, "  {}", palette.paint(Role::Dim, format_args!("in {tag}")))?;
        }
        Ok(())
    }
}

impl CallLine<'_> {
    /// What is known about the object, except what the call's text says.
    fn object(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ipc, style: LineStyle { palette, .. } } = *self;
        let object = &ipc.object;
        let said = Said::by(&ipc.args, ipc.ret);
        let kind = object.kind;
        if let Some(id) = object.id.filter(|id| said.id != Some(*id)) {
            write!(f, "  {}", palette.paint(Role::Dim, format_args!("{kind} {id}")))?;
        }
        if let Some(key) = object.key.filter(|_| !said.key) {
            write!(f, "  {}", palette.paint(Role::Dim, format_args!("key {}", SysvKey(key))))?;
        }
        let given = if let Args::MqOpen { name, .. } = &ipc.args { name.as_ref() } else { None };
        let said_otherwise = |name: &&OsBytes<'_>| match given {
            // The opened queue may have another name than the caller's memory says.
            Some(given) if object.name_from == Some(ReadFrom::Kernel) => given != *name,
            Some(_) | None => !said.name,
        };
        if let Some(name) = object.name.as_ref().filter(said_otherwise) {
            let name = quoted(&name.0, NAME_WIDTH);
            write!(f, "  {kind} {name}")?;
        }
        Ok(())
    }
}

/// `0`, `0x7f12ab000000`, `-1 EAGAIN`, `? ERESTARTSYS`.
struct ReturnValue<'a>(&'a CallLine<'a>);

impl Display for ReturnValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(CallLine { ipc, style }) = *self;
        match ipc.error {
            // The program does not get this result: the kernel repeats the call, or returns EINTR.
            Some(error) if error.is_restart() => write!(f, "? {error}"),
            Some(error) => write!(f, "{}", style.palette.paint(Role::Error, FailedText(error))),
            None => match ipc.ret {
                Some(ret) if ipc.op.0 == Op::Shmat => write!(f, "{ret:#x}"),
                Some(ret) => write!(f, "{ret}"),
                None => f.write_char('?'),
            },
        }
    }
}

struct FailedText(CallError);

impl Display for FailedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-1 {}", self.0)
    }
}

/// `FOREIGN 4026532180`, if its namespace is known.
struct Foreign<'a>(&'a Ipc<'a>);

impl Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FOREIGN")?;
        if let Some(ns) = self.0.object.ipc_ns {
            f.write_char(' ')?;
            NsTag::from(ns).fmt(f)?;
        }
        if self.0.object.ipc_ns_dead {
            f.write_str(" (dead)")?;
        }
        Ok(())
    }
}
