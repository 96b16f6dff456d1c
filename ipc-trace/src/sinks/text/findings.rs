//! Findings: one or two lines when they occur, a table when `live` ends, and in full in a report.

use std::fmt::{self, Display};

use super::{
    call::NS_WIDTH,
    style::{Palette, Role},
    units::{GroupedCount, SpanMoment, TimeOfDay},
    wrap::{Align, Shape, Span, TextRow, TextTable, flow},
};
use crate::event::{
    Process, ReadFrom,
    finding::{Evidence, Finding, FindingLine, FindingsAccounting, FoundObject, Severity},
    objects::Creator,
    value::Timestamp,
};
use crate::event::{
    escape::{escaped, quoted},
    tag::{ContainerTag, ContainerText, NsTag, ProcessTag, SysvKey},
};

/// The largest number of findings that a report shows in full.
const IN_FULL: usize = 25;
/// The largest number of findings in the table of `live`.
const LISTED: usize = 50;
/// The largest number of parents shown.
const PARENTS: usize = 6;
/// The largest number of kinds of events shown.
const KINDS: usize = 6;
/// Cells of the labels of a finding's lines.
const LABEL: usize = 13;
/// Cells of names and paths.
const NAME_WIDTH: usize = 64;
const PATH_WIDTH: usize = 100;

/// The role of a severity.
const fn role(severity: Severity) -> Role {
    match severity {
        Severity::Info => Role::Dim,
        Severity::Low => Role::Heading,
        Severity::Medium => Role::Loss,
        Severity::High | Severity::Critical => Role::Alarm,
    }
}

/// `HIGH foreign-object 95%`
fn kind(finding: &Finding) -> Span {
    let Finding { severity, class, confidence, .. } = finding;
    let text = format!("{} {class} {confidence}%", severity.name().to_uppercase());
    Span::new(role(*severity), text)
}

/// Writes a finding's line, and another one about its object.
///
/// # Errors
/// Those of `out`.
pub(crate) fn line(
    out: &mut dyn fmt::Write,
    line: &FindingLine<'_>,
    palette: Palette,
) -> fmt::Result {
    let FindingLine { seq: _, time, new: _, finding } = line;
    let tag = finding.subject.ipc_ns.map(|ns| NsTag::from(ns).to_string()).unwrap_or_default();
    writeln!(
        out,
        "{}  {:<NS_WIDTH$} {}: {}",
        palette.paint(Role::Dim, TimeOfDay(*time)),
        palette.paint(Role::Namespace, tag),
        kind(finding).paint(palette),
        finding.title,
    )?;
    let mut more = Vec::new();
    if let Some(container) = &finding.subject.container {
        more.push(format!("by container {}", ContainerText(container)));
    }
    let owner = finding.object.as_ref().and_then(|object| object.owner_container.as_ref());
    if let Some(owner) = owner {
        more.push(format!("object of container {}", ContainerText(owner)));
    }
    if let Some(rule) = &finding.declared_by {
        more.push(format!("declared by {}", escaped(rule.as_bytes(), NAME_WIDTH)));
    }
    if more.is_empty() {
        return Ok(());
    }
    // Aligned with the text of the line above: 12 cells of time, and two between.
    let indent = 12 + 2 + NS_WIDTH + 1;
    writeln!(out, "{:indent$}{}", "", palette.paint(Role::Dim, more.join(" · ")))
}

/// The findings with at least that confidence, and the number of the others.
fn sure(all: &[Finding], least: u8) -> (Vec<&Finding>, usize) {
    let sure: Vec<_> = all.iter().filter(|one| one.confidence >= least).collect();
    let unsure = all.len() - sure.len();
    (sure, unsure)
}

/// `3 findings: 1 high, 2 info`
struct Title<'a>(&'a [&'a Finding]);

impl Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "finding" } else { "findings" };
        write!(f, "{} {noun}", GroupedCount(self.0.len() as u64))?;
        let mut before = ": ";
        for severity in Severity::ALL.into_iter().rev() {
            let count = self.0.iter().filter(|one| one.severity == severity).count();
            if count > 0 {
                write!(f, "{before}{} {severity}", GroupedCount(count as u64))?;
                before = ", ";
            }
        }
        Ok(())
    }
}

