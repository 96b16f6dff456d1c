//! One namespace in full.

use std::fmt::{self, Display};

use ipc_trace_common::op::ObjectKind;

use super::{
    GroupedCount, Holder, LsText, NsTag, Role, Span, TextRow, TextTable, WORD_WIDTH, counted,
    fullness, held_by, is, limit_row, plain, pressing_span,
};
use crate::{
    event::escape::{escaped, quoted},
    event::tag::{COMM_WIDTH, ContainerTag, SysvKey},
    event::{
        ls::{NamespaceSnapshot, ProcessInfo},
        objects::{LastUse, ObjectInfo},
        value::{Hex32, Timestamp},
    },
    sinks::text::units::{Bytes, Date},
    sinks::text::wrap::Align,
};

/// Cells of an executable's path.
const EXE_WIDTH: usize = 100;

fn or_unknown(value: Option<impl Display>) -> Span {
    match value {
        Some(value) => plain(value),
        None => Span::new(Role::Dim, "?"),
    }
}

fn count(value: Option<u64>) -> Span {
    or_unknown(value.map(GroupedCount))
}

fn bytes(value: Option<u64>) -> Span {
    or_unknown(value.map(Bytes))
}

fn key(key: Option<Hex32>) -> Span {
    or_unknown(key.map(SysvKey))
}

/// `2026-11-23 14:44:40`: the kernel stores seconds.
fn second(time: Timestamp) -> String {
    let text = Date(time).to_string();
    text.split('.').next().unwrap_or_default().to_owned()
}

fn last_use(last: &LastUse) -> Span {
    let LastUse { pid, comm: _, time } = last;
    let by = pid.map(|pid| format!(" by {pid}")).unwrap_or_default();
    let at = time.map(|time| format!(" {}", second(time))).unwrap_or_default();
    Span::new(Role::Dim, format_args!("last used{by}{at}"))
}

/// The creator if it isn't the owner, the last use, and whether it is marked for destruction.
fn notes(object: &ObjectInfo) -> Vec<Span> {
    let mut notes = Vec::new();
    if object.removed {
        notes.push(Span::new(Role::Loss, "removed, in use"));
    }
    if let Some(creator) = &object.creator {
        let by = creator.pid.map(|pid| format!(" by {pid}")).unwrap_or_default();
        let whose = if (Some(creator.uid), Some(creator.gid)) == (object.uid, object.gid) {
            String::new()
        } else {
            format!(" as {}:{}", creator.uid, creator.gid)
        };
        if !by.is_empty() || !whose.is_empty() {
            notes.push(Span::new(Role::Dim, format_args!("made{by}{whose}")));
        }
    }
    notes.extend(object.last.as_ref().map(last_use));
    notes
}

fn owner(object: &ObjectInfo) -> Span {
    or_unknown(object.uid.zip(object.gid).map(|(uid, gid)| format!("{uid}:{gid}")))
}

