//! Creation and removal of objects, as lines of `live` and as a table of `report`.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use ipc_trace_common::{op::ObjectKind, record::NsRef};

use super::{
    call::{LineStyle, NS_WIDTH},
    style::{Palette, Role},
    units::{Bytes, GroupedCount, TimeOfDay},
    wrap::{Align, Span, TextRow, TextTable},
};
use crate::event::{
    escape::quoted,
    tag::{self, NsTag, ProcessTag, SysvKey},
};
use crate::event::{
    objects::{Creator, LastUse, ObjectEvent, ObjectEventKind, ObjectInfo, ObjectReport},
    report::NamespaceReport,
    value::OsBytes,
};

/// Cells of a queue's name.
const NAME_WIDTH: usize = 48;
/// The largest number of objects that a report lists for a namespace.
const LISTED: usize = 10;

/// `shm 3`, `mq "jobs"`
struct Tag<'a>(&'a ObjectInfo);

impl Display for Tag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectInfo { kind, id, name, .. } = self.0;
        match (id, name) {
            (Some(id), _) => write!(f, "{kind} {id}"),
            (None, Some(name)) => write!(f, "{kind} {}", quoted(&name.0, NAME_WIDTH)),
            (None, None) => write!(f, "{kind} ?"),
        }
    }
}

/// `16 KiB`, `3 semaphores`
fn size(object: &ObjectInfo) -> Option<String> {
    let size = object.size?;
    Some(match object.kind.0 {
        ObjectKind::Sem if size == 1 => "1 semaphore".to_owned(),
        ObjectKind::Sem => format!("{} semaphores", GroupedCount(size)),
        ObjectKind::Shm | ObjectKind::Msg | ObjectKind::Mq => Bytes(size).to_string(),
    })
}

/// Writes a line for an object's event.
///
/// # Errors
/// Those of `out`.
pub(crate) fn line(
    out: &mut dyn fmt::Write,
    event: &ObjectEvent<'_>,
    palette: Palette,
) -> fmt::Result {
    let ObjectEvent { seq: _, time, event, ipc_ns, object, process, container, after, before } =
        event;
    let verb = match event {
        ObjectEventKind::Present => "present",
        ObjectEventKind::Created => "created",
        ObjectEventKind::Changed => "changed",
        ObjectEventKind::Removed => "removed",
        ObjectEventKind::Destroyed => "destroyed",
    };
    let info = &object.info;
    write!(
        out,
        "{}  {:<NS_WIDTH$} {} {}",
        palette.paint(Role::Dim, TimeOfDay(*time)),
        palette.paint(Role::Namespace, NsTag::from(*ipc_ns)),
        Tag(info),
        palette.paint(Role::Heading, verb),
    )?;
    tag::write_who(out, process.as_ref(), container.as_deref())?;
    if *event == ObjectEventKind::Created && info.creator.as_ref().is_some_and(|one| !one.exact) {
        write!(out, " {}", palette.paint(Role::Dim, "(inferred)"))?;
    }
    if let Some(after) = after {
        write!(out, " after {}", TimeOfDay(*after))?;
    }
    if let Some(before) = before {
        write!(out, " before {}", TimeOfDay(*before))?;
    }
    if let Some(key) = info.key {
        write!(out, "  key {}", SysvKey(key))?;
    }
    if matches!(
        event,
        ObjectEventKind::Created | ObjectEventKind::Changed | ObjectEventKind::Present
    ) {
        if let Some((uid, gid)) = info.uid.zip(info.gid) {
            write!(out, "  {uid}:{gid}")?;
        }
        if let Some(mode) = info.mode {
            write!(out, "  {mode}")?;
        }
        if let Some(size) = size(info) {
            write!(out, "  {size}")?;
        }
    }
    writeln!(out)
}

/// Writes a line for existing objects, as a list of their namespaces; nothing if there are none.
///
/// # Errors
/// Those of `out`.
pub(crate) fn present(
    out: &mut dyn fmt::Write,
    objects: impl Iterator<Item = NsRef>,
    style: LineStyle,
) -> fmt::Result {
    let mut namespaces: BTreeMap<NsRef, u64> = BTreeMap::new();
    for ns in objects {
        *namespaces.entry(ns).or_default() += 1;
    }
    let count: u64 = namespaces.values().sum();
    if count == 0 {
        return Ok(());
    }
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let text = format!(
        "{} object{} in {} namespace{} already there: `ipc-trace ls` lists them",
        GroupedCount(count),
        plural(count),
        namespaces.len(),
        plural(namespaces.len() as u64),
    );
    writeln!(out, "{}", style.palette.paint(Role::Dim, text))
}