fn unsure_ones(
    out: &mut dyn fmt::Write,
    unsure: usize,
    least: u8,
    palette: Palette,
) -> fmt::Result {
    if unsure == 0 {
        return Ok(());
    }
    let text = format!(
        "{} less sure than {least} % (--min-confidence 0 shows them, -o json has them)",
        GroupedCount(unsure as u64)
    );
    writeln!(out, "{}", palette.paint(Role::Dim, text))
}

/// Writes the findings of `live` as a table, and an empty line; nothing if there are none.
///
/// # Errors
/// Those of `out`.
pub(crate) fn summary(
    out: &mut dyn fmt::Write,
    all: &[Finding],
    least: u8,
    palette: Palette,
    width: usize,
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let (sure, unsure) = sure(all, least);
    writeln!(out)?;
    writeln!(out, "{}", palette.paint(Role::Heading, Title(&sure)))?;
    let row = |one: &&Finding| {
        let plain = |text: &dyn Display| Span::new(Role::Plain, text);
        let process = one.subject.process.as_ref();
        let process = process.map(|one| ProcessTag::new(&one.comm, one.pid).to_string());
        let object = one.object.as_ref().and_then(|object| object.ipc_ns);
        TextRow {
            cells: vec![
                plain(&one.id),
                kind(one),
                plain(&GroupedCount(one.count)),
                plain(&process.unwrap_or_default()),
                Span::new(
                    Role::Namespace,
                    object.map(|ns| NsTag::from(ns).to_string()).unwrap_or_default(),
                ),
            ],
            notes: vec![Span::new(Role::Dim, format_args!("last {}", TimeOfDay(one.last)))],
        }
    };
    if !sure.is_empty() {
        let table = TextTable {
            columns: &[
                ("ID", Align::Right),
                ("FINDING", Align::Left),
                ("TIMES", Align::Right),
                ("PROCESS", Align::Left),
                ("NAMESPACE", Align::Left),
            ],
            notes: "",
            rows: sure.iter().take(LISTED).map(row).collect(),
        };
        table.write(out, width, palette)?;
    }
    and_more(out, sure.len(), LISTED)?;
    unsure_ones(out, unsure, least, palette)
}

fn and_more(out: &mut dyn fmt::Write, all: usize, shown: usize) -> fmt::Result {
    match all.saturating_sub(shown) {
        0 => Ok(()),
        more => writeln!(out, "  and {} more (-o json has them)", GroupedCount(more as u64)),
    }
}

/// Writes all findings in full, the most severe first, and an empty line before each; nothing if there are none.
///
/// # Errors
/// Those of `out`.
pub(crate) fn in_full(
    out: &mut dyn fmt::Write,
    all: &[Finding],
    (least, started): (u8, Timestamp),
    palette: Palette,
    width: usize,
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let (sure, unsure) = sure(all, least);
    writeln!(out)?;
    writeln!(out, "{}", palette.paint(Role::Heading, Title(&sure)))?;
    unsure_ones(out, unsure, least, palette)?;
    for finding in sure.iter().take(IN_FULL) {
        writeln!(out)?;
        Full { finding, started, palette, width }.write(out)?;
    }
    and_more(out, sure.len(), IN_FULL)
}

/// One finding.
#[derive(Clone, Copy)]
struct Full<'a> {
    finding: &'a Finding,
    started: Timestamp,
    palette: Palette,
    width: usize,
}

