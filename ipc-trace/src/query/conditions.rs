//! The part of a WHERE that chooses what is decoded: conditions that SQLite checks again.

use std::time::{Duration, SystemTime};

use rusqlite::vtab::IndexConstraintOp;

use crate::event::{Ipc, value::OsBytes};

/// Conditions on rows. All must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// The first time, nanoseconds since 1970
    pub since_ns: Option<i64>,
    /// The last time, likewise
    pub until_ns: Option<i64>,
    /// The host
    pub host: Option<String>,
    /// The process
    pub pid: Option<i64>,
    /// The operation
    pub op: Option<String>,
    /// The inode number of the caller's namespace
    pub ipc_ns: Option<i64>,
    /// The container's name, or its id
    pub container: Option<String>,
    /// Whether some of them contradict each other
    pub is_none: bool,
}

/// A value that a column is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number
    Integer(i64),
    /// Text
    Text(String),
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnComparison {
    /// `=`
    Equal,
    /// `>` and `>=`
    From,
    /// `<` and `<=`
    UpTo,
}

impl ColumnComparison {
    /// Its sign in the index string.
    pub(super) const fn sign(self) -> char {
        match self {
            Self::Equal => '=',
            Self::From => '>',
            Self::UpTo => '<',
        }
    }

    pub(super) fn of_sign(sign: char) -> Option<Self> {
        [Self::Equal, Self::From, Self::UpTo].into_iter().find(|one| one.sign() == sign)
    }

    /// What is used of a constraint on a column; `None`: nothing.
    pub(super) fn used(column: &str, op: IndexConstraintOp) -> Option<Self> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "others are not used")]
        let comparison = match op {
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Self::Equal,
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT
            | IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => Self::From,
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT
            | IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => Self::UpTo,
            _ => return None,
        };
        let is_used = match column {
            "time" | "time_ns" | "date" => true,
            "host" | "pid" | "op" | "ipc_ns" | "container" => comparison == Self::Equal,
            _ => false,
        };
        is_used.then_some(comparison)
    }
}

impl Conditions {
    /// Adds a condition. One that isn't understood adds nothing.
    pub(super) fn add(&mut self, column: &str, comparison: ColumnComparison, value: Value) {
        match (column, value) {
            ("time_ns", Value::Integer(ns)) => self.add_time(comparison, (ns, ns)),
            ("time" | "date", Value::Text(text)) => {
                if let Some(range) = range_of(&text) {
                    self.add_time(comparison, range);
                }
            }
            ("host", Value::Text(value)) => add(&mut self.host, value, &mut self.is_none),
            ("op", Value::Text(value)) => add(&mut self.op, value, &mut self.is_none),
            ("container", Value::Text(value)) => {
                add(&mut self.container, value, &mut self.is_none);
            }
            ("pid", Value::Integer(value)) => add(&mut self.pid, value, &mut self.is_none),
            ("ipc_ns", Value::Integer(value)) => add(&mut self.ipc_ns, value, &mut self.is_none),
            _ => {}
        }
    }

    /// `first`, `last`: the times for which the value may stand.
    fn add_time(&mut self, comparison: ColumnComparison, (first, last): (i64, i64)) {
        if comparison != ColumnComparison::UpTo {
            self.since_ns = Some(self.since_ns.map_or(first, |since| since.max(first)));
        }
        if comparison != ColumnComparison::From {
            self.until_ns = Some(self.until_ns.map_or(last, |until| until.min(last)));
        }
        self.is_none |= matches!((self.since_ns, self.until_ns), (Some(a), Some(b)) if a > b);
    }

    /// Whether they hold for the host of a run.
    pub(crate) fn wants_host(&self, host: &str) -> bool {
        self.host.as_deref().is_none_or(|wanted| wanted == host)
    }

    /// Whether they may hold for a time, nanoseconds since 1970.
    pub(crate) fn wants_time(&self, ns: i64) -> bool {
        self.since_ns.is_none_or(|since| ns >= since)
            && self.until_ns.is_none_or(|until| ns <= until)
    }

