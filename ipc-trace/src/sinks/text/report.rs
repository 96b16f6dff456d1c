//! `report` as text: a summary, then namespace by namespace, then the accuracy of the counts.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use super::{
    findings, objects,
    style::{Palette, Role},
    summary::{self, BackendsText, calls},
    units::{Bytes, Date, Duration, GroupedCount, SpanMoment, between},
    wrap::{Align, Shape, Span, TextRow, TextTable, flow},
};
use crate::event::{
    escape::escaped,
    tag::{COMM_WIDTH, NsTag, ProcessTag},
};
use crate::event::{
    report::{
        CallTotals, Created, Destroyed, Durations, EvictedCounts, NamespaceReport, OpReport,
        ProcessReport, Report,
    },
    value::{OpName, Timestamp},
};

/// The largest number of processes listed for a namespace.
const PROCESSES: usize = 10;
/// The largest number of namespaces without calls listed because they were created or destroyed.
const QUIET: usize = 20;
/// Cells of the host's name, the kernel's release, and of a container's name, id and image.
const NAME_WIDTH: usize = 40;
/// Cells of an executable's path.
const EXE_WIDTH: usize = 100;

/// The report, with newlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportText<'a> {
    report: &'a Report,
    least: u8,
    palette: Palette,
    width: usize,
}

/// The report for a terminal of `width` cells, without findings below confidence `least`.
#[must_use]
pub(crate) const fn text(
    report: &Report,
    least: u8,
    palette: Palette,
    width: usize,
) -> ReportText<'_> {
    ReportText { report, least, palette, width }
}

impl Display for ReportText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        self.heading(f)?;
        let what = (self.least, report.started);
        findings::in_full(f, &report.findings, what, self.palette, self.width)?;
        let (busy, quiet): (Vec<_>, Vec<_>) = report.namespaces.iter().partition(|ns| is_busy(ns));
        for namespace in &busy {
            writeln!(f)?;
            self.namespace(f, namespace)?;
        }
        if let Some(evicted) = &report.folded {
            writeln!(f)?;
            self.evicted(f, evicted)?;
        }
        if !report.unattributed.is_empty() {
            writeln!(f)?;
            let title = "lost calls of which not even the namespace is known";
            writeln!(f, "{}", self.palette.paint(Role::Loss, title))?;
            self.operations(f, &counted(&report.unattributed))?;
        }
        self.quiet(f, &quiet)?;
        writeln!(f)?;
        summary::pending(f, &report.pending, self.palette, self.width)?;
        if let Some(command) = &report.command {
            summary::command(f, command, self.palette, self.width)?;
        }
        summary::accounting(f, &report.accounting, self.palette, self.width)
    }
}

/// Whether a namespace gets a section.
fn is_busy(namespace: &NamespaceReport) -> bool {
    !namespace.ops.is_empty()
        || !namespace.processes.is_empty()
        || namespace.foreign_calls > 0
        || namespace.dropped > 0
        || namespace
            .objects
            .iter()
            .any(|object| object.leaked == Some(true) || object.created.is_some())
}

/// An operation's line: counts, and further data.
type OpLine<'a> = (OpName, &'a CallTotals, Option<u64>, Option<Durations>);

fn counted(ops: &BTreeMap<OpName, CallTotals>) -> Vec<OpLine<'_>> {
    ops.iter().map(|(op, counts)| (*op, counts, None, None)).collect()
}

fn number(count: u64, role: Role) -> Span {
    Span::new(if count == 0 { Role::Dim } else { role }, GroupedCount(count))
}

