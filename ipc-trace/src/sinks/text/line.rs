//! The lines of `live`: calls by [`call`], all other events here.

use std::fmt::{self, Display};

use super::{
    call::{self, LineStyle, NS_WIDTH, PID_WIDTH},
    findings, objects,
    style::{Palette, Role},
    summary::{self, BackendsText},
    units::{GroupedCount, TimeOfDay},
};
use crate::event::{
    ContainerUpdate, End, Event, Loss, LossBy, NamespaceEvent, NamespaceEventKind, ResyncEvent,
    Start,
};
use crate::event::{
    escape::escaped,
    tag::{self, COMM_WIDTH, ContainerText, NsTag, ShortId},
};

/// Cells of the host's name and the kernel's release.
const HOST_WIDTH: usize = 64;
/// The largest number of kinds of lost calls on a line.
const KINDS: usize = 3;

/// Writes an event as lines. `width` is that of the terminal: the final summary is wrapped to it, the lines of events
/// are not.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(
    out: &mut dyn fmt::Write,
    event: &Event<'_>,
    style: LineStyle,
    width: usize,
) -> fmt::Result {
    match event {
        Event::Start(start) => write_start(out, start, style.palette),
        Event::Ipc(ipc) => writeln!(out, "{}", call::line(ipc, style)),
        Event::Namespace(namespace) => write_namespace(out, namespace, style.palette),
        Event::Object(object) => objects::line(out, object, style.palette),
        Event::Container(named) => write_container(out, named, style.palette),
        Event::Loss(loss) => write_loss(out, loss, style.palette),
        Event::Resync(resync) => write_resync(out, resync, style.palette),
        Event::Finding(line) => findings::line(out, line, style.palette),
        // For programs only: a terminal has the status line.
        Event::Status(_) | Event::Report(_) => Ok(()),
        Event::End(end) => write_end(out, end, style.palette, width),
    }
}

fn write_start(out: &mut dyn fmt::Write, start: &Start<'_>, palette: Palette) -> fmt::Result {
    let Start { time: _, host, boot_id: _, run_id: _, kernel, arch, backend, version } = start;
    writeln!(
        out,
        "{} on {} · Linux {} {arch} · {}",
        palette.paint(Role::Heading, format_args!("ipc-trace {version}")),
        escaped(host.as_bytes(), HOST_WIDTH),
        escaped(kernel.as_bytes(), HOST_WIDTH),
        BackendsText(backend),
    )?;
    let headings = format_args!(
        "{:<12}  {:<NS_WIDTH$} {:>PID_WIDTH$} {:<COMM_WIDTH$}  {}",
        "TIME (UTC)", "NAMESPACE", "PID", "THREAD", "CALL"
    )
    .to_string();
    writeln!(out, "{}", palette.paint(Role::Dim, headings))
}

fn write_namespace(
    out: &mut dyn fmt::Write,
    namespace: &NamespaceEvent<'_>,
    palette: Palette,
) -> fmt::Result {
    let NamespaceEvent { seq: _, time, event, ipc_ns, from, process, container, after, before } =
        namespace;
    let verb = match event {
        NamespaceEventKind::Created => "created",
        NamespaceEventKind::Entered => "entered",
        NamespaceEventKind::Left => "left",
        NamespaceEventKind::Destroyed => "destroyed",
        NamespaceEventKind::Present => "is there, its creation was lost",
    };
    write!(
        out,
        "{}  {:<NS_WIDTH$} {}",
        palette.paint(Role::Dim, TimeOfDay(*time)),
        palette.paint(Role::Namespace, NsTag::from(*ipc_ns)),
        palette.paint(Role::Heading, verb),
    )?;
    tag::write_who(out, process.as_ref(), container.as_deref())?;
    if let Some(from) = from {
        write!(out, " from {}", palette.paint(Role::Namespace, NsTag::from(*from)))?;
    }
    match (after, before) {
        (Some(after), Some(before)) => {
            writeln!(out, " between {} and {}", TimeOfDay(*after), TimeOfDay(*before))
        }
        (Some(after), None) => writeln!(out, " after {}", TimeOfDay(*after)),
        (None, Some(before)) => writeln!(out, " before {}", TimeOfDay(*before)),
        (None, None) => writeln!(out),
    }
}

