//! The output of `policy check`: the rules of a file in words.

use std::{fmt::Write as _, time::SystemTime};

use super::{Action, Policy, Rule};
use crate::event::escape::escaped;

/// The rules in evaluation order, one per line.
#[must_use]
pub(crate) fn text(policy: &Policy, now: SystemTime) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    for rule in policy.rules() {
        let _ = writeln!(text, "{}", line(rule, now));
    }
    let expired = policy.rules().iter().filter(|rule| !rule.holds(now)).count();
    let _ = match (policy.rules().len(), expired) {
        (1, 0) => writeln!(text, "1 rule"),
        (count, 0) => writeln!(text, "{count} rules"),
        (count, expired) => writeln!(text, "{count} rules, {expired} of them expired"),
    };
    text
}

fn line(rule: &Rule, now: SystemTime) -> String {
    let action = match rule.action {
        Action::Allow | Action::Mute => rule.action.table(),
        Action::Severity(severity) => severity.name(),
    };
    let mut line = format!("{action:<8} {}: ", escaped(rule.name.as_bytes(), usize::MAX));
    match rule.classes.as_slice() {
        [] => line.push_str("any class"),
        classes => {
            let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
            line.push_str(&names.join(", "));
        }
    }
    for (side, asked) in [("subject", &rule.subject), ("object", &rule.object)] {
        if !asked.is_empty() {
            let names: Vec<_> = asked.iter().map(|one| one.what.name()).collect();
            let _ = write!(line, "; {side} by {}", names.join(", "));
        }
    }
    if let Some(until) = &rule.until {
        let holds = if rule.holds(now) { "until" } else { "EXPIRED" };
        let _ = write!(line, "; {holds} {}", until.text);
    }
    line
}
