//! Findings: one line when they come, and in full in a report.

use std::fmt;

use super::{
    call::NS_WIDTH,
    style::{Palette, Role},
    tag::{ContainerTag, NsTag},
    units::Clock,
};
use crate::event::finding::{FindingLine, Severity};

/// How a severity looks.
const fn role(severity: Severity) -> Role {
    match severity {
        Severity::Info => Role::Dim,
        Severity::Low => Role::Heading,
        Severity::Medium => Role::Loss,
        Severity::High | Severity::Critical => Role::Alarm,
    }
}

/// Writes a finding's line.
///
/// # Errors
/// Those of `out`.
pub fn line(out: &mut dyn fmt::Write, line: &FindingLine<'_>, palette: Palette) -> fmt::Result {
    let FindingLine { seq: _, time, new: _, finding } = line;
    let tag = finding.subject.ipc_ns.map(|ns| NsTag::from(ns).to_string()).unwrap_or_default();
    let kind = format_args!(
        "{} {} {}%",
        finding.severity.name().to_uppercase(),
        finding.class,
        finding.confidence
    )
    .to_string();
    write!(
        out,
        "{}  {:<NS_WIDTH$} {}: {}",
        palette.paint(Role::Dim, Clock(*time)),
        palette.paint(Role::Namespace, tag),
        palette.paint(role(finding.severity), kind),
        finding.title,
    )?;
    if let Some(container) = &finding.subject.container {
        write!(out, " (in {})", ContainerTag(container))?;
    }
    writeln!(out)
}