impl Full<'_> {
    /// `label     words, wrapped below one another`
    fn words(&self, out: &mut dyn fmt::Write, label: &str, text: &str) -> fmt::Result {
        let words: Vec<_> = text.split(' ').map(|word| Span::new(Role::Plain, word)).collect();
        self.labelled(out, label, &words, " ")
    }

    fn labelled(
        &self,
        out: &mut dyn fmt::Write,
        label: &str,
        spans: &[Span],
        between: &str,
    ) -> fmt::Result {
        write!(out, "  {}", self.palette.paint(Role::Dim, format_args!("{label:<LABEL$}")))?;
        let shape = Shape { width: self.width, used: LABEL + 2, indent: LABEL + 2 };
        flow(out, spans, between, shape, self.palette)?;
        writeln!(out)
    }

    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Self { finding, started, palette, .. } = *self;
        let moment = |time| SpanMoment { time, started };
        let id = palette.paint(Role::Dim, format!("#{}", finding.id));
        writeln!(out, "{} {id}", kind(finding).paint(palette))?;
        self.words(out, "what", &finding.title)?;
        self.labelled(out, "who", &self.who(), " · ")?;
        let parents = self.parents();
        if !parents.is_empty() {
            self.words(out, "parents", &parents)?;
        }
        if let Some(object) = &finding.object {
            self.labelled(out, "object", &whose(object), " · ")?;
        }
        let times = if finding.count == 1 { "once" } else { "times" };
        let often = match finding.count {
            1 => times.to_owned(),
            count => format!("{} {times}", GroupedCount(count)),
        };
        let when = match finding.first == finding.last {
            true => format!("{often}, {}", moment(finding.first)),
            false => {
                format!("{often}, first {}, last {}", moment(finding.first), moment(finding.last))
            }
        };
        self.words(out, "when", &when)?;
        self.words(out, "events", &events(&finding.events))?;
        for (at, reason) in finding.reasons.iter().enumerate() {
            let label = if at == 0 { "confidence" } else { "" };
            self.words(out, label, &format!("{:+} {}", reason.weight, reason.text))?;
        }
        if let Some(rule) = &finding.declared_by {
            let rule = escaped(rule.as_bytes(), NAME_WIDTH).to_string();
            return self.words(out, "declared", &format!("by {rule}"));
        }
        self.words(out, "may also be", &finding.benign_explanation)?;
        let rule = finding.policy.as_deref().unwrap_or_default();
        for (at, line) in rule.lines().enumerate() {
            let label = if at == 0 { "allow with" } else { "" };
            // Meant to be copied: neither cut nor wrapped.
            writeln!(out, "  {}{line}", palette.paint(Role::Dim, format_args!("{label:<LABEL$}")))?;
        }
        Ok(())
    }

    fn who(&self) -> Vec<Span> {
        let subject = &self.finding.subject;
        let mut spans = Vec::new();
        if let Some(process) = &subject.process {
            let Process { pid, comm, exe, uid, .. } = process;
            spans.push(Span::new(Role::Heading, ProcessTag::new(comm, *pid)));
            if let Some(exe) = exe {
                spans.push(Span::new(Role::Plain, escaped(&exe.0, PATH_WIDTH)));
            }
            spans.push(Span::new(Role::Plain, format_args!("uid {uid}")));
        }
        spans.push(match &subject.container {
            Some(container) => {
                Span::new(Role::Plain, format_args!("container {}", ContainerText(container)))
            }
            None => Span::new(Role::Plain, "in no container"),
        });
        if let Some(ns) = subject.ipc_ns {
            let text = format_args!("in namespace {}", NsTag::from(ns)).to_string();
            spans.push(Span::new(Role::Plain, text));
        }
        spans
    }

    fn parents(&self) -> String {
        let process = self.finding.subject.process.as_ref();
        let Some(all) = process.and_then(|process| process.identity.ancestry.as_ref()) else {
            return String::new();
        };
        let named: Vec<_> = all
            .iter()
            .take(PARENTS)
            .map(|one| ProcessTag::new(&one.comm, one.pid).to_string())
            .collect();
        let more = if all.len() > PARENTS { " ← …" } else { "" };
        format!("{}{more}", named.join(" ← "))
    }
}

