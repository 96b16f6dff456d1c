//! The final summary of `live` and `report`, and the backends of operations.

use std::fmt::{self, Display, Write as _};

use ipc_trace_common::state::Diagnostic;

use super::{
    findings,
    style::{Palette, Role},
    units::{Duration, GroupedCount, TimeOfDay},
    wrap::{Align, Shape, Span, TextRow, TextTable, flow},
};
use crate::event::{
    Accounting, Backends, CommandOutcome, ControlAccounting, OpAccounting, PROCESSES_NOT_INSPECTED,
    PendingCall, ResyncAccounting, SinkAccounting,
};
use crate::event::{
    escape::{escaped, quoted},
    tag::{NsTag, ProcessTag},
};

/// Cells of a queue's name: longer ones are cut.
const NAME_WIDTH: usize = 32;
/// Cells of a word of a command.
const WORD_WIDTH: usize = 48;
/// The largest number of pending calls listed.
const PENDING: usize = 20;

/// The backends of the operations: the most common one, then the exceptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackendsText<'a>(pub &'a Backends);

impl Display for BackendsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |name: &str| self.0.values().filter(|other| *other == name).count();
        let Some(usual) = self.0.values().map(AsRef::as_ref).max_by_key(|name| count(name)) else {
            return f.write_str("no backend");
        };
        write!(f, "backend {usual}")?;
        let mut before = " (";
        for (op, backend) in self.0.iter().filter(|(_, backend)| **backend != usual) {
            write!(f, "{before}{op} {backend}")?;
            before = ", ";
        }
        if before == ", " { f.write_char(')') } else { Ok(()) }
    }
}

/// Writes the accounting of calls, and what it means for the counts.
///
/// # Errors
/// Those of `out`.
pub(crate) fn accounting(
    out: &mut dyn fmt::Write,
    accounting: &Accounting,
    palette: Palette,
    width: usize,
) -> fmt::Result {
    let OpAccounting { seen, filtered, emitted, dropped, delivered, not_made } = accounting.total;
    let sum = format_args!(
        "seen {} = filtered {} + emitted {} + dropped {}",
        GroupedCount(seen),
        GroupedCount(filtered),
        GroupedCount(emitted),
        GroupedCount(dropped)
    )
    .to_string();
    let mut spans = vec![
        Span::new(Role::Plain, sum),
        Span::new(Role::Plain, format_args!("delivered {}", GroupedCount(delivered))),
    ];
    if not_made > 0 {
        let text =
            format_args!("{} {} not made by the kernel", GroupedCount(not_made), calls(not_made));
        spans.push(Span::new(Role::Plain, text));
    }
    let mut notes = accounting_notes(accounting);
    if notes.is_empty() {
        notes.push(Span::new(Role::Good, "nothing lost"));
    }
    spans.append(&mut notes);
    spans.append(&mut findings::omission_notes(&accounting.findings));
    flow(out, &spans, " · ", Shape { width, used: 0, indent: 2 }, palette)?;
    out.write_char('\n')
}

/// Calls that were not seen or not kept, one statement each; none if all were.
fn accounting_notes(accounting: &Accounting) -> Vec<Span> {
    let Accounting {
        total,
        missed,
        control,
        resyncs,
        diagnostics,
        findings: _,
        by_op: _,
        reader_max_ns: _,
        sinks,
    } = accounting;
    let OpAccounting { seen, filtered, emitted, dropped, delivered, not_made: _ } = *total;
    let mut said = Vec::new();
    let mut say = |text: &dyn Display| said.push(Span::new(Role::Loss, text));
    if *missed > 0 {
        say(&format_args!(
            "{} {} missed: counts are lower bounds",
            GroupedCount(*missed),
            calls(*missed)
        ));
    }
    if dropped > 0 {
        // If calls were missed as well, no count is exact.
        let exact = if *missed == 0 { "; counts and errors are exact" } else { "" };
        let (events, their) = if dropped == 1 { ("event", "its") } else { ("events", "their") };
        say(&format_args!("{} {events} lost {their} detail{exact}", GroupedCount(dropped)));
    }
    let parts = filtered.saturating_add(emitted).saturating_add(dropped);
    if seen != parts || emitted != delivered {
        say(&"the counts don't add up: a bug of ipc-trace, please report it");
    }
    let ControlAccounting { emitted, delivered, dropped, withheld } = *control;
    let lost_records = dropped.saturating_add(emitted.saturating_sub(delivered));
    if lost_records > 0 {
        say(&format_args!(
            "{} metadata records of namespaces and processes lost",
            GroupedCount(lost_records)
        ));
    }
    if withheld > 0 {
        say(&format_args!("{} times a thread's metadata was held back", GroupedCount(withheld)));
    }
    let ResyncAccounting { complete, partial, pending } = *resyncs;
    if complete + partial > 0 {
        let times = if complete + partial == 1 { "once" } else { "several times" };
        let in_part = if complete == 0 { ", never completely" } else { "" };
        say(&format_args!("resynchronized {times} after losses{in_part}"));
    }
    if pending && complete + partial > 0 {
        say(&"more was lost since");
    }
    if let Some(count) = diagnostics.get(Diagnostic::ManyDescriptors.name()) {
        let moves = if *count == 1 { "move" } else { "moves" };
        say(&format_args!(
            "{} {moves} of processes whose descriptors above 4,096 were not inspected",
            GroupedCount(*count)
        ));
    }
    if let Some(count) = diagnostics.get(PROCESSES_NOT_INSPECTED) {
        say(&format_args!(
            "{} times /proc was not read, as the limit was reached",
            GroupedCount(*count)
        ));
    }
    for SinkAccounting { lost, lost_other, .. } in sinks.values() {
        if lost + lost_other > 0 {
            say(&format_args!(
                "{} {} and {} other lines left out: what reads this is too slow",
                GroupedCount(*lost),
                calls(*lost),
                GroupedCount(*lost_other)
            ));
        }
    }
    said
}

