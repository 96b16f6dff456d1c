//! Parses a policy to its rules, or to all of its problems with their positions.
//!
//! Invariant: text of the file is escaped and cut in messages.

use std::{fmt, ops::Range, path::PathBuf, time::Duration};

use ipc_trace_common::op::ObjectKind;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
    value::Datetime,
};

use super::{
    Action, Expiry, MAX_RULES, Policy, Rule,
    conditions::{Attribute, Condition, Matcher},
};
use crate::input::pattern::Pattern;
use crate::{
    event::escape::{escaped, quoted},
    event::finding::{Class, Severity},
};

/// Number of problems listed; the others are counted.
const MAX_SHOWN: usize = 20;
/// Maximal number of values of a condition.
const MAX_VALUES: usize = 256;
/// Maximal length of a rule's name and of its reason, in characters.
const MAX_NAME_CHARS: usize = 100;
const MAX_REASON_CHARS: usize = 500;

/// A problem of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Line and column, from 1; `None`: the problem is about the complete file.
    pub at: Option<(usize, usize)>,
    /// What is wrong.
    pub text: String,
    /// How to fix it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of the complete file.
    #[must_use]
    pub(crate) const fn of_file(text: String) -> Self {
        Self { at: None, text, hint: None }
    }
}

/// An invalid policy file.
#[derive(Debug, thiserror::Error)]
pub(crate) struct PolicyError {
    /// The file.
    pub file: PathBuf,
    /// Its problems, in the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt as _;
        let file = escaped(self.file.as_os_str().as_bytes(), usize::MAX);
        for (number, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            if number > 0 {
                f.write_str("\n  ")?;
            }
            match problem.at {
                Some((line, column)) => write!(f, "{file}:{line}:{column}: {}", problem.text)?,
                None => write!(f, "{file}: {}", problem.text)?,
            }
            if let Some(hint) = &problem.hint {
                write!(f, "; {hint}")?;
            }
        }
        match self.problems.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// The keys of a rule's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleKey {
    /// The rule's name.
    Name,
    /// Why the rule exists.
    Reason,
    /// The classes that it applies to.
    Class,
    /// Conditions on the subject.
    Subject,
    /// Conditions on the object and its owner.
    Object,
    /// When it expires.
    Until,
    /// The severity that it sets.
    Set,
}

impl RuleKey {
    /// All keys, in the order of the documentation.
    pub(crate) const ALL: [Self; 7] = [
        Self::Name,
        Self::Reason,
        Self::Class,
        Self::Subject,
        Self::Object,
        Self::Until,
        Self::Set,
    ];

    /// The key in the file.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Reason => "reason",
            Self::Class => "class",
            Self::Subject => "subject",
            Self::Object => "object",
            Self::Until => "until",
            Self::Set => "set",
        }
    }
}

/// The tables of a policy, in evaluation order.
pub(crate) const TABLES: [Action; 3] =
    [Action::Mute, Action::Allow, Action::Severity(Severity::Low)];

/// Parses a policy's text to rules.
///
/// # Errors
/// The text isn't a valid policy; the error lists its problems.
pub(crate) fn policy(
    bytes: &[u8],
    user: &dyn Fn(&str) -> Result<u32, String>,
) -> Result<Policy, Vec<Problem>> {
    let source = match std::str::from_utf8(bytes) {
        Ok(source) => source,
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let at = place(&String::from_utf8_lossy(good), good.len());
            let text = "a byte that is no UTF-8".to_owned();
            return Err(vec![Problem { at: Some(at), text, hint: None }]);
        }
    };
    let mut reader = RuleReader { source, problems: Vec::new(), user };
    let (table, errors) = DeTable::parse_recoverable(source);
    if errors.is_empty() {
        let rules = reader.rules(table.get_ref());
        if reader.problems.is_empty() {
            return Ok(Policy { rules });
        }
    }
    for error in errors {
        let text = escaped(error.message().as_bytes(), 200).to_string();
        reader.problem(error.span().unwrap_or_default(), text, None);
    }
    reader.problems.sort_by_key(|problem| problem.at);
    Err(reader.problems)
}

