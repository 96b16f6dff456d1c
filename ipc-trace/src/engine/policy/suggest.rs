//! Suggests the rule that would allow a finding: as narrow as possible while still matching the same finding
//! in later runs.

use std::fmt::Write as _;

use ipc_trace_common::op::ObjectKind;

use super::{
    conditions::Attribute,
    finding_view::{ContainerScope, FindingView, Party},
};
use crate::input::pattern::literally;
use crate::{event::escape::escaped, event::finding::About};

/// A rule, in TOML, that allows a finding.
///
/// Attributes that change between runs (ids of processes and objects, numbers of namespaces) are left out
/// unless the finding has no others. `None`: the finding has no known attributes.
#[must_use]
pub(crate) fn suggest(case: &FindingView<'_>) -> Option<String> {
    let object = object(case);
    let subject = match case.class.about() {
        About::Object if !object.is_empty() => SuggestionFields::new(),
        About::Process => subject(&case.subject, true),
        About::Container | About::Object => subject(&case.subject, false),
    };
    if subject.is_empty() && object.is_empty() {
        return None;
    }
    let mut text = String::from("[[allow]]\n");
    let class = case.class.name();
    let mut name = class.to_owned();
    if let Some((_, who)) = subject.first() {
        name.push_str(" by ");
        name.push_str(&short(who));
    }
    // Writing to a string can't fail.
    let _ = writeln!(text, "name = {}", quoted(&name));
    let _ = writeln!(text, "reason = {}", quoted("say why this is allowed"));
    let _ = writeln!(text, "class = {}", quoted(class));
    for (side, asked) in [("subject", &subject), ("object", &object)] {
        if !asked.is_empty() {
            let all: Vec<_> =
                asked.iter().map(|(what, value)| format!("{} = {value}", what.name())).collect();
            let _ = writeln!(text, "{side} = {{ {} }}", all.join(", "));
        }
    }
    Some(text)
}

/// A TOML string on one line, safe for a terminal.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        let plain = escaped(char.encode_utf8(&mut [0; 4]).as_bytes(), usize::MAX).to_string();
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if plain.chars().eq([char]) => quoted.push(char),
            // Writing to a string can't fail.
            char => drop(write!(quoted, "\\U{:08x}", u32::from(char))),
        }
    }
    quoted.push('"');
    quoted
}

/// A value shortened for a rule's name.
fn short(value: &str) -> String {
    let plain = |c: &char| c.is_alphanumeric() || "-_./:@".contains(*c);
    match value {
        "false" => "a process of the host".to_owned(),
        value => value.chars().filter(plain).take(60).collect(),
    }
}

type SuggestionFields = Vec<(Attribute, String)>;

fn text(name: &[u8]) -> String {
    quoted(&literally(name))
}

fn scope(scope: ContainerScope<'_>, asked: &mut SuggestionFields) {
    match scope {
        ContainerScope::Unknown => {}
        ContainerScope::Host => asked.push((Attribute::Container, "false".to_owned())),
        ContainerScope::Container(container) => {
            let name = container.name.as_ref().unwrap_or(&container.id);
            asked.push((Attribute::Container, text(&name.0)));
        }
    }
}

fn namespace(side: &Party<'_>, asked: &mut SuggestionFields) {
    match side.ipc_ns {
        Some((_, true)) => asked.push((Attribute::IpcNs, "\"host\"".to_owned())),
        Some((inum, false)) if asked.is_empty() => asked.push((Attribute::IpcNs, inum.to_string())),
        Some(_) | None => {}
    }
}

fn subject(side: &Party<'_>, process: bool) -> SuggestionFields {
    let mut asked = SuggestionFields::new();
    scope(side.scope, &mut asked);
    if !process && !asked.is_empty() {
        return asked;
    }
    if let Some(exe) = side.exe.filter(|exe| !exe.is_empty()) {
        asked.push((Attribute::Exe, text(exe)));
    }
    if let (Some(uid), false) = (side.uid, matches!(side.scope, ContainerScope::Container(_))) {
        asked.push((Attribute::User, uid.to_string()));
    }
    if asked.is_empty() {
        namespace(side, &mut asked);
    }
    asked
}

fn object(case: &FindingView<'_>) -> SuggestionFields {
    let mut asked = SuggestionFields::new();
    scope(case.owner.scope, &mut asked);
    namespace(&case.owner, &mut asked);
    if let Some(kind) = case.kind {
        asked.push((Attribute::Kind, format!("\"{}\"", kind.name())));
    }
    if let Some(key) = case.key.filter(|key| *key != 0) {
        asked.push((Attribute::Key, format!("\"{key:#010x}\"")));
    }
    if let (Some(name @ [_, ..]), Some(ObjectKind::Mq), true) =
        (case.name, case.kind, case.name_is_proven)
    {
        asked.push((Attribute::Name, text(name)));
    }
    asked
}
