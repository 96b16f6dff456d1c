//! A call in the common form of both tracers, and when two of them are the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::line::StraceOutcome;

/// A call as ipc-trace reports it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Traced {
    /// The operation
    pub(crate) op: String,
    /// How it came into the kernel
    pub(crate) abi: String,
    /// All arguments, by the names of `args`; flags, keys, commands and addresses are numbers
    pub(crate) args: BTreeMap<String, Value>,
    /// The result
    pub(crate) outcome: StraceOutcome,
}

/// A call as strace shows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StraceCall {
    /// The operation
    pub(crate) op: &'static str,
    /// How it came into the kernel
    pub(crate) abi: &'static str,
    /// The same arguments; `None`: strace shows something else in its place, as the structure
    /// that a pointer leads to, or nothing
    pub(crate) args: BTreeMap<&'static str, Option<Value>>,
    /// The result
    pub(crate) outcome: StraceOutcome,
}

impl StraceCall {
    /// Whether ipc-trace reports the same call.
    pub(crate) fn is(&self, traced: &Traced) -> bool {
        let same_args = self.args.len() == traced.args.len()
            && self.args.iter().zip(&traced.args).all(|((name, shown), (other, value))| {
                name == other && shown.as_ref().is_none_or(|shown| shown == value)
            });
        let same_outcome = match &self.outcome {
            StraceOutcome::Unknown => true,
            known @ (StraceOutcome::Value(_) | StraceOutcome::Error(_)) => *known == traced.outcome,
        };
        self.op == traced.op && self.abi == traced.abi && same_args && same_outcome
    }

    /// Whether the kernel may never have run the call. A thread that is killed while strace holds
    /// it at its entry does not make it (`ptrace_report_syscall_entry`, include/linux/ptrace.h,
    /// and `syscall_trace_enter`, kernel/entry/common.c, 6.12).
    pub(crate) fn may_be_void(&self) -> bool {
        self.outcome == StraceOutcome::Unknown
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair() -> (StraceCall, Traced) {
        let outcome = StraceOutcome::Value(0);
        let traced = Traced {
            op: "shmdt".to_owned(),
            abi: "i386".to_owned(),
            args: BTreeMap::from([("shmaddr".to_owned(), json!(4096))]),
            outcome: outcome.clone(),
        };
        let args = BTreeMap::from([("shmaddr", Some(json!(4096)))]);
        (StraceCall { op: "shmdt", abi: "i386", args, outcome }, traced)
    }

    #[test]
    fn calls_with_any_different_part_differ() {
        let (shown, traced) = pair();
        assert!(shown.is(&traced));
        let differs = |change: fn(&mut Traced)| {
            let mut other = traced.clone();
            change(&mut other);
            !shown.is(&other)
        };
        assert!(differs(|other| other.op = "shmat".to_owned()));
        assert!(differs(|other| other.abi = "x86_64".to_owned()));
        assert!(differs(|other| other.outcome = StraceOutcome::Value(1)));
        assert!(differs(|other| other.outcome = StraceOutcome::Error("EINVAL".to_owned())));
        assert!(differs(|other| _ = other.args.insert("shmaddr".to_owned(), json!(4097))));
        assert!(differs(|other| _ = other.args.insert("more".to_owned(), json!(1))));
        assert!(differs(|other| other.args.clear()));
    }

    #[test]
    fn unknown_parts_match_anything() {
        let (mut shown, traced) = pair();
        shown.outcome = StraceOutcome::Unknown;
        shown.args.insert("shmaddr", None);
        assert!(shown.is(&traced) && shown.may_be_void());
        shown.args.clear();
        assert!(!shown.is(&traced), "the argument must exist");
    }
}