/// Line and column of a byte offset.
fn place(source: &str, byte: usize) -> (usize, usize) {
    let before = source.get(..byte).unwrap_or(source);
    let line = before.rfind('\n').map_or(before, |at| before.get(at + 1..).unwrap_or_default());
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The name most similar to a misspelt one.
fn meant<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: String = wrong.chars().take(32).flat_map(char::to_lowercase).collect();
    let near = names.map(|name| (strsim::osa_distance(&wrong, name), name)).min();
    near.filter(|(distance, name)| *distance <= name.len().div_ceil(3)).map(|near| near.1)
}

/// A hint for a wrong word.
fn instead<'a>(wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    match meant(wrong, names.clone()) {
        Some(name) => format!("did you mean {name:?}?"),
        None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
    }
}

type RuleValue<'a> = Spanned<DeValue<'a>>;

struct RuleReader<'s> {
    source: &'s str,
    problems: Vec<Problem>,
    user: &'s dyn Fn(&str) -> Result<u32, String>,
}

impl RuleReader<'_> {
    fn problem(&mut self, span: Range<usize>, text: String, hint: Option<String>) {
        let at = Some(place(self.source, span.start));
        self.problems.push(Problem { at, text, hint });
    }

    fn unknown<'a>(
        &mut self,
        span: Range<usize>,
        kind: &str,
        wrong: &str,
        names: impl Iterator<Item = &'a str> + Clone,
    ) {
        let text = format!("unknown {kind} {}", quoted(wrong.as_bytes(), 40));
        self.problem(span, text, Some(instead(wrong, names)));
    }

    fn expected(&mut self, value: &RuleValue<'_>, wanted: &str) {
        let text = format!("expected {wanted}, found: {}", value.get_ref().type_str());
        self.problem(value.span(), text, None);
    }

    fn rules(&mut self, table: &DeTable<'_>) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            let Some(action) = TABLES.into_iter().find(|action| action.table() == word) else {
                self.unknown(key.span(), "table", word, TABLES.iter().map(|action| action.table()));
                continue;
            };
            // Accept [allow] for [[allow]]: the intent is the same.
            match value.get_ref() {
                DeValue::Array(many) => {
                    for one in many {
                        rules.extend(self.rule(action, one));
                    }
                }
                DeValue::Table(_) => rules.extend(self.rule(action, value)),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => self.expected(value, &format!("[[{word}]] and its keys")),
            }
        }
        if rules.len() > MAX_RULES {
            let text = format!("it has {} rules: {MAX_RULES} are the most", rules.len());
            self.problems.push(Problem::of_file(text));
        }
        rules.sort_by_key(|rule| rule.line);
        let mut names = std::collections::BTreeMap::new();
        for rule in &rules {
            if let Some(before) = names.insert(rule.name.clone(), rule.line) {
                let text = format!(
                    "a second rule called {}",
                    quoted(rule.name.as_bytes(), MAX_NAME_CHARS)
                );
                let hint = Some(format!("the first one is in line {before}"));
                self.problems.push(Problem { at: Some((rule.line, 1)), text, hint });
            }
        }
        let order =
            |rule: &Rule| TABLES.iter().position(|action| action.table() == rule.action.table());
        rules.sort_by_key(order);
        rules
    }

    fn rule(&mut self, action: Action, value: &RuleValue<'_>) -> Option<Rule> {
        let Some(table) = value.get_ref().as_table() else {
            self.expected(value, "a rule: a table of keys");
            return None;
        };
        let wrong = self.problems.len();
        let takes = |key: &RuleKey| *key != RuleKey::Set || matches!(action, Action::Severity(_));
        let mut rule = Rule {
            name: String::new(),
            reason: None,
            action,
            classes: Vec::new(),
            subject: Vec::new(),
            object: Vec::new(),
            until: None,
            line: place(self.source, value.span().start).0,
        };
        let mut set = None;
        for (word, value) in table {
            let known = RuleKey::ALL.iter().find(|key| key.name() == word.get_ref().as_ref());
            let Some(key) = known.filter(|key| takes(key)) else {
                let kind = format!("key of [[{}]]", action.table());
                let names = RuleKey::ALL.iter().filter(|key| takes(key)).map(|key| key.name());
                self.unknown(word.span(), &kind, word.get_ref(), names);
                continue;
            };
            match key {
                RuleKey::Name => {
                    rule.name = self.line_of_text(value, MAX_NAME_CHARS).unwrap_or_default()
                }
                RuleKey::Reason => rule.reason = self.line_of_text(value, MAX_REASON_CHARS),
                RuleKey::Class => rule.classes = self.classes(value),
                RuleKey::Subject => {
                    rule.subject = self.side(value, "subject", Attribute::of_subject)
                }
                RuleKey::Object => rule.object = self.side(value, "object", Attribute::of_object),
                RuleKey::Until => rule.until = self.until(value),
                RuleKey::Set => set = self.severity(value),
            }
        }
        if self.problems.len() > wrong {
            return None;
        }
        let mut missing = Vec::new();
        if rule.name.is_empty() {
            missing.push("a name");
        }
        match (action, set) {
            (Action::Severity(_), Some(severity)) => rule.action = Action::Severity(severity),
            (Action::Severity(_), None) => missing.push("what to set"),
            (Action::Allow | Action::Mute, _) => {}
        }
        if action == Action::Mute && rule.reason.is_none() {
            missing.push("a reason");
        }
        let anybody = rule.subject.is_empty() && rule.object.is_empty();
        if anybody && (rule.classes.is_empty() || action == Action::Allow) {
            missing.push(match action {
                Action::Allow => "a subject or an object",
                Action::Mute | Action::Severity(_) => "a class, a subject or an object",
            });
        }
        if missing.is_empty() {
            return Some(rule);
        }
        let text = format!("[[{}]] lacks {}", action.table(), missing.join(" and "));
        self.problem(value.span(), text, None);
        None
    }

    /// A string of one line.
    fn line_of_text(&mut self, value: &RuleValue<'_>, longest: usize) -> Option<String> {
        let Some(text) = value.get_ref().as_str() else {
            self.expected(value, "a string");
            return None;
        };
        let length = text.chars().count();
        if text.trim().is_empty() || length > longest || text.chars().any(char::is_control) {
            let wanted = format!("one line of at most {longest} characters, not {length}");
            self.problem(value.span(), format!("expected {wanted}"), None);
            return None;
        }
        Some(text.to_owned())
    }

    /// A value, or each value of a list.
    fn each<T>(
        &mut self,
        value: &RuleValue<'_>,
        mut one: impl FnMut(&mut Self, &RuleValue<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(list) = value.get_ref().as_array() else {
            return one(self, value).into_iter().collect();
        };
        if list.is_empty() || list.len() > MAX_VALUES {
            let text = format!("a list of 1 to {MAX_VALUES} values, not {}", list.len());
            self.problem(value.span(), format!("expected {text}"), None);
            return Vec::new();
        }
        list.iter().filter_map(|value| one(self, value)).collect()
    }

    /// One of the given words.
    fn word<T: Copy>(
        &mut self,
        value: &RuleValue<'_>,
        kind: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let Some(word) = value.get_ref().as_str() else {
            self.expected(value, &format!("the name of a {kind}"));
            return None;
        };
        let known = all.iter().copied().find(|one| name(*one) == word);
        if known.is_none() {
            let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
            self.unknown(value.span(), kind, word, names.into_iter());
        }
        known
    }

    fn classes(&mut self, value: &RuleValue<'_>) -> Vec<Class> {
        self.each(value, |this, one| this.word(one, "class", &Class::ALL, Class::name))
    }

    fn severity(&mut self, value: &RuleValue<'_>) -> Option<Severity> {
        self.word(value, "severity", &Severity::ALL, Severity::name)
    }

    fn side(
        &mut self,
        value: &RuleValue<'_>,
        side: &str,
        takes: impl Fn(Attribute) -> bool,
    ) -> Vec<Condition> {
        let Some(table) = value.get_ref().as_table() else {
            self.expected(value, "a table, like { container = \"app\" }");
            return Vec::new();
        };
        let mut all = Vec::new();
        for (word, value) in table {
            let known =
                Attribute::ALL.into_iter().find(|what| what.name() == word.get_ref().as_ref());
            let Some(what) = known.filter(|what| takes(*what)) else {
                let names = Attribute::ALL.into_iter().filter(|what| takes(*what));
                let names = names.map(Attribute::name).collect::<Vec<_>>();
                let kind = format!("key of a rule's {side}");
                self.unknown(word.span(), &kind, word.get_ref(), names.into_iter());
                continue;
            };
            let any = self.each(value, |this, one| this.want(what, one));
            all.push(Condition { what, any });
        }
        if table.is_empty() {
            self.problem(value.span(), format!("an empty {side}"), Some("leave it out".to_owned()));
        }
        all
    }

    fn want(&mut self, what: Attribute, value: &RuleValue<'_>) -> Option<Matcher> {
        let text = value.get_ref().as_str();
        let number = value
            .get_ref()
            .as_integer()
            .map(|number| u32::from_str_radix(number.as_str(), number.radix()));
        match (what, text, number, value.get_ref().as_bool()) {
            (Attribute::Container, _, _, Some(there)) => {
                Some(if there { Matcher::Some } else { Matcher::None })
            }
            (Attribute::User, Some(name), ..) => {
                self.or_problem(value, (self.user)(name), Matcher::Number)
            }
            (Attribute::User | Attribute::IpcNs | Attribute::Key, _, Some(number), _) => {
                let number = number.map_err(|_| "expected a number below 2^32".to_owned());
                self.or_problem(value, number, Matcher::Number)
            }
            (Attribute::IpcNs, Some("host"), ..) => Some(Matcher::Host),
            (Attribute::Key, Some(key), ..) => self.or_problem(value, key_of(key), Matcher::Number),
            (Attribute::Kind, ..) => {
                self.word(value, "kind", &ObjectKind::ALL, ObjectKind::name).map(Matcher::Kind)
            }
            (Attribute::IpcNs, ..) => {
                self.expected(value, "the number of a namespace, or \"host\"");
                None
            }
            (Attribute::Key, ..) => {
                self.expected(value, "a key, like \"0x0052e2c1\"");
                None
            }
            (Attribute::User, ..) => {
                self.expected(value, "a user's name or number");
                None
            }
            (_, Some(text), ..) => self.or_problem(value, Pattern::new(text), Matcher::Text),
            (Attribute::Container, ..) => {
                self.expected(value, "a container's name or id, or false: in none");
                None
            }
            (
                Attribute::Image
                | Attribute::Pod
                | Attribute::PodNamespace
                | Attribute::Label
                | Attribute::Cgroup
                | Attribute::Exe
                | Attribute::Comm
                | Attribute::Name,
                ..,
            ) => {
                self.expected(value, "a string");
                None
            }
        }
    }

    fn or_problem<T>(
        &mut self,
        value: &RuleValue<'_>,
        result: Result<T, String>,
        want: impl FnOnce(T) -> Matcher,
    ) -> Option<Matcher> {
        match result {
            Ok(good) => Some(want(good)),
            Err(why) => {
                let shown = value.get_ref().as_str().unwrap_or_default();
                let text = match shown {
                    "" => why,
                    shown => format!("{}: {why}", quoted(shown.as_bytes(), 40)),
                };
                self.problem(value.span(), text, None);
                None
            }
        }
    }

    fn until(&mut self, value: &RuleValue<'_>) -> Option<Expiry> {
        let end = value.get_ref().as_datetime().map(|at| (at, end_of(at)));
        match end {
            Some((at, Some(end))) => Some(Expiry { text: at.to_string(), end }),
            Some((_, None)) => {
                let text = "a time without a date, of no zone, or before 1970".to_owned();
                self.problem(
                    value.span(),
                    text,
                    Some("write 2030-01-31, or 2030-01-31T18:00:00Z".to_owned()),
                );
                None
            }
            None => {
                self.expected(value, "a day without quotes, like 2030-01-31");
                None
            }
        }
    }
}

fn key_of(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = match digits {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "no key: write it as 0x and its digits".to_owned())
}

/// The end of a date (in UTC) or the given time.
fn end_of(at: &Datetime) -> Option<std::time::SystemTime> {
    let date = at.date?;
    let minutes = match (at.time, at.offset) {
        (None, None) => 0,
        (_, Some(toml::value::Offset::Z)) => 0,
        (_, Some(toml::value::Offset::Custom { minutes })) => i64::from(minutes),
        (Some(_), None) => return None,
    };
    let text = match at.time {
        Some(time) => format!("{date}T{time}Z"),
        None => format!("{date}T23:59:59.999999999Z"),
    };
    let end = humantime::parse_rfc3339(&text).ok()?;
    // Time zones ahead of UTC end earlier.
    let seconds = Duration::from_secs(minutes.unsigned_abs() * 60);
    if minutes > 0 { end.checked_sub(seconds) } else { end.checked_add(seconds) }
}