    /// Whether they hold for a call, but for time and host.
    pub(crate) fn wants_call(&self, ipc: &Ipc<'_>) -> bool {
        let is = |value: Option<i64>, of: u32| value.is_none_or(|value| value == i64::from(of));
        is(self.pid, ipc.process.pid)
            && is(self.ipc_ns, ipc.ipc_ns.inum)
            && self.op.as_deref().is_none_or(|op| op == ipc.op.0.name())
            && self.container.as_deref().is_none_or(|wanted| {
                let container = ipc.container.as_deref();
                let name = |container| container_name(container).to_str() == wanted;
                container.is_some_and(name)
            })
    }
}

/// As the column `container` has it.
fn container_name(container: &crate::event::Container) -> &OsBytes<'static> {
    container.name.as_ref().unwrap_or(&container.id)
}

fn add<T: PartialEq>(condition: &mut Option<T>, value: T, is_none: &mut bool) {
    *is_none |= condition.as_ref().is_some_and(|known| *known != value);
    *condition = Some(value);
}

/// The times whose text may be equal to this one or, where it ends, go on otherwise: so text that compares with it also
/// has a time that compares with these. `None`: it is no beginning of a time as the columns show it.
fn range_of(text: &str) -> Option<(i64, i64)> {
    const FIRST: &str = "0000-01-01T00:00:00.000000000Z";
    const LAST: &str = "9999-12-28T23:59:59.999999999Z";
    let text = text.strip_suffix('Z').unwrap_or(text);
    let is_beginning = text.len() >= 10
        && text.len() < FIRST.len()
        && text.bytes().zip(FIRST.bytes()).all(|(one, shape)| match shape {
            b'0'..=b'9' => one.is_ascii_digit(),
            shape => one == shape,
        });
    if !is_beginning {
        return None;
    }
    let filled = |with: &str| {
        let whole = format!("{text}{}", with.get(text.len()..)?);
        let time = humantime::parse_rfc3339(&whole).ok()?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_nanos()).ok()
    };
    Some((filled(FIRST)?, filled(LAST)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_times_are_ranges() {
        let second = 1_000_000_000;
        let at = 1_769_903_940 * second;
        assert_eq!(range_of("2026-01-31T23:59:00.000000001Z"), Some((at + 1, at + 1)));
        assert_eq!(range_of("2026-01-31T23:59:00Z"), Some((at, at + second - 1)));
        assert_eq!(range_of("2026-01-31T23:59"), Some((at, at + 60 * second - 1)));
        let day = at - (23 * 60 + 59) * 60 * second;
        assert_eq!(range_of("2026-01-31"), Some((day, day + 86_400 * second - 1)));
        for none in [
            "",
            "2026",
            "2026-01",
            "2026-01-31 23:59",
            "2026-13-01",
            "yesterday",
            "2026-01-31T23:59:00+01",
        ] {
            assert_eq!(range_of(none), None, "{none}");
        }
    }

    #[test]
    fn conditions_narrow_and_can_contradict() {
        let mut all = Conditions::default();
        all.add("time_ns", ColumnComparison::From, Value::Integer(10));
        all.add("time_ns", ColumnComparison::From, Value::Integer(5));
        all.add("time_ns", ColumnComparison::UpTo, Value::Integer(20));
        assert_eq!((all.since_ns, all.until_ns, all.is_none), (Some(10), Some(20), false));
        assert!(
            all.wants_time(10) && all.wants_time(20) && !all.wants_time(9) && !all.wants_time(21)
        );
        all.add("pid", ColumnComparison::Equal, Value::Text("no number".to_owned()));
        assert_eq!(all.pid, None);
        all.add("op", ColumnComparison::Equal, Value::Text("semop".to_owned()));
        all.add("op", ColumnComparison::Equal, Value::Text("semop".to_owned()));
        assert!(!all.is_none);
        all.add("op", ColumnComparison::Equal, Value::Text("msgsnd".to_owned()));
        assert!(all.is_none);
    }
}