fn whose(object: &FoundObject) -> Vec<Span> {
    let FoundObject {
        kind,
        id,
        key,
        name,
        name_from,
        ipc_ns,
        foreign: _,
        ipc_ns_dead,
        owner_container,
        owner_on_host,
        creator,
    } = object;
    let plain = |text: &dyn Display| Span::new(Role::Plain, text);
    let mut spans = Vec::new();
    let kind = kind.map(|kind| format!("{kind} ")).unwrap_or_default();
    spans.extend(id.map(|id| plain(&format_args!("{kind}{id}"))));
    spans.extend(key.map(|key| plain(&format_args!("key {}", SysvKey(key)))));
    if let Some(name) = name.as_ref().filter(|name| !name.0.is_empty()) {
        let given = match name_from {
            None | Some(ReadFrom::Kernel) => "",
            Some(ReadFrom::Entry | ReadFrom::Return) => ", as the caller gave it",
        };
        spans.push(plain(&format_args!("{kind}{}{given}", quoted(&name.0, NAME_WIDTH))));
    }
    if let Some(ns) = ipc_ns {
        let dead = if *ipc_ns_dead { ", which is dead" } else { "" };
        spans.push(Span::new(
            Role::Namespace,
            format_args!("namespace {}{dead}", NsTag::from(*ns)).to_string(),
        ));
    }
    match (owner_container, owner_on_host) {
        (Some(owner), _) => spans.push(plain(&format_args!("container {}", ContainerTag(owner)))),
        (None, Some(true)) => spans.push(plain(&"of the host")),
        (None, Some(false) | None) => {}
    }
    if let Some(Creator { pid, uid, comm, .. }) = creator {
        spans.push(match (comm, pid) {
            (Some(comm), Some(pid)) => {
                plain(&format_args!("made by {}, uid {uid}", ProcessTag::new(comm, *pid)))
            }
            (_, Some(pid)) => plain(&format_args!("made by process {pid}, uid {uid}")),
            (_, None) => plain(&format_args!("made by uid {uid}")),
        });
    }
    if spans.is_empty() {
        spans.push(Span::new(Role::Dim, "not known"));
    }
    spans
}

/// `mq_send ×990, mq_receive EAGAIN ×10`: the stored kinds of events, each with its count.
fn events(all: &[Evidence]) -> String {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for one in all {
        let what = match one.error {
            Some(error) => format!("{} {error}", one.what),
            None => one.what.to_string(),
        };
        match kinds.iter_mut().find(|known| known.0 == what) {
            Some(known) => known.1 = known.1.saturating_add(one.count),
            None => kinds.push((what, one.count)),
        }
    }
    let more = kinds.len().saturating_sub(KINDS);
    let named: Vec<_> = kinds
        .iter()
        .take(KINDS)
        .map(|(what, count)| match count {
            1 => what.clone(),
            count => format!("{what} ×{}", GroupedCount(*count)),
        })
        .collect();
    let mut text = named.join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more kinds"));
    }
    text
}

/// Findings that are not shown, one statement each; none if all are.
pub(super) fn omission_notes(accounting: &FindingsAccounting) -> Vec<Span> {
    let FindingsAccounting { by_class: _, muted: _, muted_by, folded, over_limit, undetermined } =
        accounting;
    let mut said = Vec::new();
    let mut say = |role, text: fmt::Arguments<'_>| said.push(Span::new(role, text));
    let of = |count: u64| if count == 1 { "finding" } else { "findings" };
    let muted: u64 = muted_by.values().sum();
    if muted > 0 {
        let rules: Vec<_> = muted_by
            .iter()
            .take(KINDS)
            .map(|(rule, count)| {
                let name = escaped(rule.as_bytes(), NAME_WIDTH);
                match muted_by.len() {
                    1 => format!("\"{name}\""),
                    _ => format!("\"{name}\" {}", GroupedCount(*count)),
                }
            })
            .collect();
        let more = if muted_by.len() > KINDS { ", …" } else { "" };
        let rules = rules.join(", ");
        let noun = of(muted);
        say(Role::Plain, format_args!("{} {noun} muted by {rules}{more}", GroupedCount(muted)));
    }
    if *folded > 0 {
        say(Role::Plain, format_args!("{} old {} not kept", GroupedCount(*folded), of(*folded)));
    }
    if !over_limit.is_empty() {
        let classes: Vec<_> = over_limit
            .iter()
            .map(|(class, count)| format!("{class} {}", GroupedCount(*count)))
            .collect();
        say(Role::Loss, format_args!("no room for more findings: {}", classes.join(", ")));
    }
    if *undetermined > 0 {
        let text = "ways to objects whose namespace is not known";
        say(Role::Loss, format_args!("{} {text}", GroupedCount(*undetermined)));
    }
    said
}

#[cfg(test)]
mod tests;