impl ReportText<'_> {
    /// Writes spans as a paragraph, whose further lines start where its first one did, or indented.
    fn paragraph(&self, f: &mut fmt::Formatter<'_>, used: usize, spans: &[Span]) -> fmt::Result {
        let shape = Shape { width: self.width, used, indent: used.max(2) };
        flow(f, spans, " · ", shape, self.palette)?;
        writeln!(f)
    }

    const fn moment(&self, time: Timestamp) -> SpanMoment {
        SpanMoment { time, started: self.report.started }
    }

    fn created(&self, created: &Created) -> String {
        let time = self.moment(created.time);
        match &created.process {
            Some(process) => {
                format!("created {time} by {}", ProcessTag::new(&process.comm, process.pid))
            }
            None => format!("created {time}"),
        }
    }

    fn destroyed(&self, Destroyed { after, before }: &Destroyed) -> String {
        let before = self.moment(*before);
        match after {
            Some(after) => format!("destroyed {}–{before}", self.moment(*after)),
            None => format!("destroyed before {before}"),
        }
    }

    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { host, kernel, backend, started, ended, namespaces, .. } = self.report;
        let plain = |text: &dyn Display| Span::new(Role::Plain, text);
        let host = escaped(host.as_bytes(), NAME_WIDTH);
        self.paragraph(
            f,
            0,
            &[
                Span::new(Role::Heading, format_args!("IPC on {host}")),
                plain(&format_args!("Linux {}", escaped(kernel.as_bytes(), NAME_WIDTH))),
                plain(&BackendsText(backend)),
            ],
        )?;
        self.paragraph(
            f,
            0,
            &[
                plain(&format_args!("{} to {} UTC", Date(*started), self.moment(*ended))),
                plain(&between(*started, *ended)),
            ],
        )?;

        let evicted = self.report.folded.iter().flat_map(|evicted| evicted.ops.values());
        let ops = namespaces.iter().flat_map(|ns| ns.ops.values().map(|op| &op.counts));
        let (mut all, mut failed) = (0_u64, 0_u64);
        for counts in ops.chain(evicted).chain(self.report.unattributed.values()) {
            all = all.saturating_add(counts.calls);
            failed = failed.saturating_add(counts.failed);
        }
        let foreign = namespaces.iter().fold(0_u64, |sum, ns| sum.saturating_add(ns.foreign_calls));
        let busy = namespaces.iter().filter(|ns| !ns.ops.is_empty()).count();
        let mut spans = vec![
            plain(&format_args!("{} {}", GroupedCount(all), calls(all))),
            Span::new(
                if failed > 0 { Role::Error } else { Role::Plain },
                format_args!("{} failed", GroupedCount(failed)),
            ),
            plain(&format_args!("namespaces with calls: {busy} of {}", namespaces.len())),
        ];
        if foreign > 0 {
            let text = format!("{} FOREIGN {}", GroupedCount(foreign), calls(foreign));
            spans.push(Span::new(Role::Foreign, text));
        }
        self.paragraph(f, 0, &spans)
    }

    fn namespace(&self, f: &mut fmt::Formatter<'_>, namespace: &NamespaceReport) -> fmt::Result {
        let NamespaceReport {
            inum,
            r#gen,
            ns_id,
            host,
            created,
            destroyed,
            containers,
            sharing,
            ..
        } = namespace;
        let mut title = vec![Span::new(Role::Namespace, NsTag::new(*inum, *r#gen))];
        if *host {
            title.push(Span::new(Role::Dim, inum));
        }
        title.extend(crate::sinks::text::containers::containers(containers, *sharing));
        title.extend(ns_id.map(|id| Span::new(Role::Dim, format_args!("ns_id {id}"))));
        title.extend(created.as_ref().map(|one| Span::new(Role::Plain, self.created(one))));
        title.extend(destroyed.as_ref().map(|one| Span::new(Role::Plain, self.destroyed(one))));
        self.paragraph(f, 0, &title)?;

        if namespace.foreign_calls > 0 {
            let count = namespace.foreign_calls;
            let text = format_args!(
                "FOREIGN: {} {} from other namespaces on objects of this one",
                GroupedCount(count),
                calls(count)
            )
            .to_string();
            writeln!(f, "  {}", self.palette.paint(Role::Foreign, text))?;
        }
        let lines: Vec<OpLine<'_>> = namespace
            .ops
            .iter()
            .map(|(op, OpReport { counts, bytes, duration_ns })| {
                (*op, counts, *bytes, *duration_ns)
            })
            .collect();
        self.operations(f, &lines)?;
        if namespace.dropped > 0 {
            let count = namespace.dropped;
            let lost =
                format_args!("{} of these {} lost their detail", GroupedCount(count), calls(count))
                    .to_string();
            let rest = "calls and errors are exact, the rest is partial";
            f.write_str("  ")?;
            self.paragraph(f, 2, &[Span::new(Role::Loss, lost), Span::new(Role::Loss, rest)])?;
        }
        self.processes(f, namespace)?;
        objects::table(f, namespace, self.width, self.palette)
    }

    fn operations(&self, f: &mut fmt::Formatter<'_>, lines: &[OpLine<'_>]) -> fmt::Result {
        if lines.is_empty() {
            return Ok(());
        }
        let row = |(op, counts, bytes, durations): &OpLine<'_>| {
            let CallTotals { calls, failed, errors, restarts: _ } = counts;
            let duration = |of: fn(&Durations) -> u64| match durations {
                Some(durations) => Span::new(Role::Plain, Duration(of(durations))),
                None => Span::new(Role::Plain, ""),
            };
            let bytes = match bytes {
                Some(bytes) => Span::new(Role::Plain, Bytes(*bytes)),
                None => Span::new(Role::Plain, ""),
            };
            let mut errors: Vec<_> = errors.iter().collect();
            errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let notes = errors.iter().map(|(error, count)| {
                Span::new(Role::Plain, format_args!("{error} {}", GroupedCount(**count)))
            });
            TextRow {
                cells: vec![
                    Span::new(Role::Plain, op),
                    number(*calls, Role::Plain),
                    number(*failed, Role::Error),
                    duration(|of| of.p50),
                    duration(|of| of.p99),
                    duration(|of| of.max),
                    bytes,
                ],
                notes: notes.collect(),
            }
        };
        let table = TextTable {
            columns: &[
                ("OPERATION", Align::Left),
                ("CALLS", Align::Right),
                ("FAILED", Align::Right),
                ("P50", Align::Right),
                ("P99", Align::Right),
                ("MAX", Align::Right),
                ("BYTES", Align::Right),
            ],
            notes: "ERRORS",
            rows: lines.iter().map(row).collect(),
        };
        table.write(f, self.width, self.palette)
    }

    fn processes(&self, f: &mut fmt::Formatter<'_>, namespace: &NamespaceReport) -> fmt::Result {
        let all = &namespace.processes;
        let foreign = all.iter().any(|process| process.foreign_calls > 0);
        let row = |process: &ProcessReport| {
            let ProcessReport { pid, comm, exe, uid, calls, failed, foreign_calls, .. } = process;
            let exe = exe.as_ref().map(|exe| Span::new(Role::Dim, escaped(&exe.0, EXE_WIDTH)));
            TextRow {
                cells: vec![
                    Span::new(Role::Plain, escaped(&comm.0, COMM_WIDTH)),
                    Span::new(Role::Plain, pid),
                    Span::new(Role::Plain, uid),
                    number(*calls, Role::Plain),
                    number(*failed, Role::Error),
                    if foreign {
                        number(*foreign_calls, Role::Foreign)
                    } else {
                        Span::new(Role::Plain, "")
                    },
                ],
                notes: exe.into_iter().collect(),
            }
        };
        if !all.is_empty() {
            writeln!(f)?;
            let table = TextTable {
                columns: &[
                    ("PROCESS", Align::Left),
                    ("PID", Align::Right),
                    ("UID", Align::Right),
                    ("CALLS", Align::Right),
                    ("FAILED", Align::Right),
                    ("FOREIGN", Align::Right),
                ],
                notes: "EXECUTABLE",
                rows: all.iter().take(PROCESSES).map(row).collect(),
            };
            table.write(f, self.width, self.palette)?;
        }
        let rest = all.len().saturating_sub(PROCESSES) as u64;
        match rest.saturating_add(namespace.processes_folded) {
            0 => Ok(()),
            more => writeln!(f, "  and {} more", GroupedCount(more)),
        }
    }

    fn evicted(&self, f: &mut fmt::Formatter<'_>, evicted: &EvictedCounts) -> fmt::Result {
        let EvictedCounts { namespaces, ops } = evicted;
        let text = format_args!(
            "{} namespaces that had ended, taken together to save room",
            GroupedCount(*namespaces)
        )
        .to_string();
        writeln!(f, "{}", self.palette.paint(Role::Heading, text))?;
        self.operations(f, &counted(ops))
    }

    /// Namespaces without calls: created or destroyed ones one by one, the others by inode number.
    fn quiet(&self, f: &mut fmt::Formatter<'_>, quiet: &[&NamespaceReport]) -> fmt::Result {
        let (moved, still): (Vec<&NamespaceReport>, Vec<&NamespaceReport>) =
            quiet.iter().partition(|ns| ns.created.is_some() || ns.destroyed.is_some());
        if !moved.is_empty() {
            let title = "created or destroyed without an IPC call";
            writeln!(f, "\n{}", self.palette.paint(Role::Heading, title))?;
        }
        for namespace in moved.iter().take(QUIET) {
            let tag = NsTag::new(namespace.inum, namespace.r#gen);
            write!(f, "  {:<13}  ", self.palette.paint(Role::Namespace, tag))?;
            let created = namespace.created.as_ref();
            let destroyed = namespace.destroyed.as_ref();
            let spans: Vec<Span> = created
                .map(|one| Span::new(Role::Plain, self.created(one)))
                .into_iter()
                .chain(destroyed.map(|one| Span::new(Role::Plain, self.destroyed(one))))
                .collect();
            self.paragraph(f, 17, &spans)?;
        }
        let more = moved.len().saturating_sub(QUIET) as u64;
        if more > 0 {
            writeln!(f, "  and {} more", GroupedCount(more))?;
        }
        if still.is_empty() {
            return Ok(());
        }
        // As many of their numbers as fit on the line.
        let count = still.len();
        let noun = if count == 1 { "namespace" } else { "namespaces" };
        let tags = still.iter().take(self.width / 4).map(|ns| NsTag::new(ns.inum, ns.r#gen));
        let tags: Vec<String> = tags.map(|tag| tag.to_string()).collect();
        let text = format!("{count} {noun} without calls: {}", tags.join(", "));
        let text = Span::new(Role::Dim, text).clipped(self.width);
        writeln!(f, "\n{}", text.paint(self.palette))
    }
}