fn write_container(
    out: &mut dyn fmt::Write,
    named: &ContainerUpdate,
    palette: Palette,
) -> fmt::Result {
    let ContainerUpdate { seq: _, time, container, ipc_ns } = named;
    let tag = ipc_ns.map(|ns| NsTag::from(ns).to_string()).unwrap_or_default();
    writeln!(
        out,
        "{}  {:<NS_WIDTH$} container {} is {}",
        palette.paint(Role::Dim, TimeOfDay(*time)),
        palette.paint(Role::Namespace, tag),
        ShortId(container),
        palette.paint(Role::Heading, ContainerText(container)),
    )
}

fn write_loss(out: &mut dyn fmt::Write, loss: &Loss<'_>, palette: Palette) -> fmt::Result {
    let Loss { seq: _, time, dropped, missed, metadata, by, sink, lost_other } = loss;
    let time = palette.paint(Role::Dim, TimeOfDay(*time));
    if sink.is_some() {
        let others = lost_other.unwrap_or(0);
        return writeln!(
            out,
            "{time}  {}: what reads this is too slow (`report` counts them all)",
            palette.paint(
                Role::Loss,
                format_args!(
                    "left out {} {} and {} other lines",
                    GroupedCount(*dropped),
                    events(*dropped),
                    GroupedCount(others)
                )
            ),
        );
    }
    if *dropped > 0 {
        writeln!(
            out,
            "{time}  {}: ring full{} (counts stay exact in `report`; raise --ring-bytes)",
            palette.paint(
                Role::Loss,
                format_args!("lost {} {}", GroupedCount(*dropped), events(*dropped))
            ),
            Kinds(by),
        )?;
    }
    if *missed > 0 {
        writeln!(
            out,
            "{time}  {}: the kernel did not run the program; counts are lower bounds from here on",
            palette.paint(
                Role::Loss,
                format_args!("missed {} {}", GroupedCount(*missed), events(*missed))
            ),
        )?;
    }
    if *metadata > 0 {
        writeln!(
            out,
            "{time}  {}: the ring was full; the process or namespace of some calls stays unknown",
            palette.paint(
                Role::Loss,
                format_args!(
                    "lost {} metadata records of namespaces and processes",
                    GroupedCount(*metadata)
                )
            ),
        )?;
    }
    Ok(())
}

fn write_resync(out: &mut dyn fmt::Write, resync: &ResyncEvent, palette: Palette) -> fmt::Result {
    let ResyncEvent { seq: _, time, since, complete, namespaces, objects } = resync;
    let heading = match complete {
        true => palette.paint(Role::Good, "resynchronized").to_string(),
        false => palette.paint(Role::Loss, "resynchronized in part").to_string(),
    };
    writeln!(
        out,
        "{}  {heading} after the loss noticed at {}: {} of {} namespaces and {} of {} objects were not known, {} \
         objects are gone",
        palette.paint(Role::Dim, TimeOfDay(*time)),
        TimeOfDay(*since),
        GroupedCount(namespaces.appeared),
        GroupedCount(namespaces.present),
        GroupedCount(objects.appeared),
        GroupedCount(objects.present),
        GroupedCount(objects.ended),
    )
}

const fn events(count: u64) -> &'static str {
    if count == 1 { "event" } else { "events" }
}

/// `: 4026532180 semop 812, host msgsnd EAGAIN 4, and 2 more kinds`, the most frequent first.
struct Kinds<'a>(&'a [LossBy]);

impl Display for Kinds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<&LossBy> = self.0.iter().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        let mut before = ": ";
        for LossBy { inum, r#gen, op, error, count } in kinds.iter().take(KINDS) {
            match inum {
                Some(inum) => write!(f, "{before}{} {op}", NsTag::new(*inum, r#gen.unwrap_or(1)))?,
                None => write!(f, "{before}unknown namespace {op}")?,
            }
            if let Some(error) = error {
                write!(f, " {error}")?;
            }
            write!(f, " {}", GroupedCount(*count))?;
            before = ", ";
        }
        match kinds.len().saturating_sub(KINDS) {
            0 => Ok(()),
            1 => f.write_str(", and 1 more kind"),
            more => write!(f, ", and {more} more kinds"),
        }
    }
}

fn write_end(out: &mut dyn fmt::Write, end: &End, palette: Palette, width: usize) -> fmt::Result {
    let End { seq: _, time: _, accounting, command, pending, findings: _ } = end;
    writeln!(out)?;
    summary::pending(out, pending, palette, width)?;
    if let Some(command) = command {
        summary::command(out, command, palette, width)?;
    }
    summary::accounting(out, accounting, palette, width)
}