/// A column, and its cell for an object.
type Column = (&'static str, Align, fn(&ObjectInfo) -> Span);

const LEFT: Align = Align::Left;
const RIGHT: Align = Align::Right;

const ID: Column = ("ID", RIGHT, |one| or_unknown(one.id));
const KEY: Column = ("KEY", LEFT, |one| key(one.key));
const OWNER: Column = ("OWNER", LEFT, owner);
const MODE: Column = ("MODE", LEFT, |one| or_unknown(one.mode));
const MESSAGES: Column = ("MESSAGES", RIGHT, |one| count(one.messages));

const SHM: &[Column] = &[
    ID,
    KEY,
    OWNER,
    MODE,
    ("SIZE", RIGHT, |one| bytes(one.size)),
    ("ATTACHED", RIGHT, |one| count(one.attached)),
];
const SEM: &[Column] = &[ID, KEY, OWNER, MODE, ("SEMAPHORES", RIGHT, |one| count(one.size))];
const MSG: &[Column] = &[
    ID,
    KEY,
    OWNER,
    MODE,
    MESSAGES,
    ("BYTES", RIGHT, |one| bytes(one.bytes)),
    ("ROOM", RIGHT, |one| bytes(one.size)),
];
const MQ: &[Column] = &[
    ("NAME", LEFT, |one| or_unknown(one.name.as_ref().map(|name| quoted(&name.0, WORD_WIDTH)))),
    OWNER,
    MODE,
    MESSAGES,
    ("OF", RIGHT, |one| count(one.max_messages)),
    ("ROOM", RIGHT, |one| bytes(one.size)),
];

impl LsText<'_> {
    pub(super) fn namespace(
        &self,
        f: &mut fmt::Formatter<'_>,
        namespace: &NamespaceSnapshot,
    ) -> fmt::Result {
        let NamespaceSnapshot { inum, r#gen, ns_id, host, processes, objects, .. } = namespace;
        self.paragraph(f, 0, &self.host())?;
        let mut title = vec![Span::new(Role::Namespace, NsTag::new(*inum, *r#gen))];
        if *host {
            title.push(Span::new(Role::Dim, inum));
        }
        title.extend(ns_id.map(|id| Span::new(Role::Dim, format_args!("ns_id {id}"))));
        title.push(plain(counted(processes.len(), "process", "processes")));
        let mut pid_namespaces: Vec<_> = processes.iter().map(|one| one.ns.pid).collect();
        pid_namespaces.sort_unstable();
        pid_namespaces.dedup();
        if pid_namespaces.len() > 1 {
            title.push(plain(format_args!("of {} pid namespaces", pid_namespaces.len())));
        }
        if objects.is_empty() && !namespace.unseen.is_empty() {
            title.push(Span::new(Role::Loss, "objects not seen"));
        } else {
            title.push(plain(counted(objects.len(), "object", "objects")));
        }
        title.extend(crate::sinks::text::containers::containers(
            &namespace.containers,
            namespace.sharing,
        ));
        self.paragraph(f, 0, &title)?;
        for one in fullness(namespace).iter().filter(|one| one.is_pressing()) {
            f.write_str("  ")?;
            self.paragraph(f, 2, &[pressing_span(one)])?;
        }
        let mut reasons: Vec<_> = namespace.unseen.iter().map(|unseen| &unseen.reason).collect();
        reasons.dedup();
        for reason in reasons {
            f.write_str("  ")?;
            self.words(f, 2, Role::Loss, &format!("not seen: {reason}"))?;
        }
        self.processes(f, namespace)?;
        self.held(f, namespace)?;
        for (title, kind, columns) in [
            ("SHARED MEMORY", ObjectKind::Shm, SHM),
            ("SEMAPHORE SETS", ObjectKind::Sem, SEM),
            ("MESSAGE QUEUES", ObjectKind::Msg, MSG),
            ("POSIX QUEUES", ObjectKind::Mq, MQ),
        ] {
            self.objects(f, title, columns, objects.iter().filter(is(kind)))?;
        }
        self.limits(f, namespace)
    }

    fn processes(&self, f: &mut fmt::Formatter<'_>, namespace: &NamespaceSnapshot) -> fmt::Result {
        if namespace.processes.is_empty() {
            return Ok(());
        }
        self.title(f, "PROCESSES")?;
        let row = |process: &ProcessInfo| {
            let ProcessInfo { pid, comm, exe, uid, threads, container, .. } = process;
            let exe = exe.as_ref().map(|exe| Span::new(Role::Dim, escaped(&exe.0, EXE_WIDTH)));
            let container = container.as_ref().map(|one| format!("in {}", ContainerTag(one)));
            TextRow {
                cells: vec![
                    plain(escaped(&comm.0, COMM_WIDTH)),
                    plain(pid),
                    or_unknown(*uid),
                    plain(GroupedCount(u64::from(*threads))),
                ],
                notes: exe.into_iter().chain(container.map(plain)).collect(),
            }
        };
        let table = TextTable {
            columns: &[("PROCESS", LEFT), ("PID", RIGHT), ("UID", RIGHT), ("THREADS", RIGHT)],
            notes: "EXECUTABLE",
            rows: namespace.processes.iter().map(row).collect(),
        };
        table.write(f, self.width, self.palette)
    }

    /// Its holders, except processes.
    fn held(&self, f: &mut fmt::Formatter<'_>, namespace: &NamespaceSnapshot) -> fmt::Result {
        let pins = |holder: &Holder| match holder {
            Holder::Process { .. } | Holder::Mapping { .. } => true,
            Holder::Descriptor { pins, .. } | Holder::Mount { pins, .. } => *pins,
        };
        for (title, wanted) in [("HELD BY", true), ("USED BY", false)] {
            let those = namespace.holders.iter().filter(|holder| pins(holder) == wanted);
            let texts: Vec<_> = those.filter_map(held_by).collect();
            if !texts.is_empty() {
                self.title(f, title)?;
            }
            for text in texts {
                // Its names are escaped already.
                let line = plain(format_args!("  {text}")).clipped(self.width);
                writeln!(f, "{}", line.paint(self.palette))?;
            }
        }
        Ok(())
    }

    fn objects<'a>(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        columns: &[Column],
        objects: impl Iterator<Item = &'a ObjectInfo>,
    ) -> fmt::Result {
        let row = |object: &ObjectInfo| TextRow {
            cells: columns.iter().map(|(_, _, cell)| cell(object)).collect(),
            notes: notes(object),
        };
        let rows: Vec<_> = objects.map(row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.title(f, title)?;
        let columns: Vec<_> = columns.iter().map(|(name, align, _)| (*name, *align)).collect();
        TextTable { columns: &columns, notes: "", rows }.write(f, self.width, self.palette)
    }

    fn limits(&self, f: &mut fmt::Formatter<'_>, namespace: &NamespaceSnapshot) -> fmt::Result {
        if namespace.limits.is_empty() {
            return Ok(());
        }
        self.title(f, "LIMITS")?;
        let table = TextTable {
            columns: &[("LIMIT", LEFT), ("USED", RIGHT), ("OF", RIGHT), ("FULL", RIGHT)],
            notes: "",
            rows: namespace.limits.iter().map(|(name, limit)| limit_row(*name, limit)).collect(),
        };
        table.write(f, self.width, self.palette)
    }
}
