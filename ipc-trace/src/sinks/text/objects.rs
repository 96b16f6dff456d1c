//! Lives of objects, as lines of `live` and as a table of `report`.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use ipc_trace_common::{op::Family, record::NsRef};

use super::{
    call::{LineStyle, NS_WIDTH},
    flow::{Align, Span, TextRow, TextTable},
    style::{Palette, Role},
    units::{Bytes, GroupedCount, TimeOfDay},
};
use crate::event::{
    escape::quoted,
    tag::{self, NsTag, ProcessTag, SysvKey},
};
use crate::event::{
    objects::{Creator, LastUse, ObjectEvent, ObjectLife, ObjectLook, ObjectReport},
    report::NamespaceReport,
    value::OsBytes,
};

/// Cells of a queue's name.
const NAME_WIDTH: usize = 48;
/// Objects of a namespace that a report lists.
const LISTED: usize = 10;

/// `shm 3`, `mq "jobs"`
struct Tag<'a>(&'a ObjectLook);

impl Display for Tag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectLook { kind, id, name, .. } = self.0;
        match (id, name) {
            (Some(id), _) => write!(f, "{kind} {id}"),
            (None, Some(name)) => write!(f, "{kind} {}", quoted(&name.0, NAME_WIDTH)),
            (None, None) => write!(f, "{kind} ?"),
        }
    }
}

/// `16 KiB`, `3 semaphores`
fn size(object: &ObjectLook) -> Option<String> {
    let size = object.size?;
    Some(match object.kind.0 {
        Family::Sem if size == 1 => "1 semaphore".to_owned(),
        Family::Sem => format!("{} semaphores", GroupedCount(size)),
        Family::Shm | Family::Msg | Family::Mq => Bytes(size).to_string(),
    })
}

/// A line for what happened to an object, with its end.
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
        ObjectLife::Present => "present",
        ObjectLife::Created => "created",
        ObjectLife::Changed => "changed",
        ObjectLife::Removed => "removed",
        ObjectLife::Destroyed => "destroyed",
    };
    let look = &object.look;
    write!(
        out,
        "{}  {:<NS_WIDTH$} {} {}",
        palette.paint(Role::Dim, TimeOfDay(*time)),
        palette.paint(Role::Namespace, NsTag::from(*ipc_ns)),
        Tag(look),
        palette.paint(Role::Heading, verb),
    )?;
    tag::write_who(out, process.as_ref(), container.as_deref())?;
    if *event == ObjectLife::Created && look.creator.as_ref().is_some_and(|one| !one.exact) {
        write!(out, " {}", palette.paint(Role::Dim, "(inferred)"))?;
    }
    if let Some(after) = after {
        write!(out, " after {}", TimeOfDay(*after))?;
    }
    if let Some(before) = before {
        write!(out, " before {}", TimeOfDay(*before))?;
    }
    if let Some(key) = look.key {
        write!(out, "  key {}", SysvKey(key))?;
    }
    if matches!(event, ObjectLife::Created | ObjectLife::Changed | ObjectLife::Present) {
        if let Some((uid, gid)) = look.uid.zip(look.gid) {
            write!(out, "  {uid}:{gid}")?;
        }
        if let Some(mode) = look.mode {
            write!(out, "  {mode}")?;
        }
        if let Some(size) = size(look) {
            write!(out, "  {size}")?;
        }
    }
    writeln!(out)
}

/// A line for what was there, as the namespaces of it, with its end; nothing for nothing.
///
/// # Errors
/// Those of `out`.
pub(crate) fn present(
    out: &mut dyn fmt::Write,
    objects: impl Iterator<Item = NsRef>,
    look: LineStyle,
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
    writeln!(out, "{}", look.palette.paint(Role::Dim, text))
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
    let look = &object.look;
    let creator = look.creator.as_ref();
    let made =
        creator.and_then(|Creator { pid, uid, comm, .. }| who(*pid, comm.as_ref(), Some(*uid)));
    let last = look.last.as_ref();
    let last = last.and_then(|LastUse { pid, comm, .. }| who(*pid, comm.as_ref(), None));
    let mut notes = Vec::new();
    if object.leaked == Some(true) {
        let left = last.as_ref().or(made.as_ref());
        let by = left.map(|left| format!(" by {left}")).unwrap_or_default();
        notes.push(Span::new(Role::Loss, format_args!("LEAKED{by}")));
    }
    if look.removed {
        let attached =
            look.attached.map_or("in use".to_owned(), |count| format!("attached {count}×"));
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

/// The objects of a namespace: what stands out first, and so many of the others.
pub(super) fn table(
    f: &mut fmt::Formatter<'_>,
    namespace: &NamespaceReport,
    width: usize,
    palette: Palette,
) -> fmt::Result {
    let (gone, mut there): (Vec<&ObjectReport>, Vec<_>) =
        namespace.objects.iter().partition(|object| object.destroyed.is_some());
    // A stable order: among the like, they stay by kind and id.
    there.sort_by_key(|object| {
        (object.leaked != Some(true), !object.look.removed, object.uses == 0)
    });
    let plain = |text: Option<String>| match text {
        Some(text) => Span::new(Role::Plain, text),
        None => Span::new(Role::Dim, "?"),
    };
    let row = |object: &&ObjectReport| {
        let look = &object.look;
        let key = look.key.map(|key| SysvKey(key).to_string());
        TextRow {
            cells: vec![
                Span::new(Role::Plain, Tag(look)),
                Span::new(Role::Plain, key.unwrap_or_default()),
                plain(look.uid.zip(look.gid).map(|(uid, gid)| format!("{uid}:{gid}"))),
                plain(look.mode.map(|mode| mode.to_string())),
                plain(size(look)),
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