/// `call` or `calls`.
pub(super) const fn calls(count: u64) -> &'static str {
    if count == 1 { "call" } else { "calls" }
}

/// Writes COMMAND's exit status on a line.
///
/// # Errors
/// Those of `out`.
pub(crate) fn command(
    out: &mut dyn fmt::Write,
    command: &CommandOutcome,
    palette: Palette,
    width: usize,
) -> fmt::Result {
    let CommandOutcome { argv, exit_code, signal } = command;
    let end = match (exit_code, signal) {
        (Some(0), _) => Span::new(Role::Good, "exit status 0"),
        (Some(code), _) => Span::new(Role::Error, format_args!("exit status {code}")),
        (None, Some(signal)) => {
            let signal = escaped(signal.as_bytes(), WORD_WIDTH);
            Span::new(Role::Error, format_args!("ended by {signal}"))
        }
        (None, None) => Span::new(Role::Plain, "still running"),
    };
    let mut words = String::from("command ");
    for word in argv {
        let bytes = word.as_bytes();
        let plain = !word.is_empty() && !word.contains([' ', '"', '\'']);
        // A word with spaces must not look like several.
        if plain {
            write!(words, "{} ", escaped(bytes, WORD_WIDTH))?;
        } else {
            write!(words, "{} ", quoted(bytes, WORD_WIDTH))?;
        }
    }
    let room = width.saturating_sub(end.width() + 2);
    let words = Span::new(Role::Plain, words.trim_end()).clipped(room);
    writeln!(out, "{}: {}", words.paint(palette), end.paint(palette))
}

/// Writes the calls that have not returned, the longest first, and an empty line; nothing if there are none.
///
/// # Errors
/// Those of `out`.
pub(crate) fn pending(
    out: &mut dyn fmt::Write,
    pending: &[PendingCall],
    palette: Palette,
    width: usize,
) -> fmt::Result {
    if pending.is_empty() {
        return Ok(());
    }
    let count = pending.len() as u64;
    let title = format!("{} {} had not returned", GroupedCount(count), calls(count));
    writeln!(out, "{}", palette.paint(Role::Heading, title))?;
    let mut sorted: Vec<&PendingCall> = pending.iter().collect();
    sorted.sort_by_key(|one| std::cmp::Reverse(one.for_ns));
    let table = TextTable {
        columns: &[
            ("FOR", Align::Right),
            ("OPERATION", Align::Left),
            ("NAMESPACE", Align::Left),
            ("PROCESS", Align::Left),
        ],
        notes: "OBJECT",
        rows: sorted.into_iter().take(PENDING).map(pending_row).collect(),
    };
    table.write(out, width, palette)?;
    match count.saturating_sub(PENDING as u64) {
        0 => {}
        more => writeln!(out, "  and {} more", GroupedCount(more))?,
    }
    writeln!(out)
}

fn pending_row(pending: &PendingCall) -> TextRow {
    let PendingCall { op, pid, tid, comm, ipc_ns, kind, id, mqdes, name, since, for_ns, .. } =
        pending;
    let plain = |text: &dyn Display| Span::new(Role::Plain, text);
    let mut notes = Vec::new();
    notes.extend(id.map(|id| plain(&format_args!("{kind} {id}"))));
    match (name, mqdes) {
        (Some(name), _) => {
            notes.push(plain(&format_args!("{kind} {}", quoted(&name.0, NAME_WIDTH))));
        }
        (None, Some(mqdes)) => notes.push(plain(&format_args!("mqdes {mqdes}"))),
        (None, None) => {}
    }
    notes.push(Span::new(Role::Dim, format_args!("since {}", TimeOfDay(*since))));
    if tid != pid {
        notes.push(Span::new(Role::Dim, format_args!("tid {tid}")));
    }
    TextRow {
        cells: vec![
            plain(&Duration(*for_ns)),
            plain(op),
            Span::new(Role::Namespace, NsTag::from(*ipc_ns)),
            plain(&ProcessTag::new(comm, *pid)),
        ],
        notes,
    }
}

/// `semop 14 s by worker[4242]`, the longest of them.
pub(super) fn longest(pending: &[PendingCall]) -> Option<String> {
    let longest = pending.iter().max_by_key(|one| one.for_ns)?;
    let by = ProcessTag::new(&longest.comm, longest.pid);
    Some(format!("{} {} by {by}", longest.op, Duration(longest.for_ns)))
}
