//! The oracle: what a workload did, by its own count. Calls, failures and errors by namespace and
//! operation.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};

use anyhow::Result;
use nix::errno::Errno;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::abi::is_error;

/// The logical operations; several system calls may be one operation (`semtimedop` with its
/// variants is [`WorkloadOp::Semop`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is named after its system call")]
pub(crate) enum WorkloadOp {
    Shmget,
    Shmat,
    Shmdt,
    Shmctl,
    Semget,
    Semop,
    Semctl,
    Msgget,
    Msgsnd,
    Msgrcv,
    Msgctl,
    MqOpen,
    MqUnlink,
    MqSend,
    MqReceive,
    MqNotify,
    MqGetsetattr,
}

/// An error number which is written by its name (`EAGAIN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ErrnoName(pub(crate) i32);

impl fmt::Display for ErrnoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Errno::from_raw(self.0);
        if known == Errno::UnknownErrno { write!(f, "E{}", self.0) } else { write!(f, "{known:?}") }
    }
}

impl Serialize for ErrnoName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ErrnoName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        (1..4096)
            .map(ErrnoName)
            .find(|error| error.to_string() == name)
            .ok_or_else(|| D::Error::custom(format!("unknown error name {name}")))
    }
}

/// A raw answer in readable form: a number, or the name of the error.
pub(crate) fn outcome(ret: i64) -> Value {
    if is_error(ret) { ErrnoName(-ret as i32).to_string().into() } else { ret.into() }
}

/// The calls of one operation in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpTally {
    /// How many calls were made.
    pub(crate) calls: u64,
    /// How many of them failed.
    pub(crate) failed: u64,
    /// How often each error came back.
    pub(crate) errors: BTreeMap<ErrnoName, u64>,
}

/// The calls made by members of one namespace. It is the namespace of the *caller* that
/// counts, also for a queue descriptor which came from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamespaceCounts {
    /// The workload's name for the namespace.
    pub(crate) label: String,
    /// Its inode number.
    pub(crate) inum: u64,
    /// The operations called at least once.
    pub(crate) ops: BTreeMap<WorkloadOp, OpTally>,
}

/// All namespaces of a workload, in order of their first appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExpectedCounts {
    namespaces: Vec<NamespaceCounts>,
    #[serde(skip)]
    current: usize,
}

impl ExpectedCounts {
    /// From now on calls are counted for this namespace.
    pub(crate) fn enter(&mut self, label: &str, inum: u64) {
        self.current = self.namespace_index(label, inum);
    }

    /// The inode number of the namespace that calls are counted for.
    pub(crate) fn inum(&self) -> u64 {
        self.namespaces[self.current].inum
    }

    /// The name of that namespace.
    pub(crate) fn label(&self) -> &str {
        &self.namespaces[self.current].label
    }

    /// Counts one call with its raw answer.
    pub(crate) fn note(&mut self, op: WorkloadOp, ret: i64) {
        self.note_many(op, ret, 1);
    }

    /// Counts `times` calls which had the same raw answer.
    pub(crate) fn note_many(&mut self, op: WorkloadOp, ret: i64, times: u64) {
        if times == 0 {
            return;
        }
        let tally = self.namespaces[self.current].ops.entry(op).or_default();
        tally.calls += times;
        if is_error(ret) {
            tally.failed += times;
            *tally.errors.entry(ErrnoName(-ret as i32)).or_default() += times;
        }
    }

    /// Adds other counts.
    pub(crate) fn merge(&mut self, other: ExpectedCounts) {
        for ns in other.namespaces {
            let index = self.namespace_index(&ns.label, ns.inum);
            for (op, tally) in ns.ops {
                let mine = self.namespaces[index].ops.entry(op).or_default();
                mine.calls += tally.calls;
                mine.failed += tally.failed;
                for (error, times) in tally.errors {
                    *mine.errors.entry(error).or_default() += times;
                }
            }
        }
    }

    /// Adds namespaces that are known to be new, in constant time for each.
    pub(crate) fn append(&mut self, other: ExpectedCounts) {
        self.namespaces.extend(other.namespaces);
    }

    /// The number of all calls.
    pub(crate) fn total(&self) -> u64 {
        self.namespaces.iter().flat_map(|ns| ns.ops.values()).map(|tally| tally.calls).sum()
    }

    fn namespace_index(&mut self, label: &str, inum: u64) -> usize {
        let found = self.namespaces.iter().position(|ns| ns.label == label && ns.inum == inum);
        found.unwrap_or_else(|| {
            self.namespaces.push(NamespaceCounts {
                label: label.into(),
                inum,
                ops: BTreeMap::new(),
            });
            self.namespaces.len() - 1
        })
    }
}

/// Counts, and whatever else a workload knows about itself. This is what it prints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkloadReport {
    /// The counts.
    #[serde(flatten)]
    pub(crate) counts: ExpectedCounts,
    /// Further facts, printed beside `namespaces`.
    #[serde(flatten)]
    pub(crate) facts: Map<String, Value>,
}

impl WorkloadReport {
    /// A report without further facts.
    pub(crate) fn new(counts: ExpectedCounts) -> Self {
        Self { counts, facts: Map::new() }
    }

    /// Adds a fact.
    pub(crate) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// Takes in the report of a helper: counts are added, lists appended, and a fact of
    /// another kind replaces the one of the same name.
    pub(crate) fn absorb(&mut self, other: WorkloadReport) {
        self.counts.merge(other.counts);
        for (name, value) in other.facts {
            match (self.facts.get_mut(&name), value) {
                (Some(Value::Array(mine)), Value::Array(more)) => mine.extend(more),
                (_, value) => {
                    self.facts.insert(name, value);
                }
            }
        }
    }

    /// Prints the report as one line of JSON, in one piece: a tracer may print to the same pipe.
    pub(crate) fn print(&self) -> Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(io::stdout().write_all(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn report_serializes_as_agreed_and_round_trips() {
        let mut counts = ExpectedCounts::default();
        counts.enter("a", 7);
        counts.note(WorkloadOp::Semop, 0);
        counts.note(WorkloadOp::Semop, -i64::from(libc::EAGAIN));
        let mut other = ExpectedCounts::default();
        other.enter("a", 7);
        other.note(WorkloadOp::Semop, -i64::from(libc::EAGAIN));
        other.enter("b", 8);
        // An address which would be negative as 32 bits is no error.
        other.note(WorkloadOp::Shmat, 0xf7f0_0000);
        counts.merge(other);
        assert_eq!(counts.total(), 4);
        let text = serde_json::to_value(WorkloadReport::new(counts).fact("pid", 1)).unwrap();
        let form = json!({"pid": 1, "namespaces": [
            {"label": "a", "inum": 7,
             "ops": {"semop": {"calls": 3, "failed": 2, "errors": {"EAGAIN": 2}}}},
            {"label": "b", "inum": 8, "ops": {"shmat": {"calls": 1, "failed": 0, "errors": {}}}}]});
        assert_eq!(text, form);
        let back: WorkloadReport = serde_json::from_value(text).unwrap();
        assert_eq!(serde_json::to_value(back).unwrap(), form);
    }
}