/// `worker[4242]`, `4242`, `user 1000`
fn who(pid: Option<u32>, comm: Option<&OsBytes<'static>>, uid: Option<u32>) -> Option<String> {
    match (pid, comm, uid) {
        (Some(pid), Some(comm), _) => Some(ProcessTag::new(comm, pid).to_string()),
        (Some(pid), None, _) => Some(pid.to_string()),
        (None, _, Some(uid)) => Some(format!("user {uid}")),
        (None, _, None) => None,
    }
}

fn notes(object: &ObjectReport) -> Vec<Span> {
    let info = &object.info;
    let creator = info.creator.as_ref();
    let made =
        creator.and_then(|Creator { pid, uid, comm, .. }| who(*pid, comm.as_ref(), Some(*uid)));
    let last = info.last.as_ref();
    let last = last.and_then(|LastUse { pid, comm, .. }| who(*pid, comm.as_ref(), None));
    let mut notes = Vec::new();
    if object.leaked == Some(true) {
        let left = last.as_ref().or(made.as_ref());
        let by = left.map(|left| format!(" by {left}")).unwrap_or_default();
        notes.push(Span::new(Role::Loss, format_args!("LEAKED{by}")));
    }
    if info.removed {
        let attached =
            info.attached.map_or("in use".to_owned(), |count| format!("attached {count}×"));
        notes.push(Span::new(Role::Loss, format_args!("removed, {attached}")));
    }
    if let Some(made) = &made {
        let inferred = if creator.is_some_and(|one| one.exact) { "" } else { " (inferred)" };
        notes.push(Span::new(Role::Dim, format_args!("made by {made}{inferred}")));
    }
    if let Some(last) = last.filter(|last| Some(last) != made.as_ref()) {
        notes.push(Span::new(Role::Dim, format_args!("last used by {last}")));
    }
    notes
}

/// The objects of a namespace: the notable ones first, and a limited number of others.
pub(super) fn table(
    f: &mut fmt::Formatter<'_>,
    namespace: &NamespaceReport,
    width: usize,
    palette: Palette,
) -> fmt::Result {
    let (gone, mut there): (Vec<&ObjectReport>, Vec<_>) =
        namespace.objects.iter().partition(|object| object.destroyed.is_some());
    // A stable sort: equal ones stay ordered by kind and id.
    there.sort_by_key(|object| {
        (object.leaked != Some(true), !object.info.removed, object.uses == 0)
    });
    let plain = |text: Option<String>| match text {
        Some(text) => Span::new(Role::Plain, text),
        None => Span::new(Role::Dim, "?"),
    };
    let row = |object: &&ObjectReport| {
        let info = &object.info;
        let key = info.key.map(|key| SysvKey(key).to_string());
        TextRow {
            cells: vec![
                Span::new(Role::Plain, Tag(info)),
                Span::new(Role::Plain, key.unwrap_or_default()),
                plain(info.uid.zip(info.gid).map(|(uid, gid)| format!("{uid}:{gid}"))),
                plain(info.mode.map(|mode| mode.to_string())),
                plain(size(info)),
                Span::new(
                    if object.uses == 0 { Role::Dim } else { Role::Plain },
                    GroupedCount(object.uses),
                ),
            ],
            notes: notes(object),
        }
    };
    if !there.is_empty() {
        writeln!(f)?;
        let table = TextTable {
            columns: &[
                ("OBJECT", Align::Left),
                ("KEY", Align::Left),
                ("OWNER", Align::Left),
                ("MODE", Align::Left),
                ("SIZE", Align::Right),
                ("USES", Align::Right),
            ],
            notes: "",
            rows: there.iter().take(LISTED).map(row).collect(),
        };
        table.write(f, width, palette)?;
    }
    let more = there.len().saturating_sub(LISTED);
    let mut rest = Vec::new();
    if more > 0 {
        rest.push(format!("{} more", GroupedCount(more as u64)));
    }
    if !gone.is_empty() {
        let noun = if gone.len() == 1 { "object that is" } else { "objects that are" };
        rest.push(format!("{} {noun} gone", GroupedCount(gone.len() as u64)));
    }
    match rest.is_empty() {
        true => Ok(()),
        false => writeln!(f, "  and {}", rest.join(", ")),
    }
}
