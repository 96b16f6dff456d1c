//! Findings: judgements about what happened, with what they rest on.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Container, IpcNs, IpcNsRef, Process, ReadFrom,
    classes::for_each_class,
    objects::Creator,
    value::{CallError, FamilyName, Hex32, OsBytes, Timestamp},
};

macro_rules! class {
    ($($(#[$doc:meta])* $class:ident = $name:literal, $module:ident, $about:ident;)*) => {
        /// What a finding says has happened.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema, clap::ValueEnum,
        )]
        pub(crate) enum Class {
            $($(#[$doc])* #[serde(rename = $name)] #[value(name = $name)] $class,)*
        }

        impl Class {
            /// All of them.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$class),*];

            /// Its name.
            #[must_use]
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$class => $name,)* }
            }

            /// What of a finding is the same next time.
            #[must_use]
            pub(crate) const fn about(self) -> About {
                match self { $(Self::$class => About::$about,)* }
            }
        }
    };
}

for_each_class!(class);

/// What of a finding is the same next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Who did it
    Process,
    /// The container that it is in, whichever process it was
    Container,
    /// The object alone
    Object,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How much a finding matters, if it is what it seems to be.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Good to know; deliberate
    Info,
    /// To be looked at one day
    Low,
    /// To be looked at
    Medium,
    /// A boundary was crossed
    High,
    /// A boundary was crossed, and somebody said that this is the worst
    Critical,
}

impl Severity {
    /// All of them, the least first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Its name.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A judgement about one or more events.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// Which: a later line with the same number tells how it went on
    pub id: u64,
    /// What happened
    pub class: Class,
    /// How much it matters
    pub severity: Severity,
    /// How sure it is, from 0 to 100: the sum of the reasons' weights, within these bounds
    pub confidence: u8,
    /// What happened, in one sentence
    pub title: String,
    /// Who did it
    pub subject: Subject,
    /// What it was done to; `null`: no object
    pub object: Option<FoundObject>,
    /// When it was seen first
    pub first: Timestamp,
    /// When it was seen last
    pub last: Timestamp,
    /// How often it was seen
    pub count: u64,
    /// Numbers of the lines that it rests on: the first and the last of them, where there are many.
    /// What no line told of, since a filter took it out or there was no room for it, is in `events` alone
    pub evidence: Vec<u64>,
    /// What it rests on: the first and the last of it, where there is much
    pub events: Vec<Evidence>,
    /// Why it is as sure as it is
    pub reasons: Vec<Reason>,
    /// The rule of the policy, or the runtime's word, by which it is deliberate
    pub declared_by: Option<String>,
    /// What else would explain it
    pub benign_explanation: Cow<'static, str>,
    /// What a policy would say to declare it deliberate
    pub policy: Option<String>,
}

/// Who did something.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Subject {
    /// The process; `null`: the finding is about a container
    pub process: Option<Process<'static>>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// The path of the process's cgroup, from the root of the hierarchy
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Arc<OsBytes<'static>>>,
    /// The IPC namespace that it was in
    pub ipc_ns: Option<IpcNs>,
}

/// What something was done to.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub(crate) struct FoundObject {
    /// `shm`, `sem`, `msg` or `mq`; `null`: the namespace itself
    pub kind: Option<FamilyName>,
    /// shmid, semid or msqid
    pub id: Option<i32>,
    /// The key
    pub key: Option<Hex32>,
    /// A queue's name, without the slash; of another file its own
    pub name: Option<OsBytes<'static>>,
    /// Where a queue's name comes from; `kernel` is its own directory entry
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_from: Option<ReadFrom>,
    /// The namespace that it belongs to
    pub ipc_ns: Option<IpcNsRef>,
    /// Whether that is another one than the subject's
    pub foreign: Option<bool>,
    /// Whether that namespace had died
    #[serde(skip_serializing_if = "super::is_false")]
    pub ipc_ns_dead: bool,
    /// The container that made it, or whose namespace it is; `null` on the host, and where that is not
    /// known
    pub owner_container: Option<Arc<Container>>,
    /// Whether it is the host's, in no container; `null`: not known
    pub owner_on_host: Option<bool>,
    /// Who made it; `null` where that is not known
    pub creator: Option<Creator>,
}

/// One event that a finding rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Evidence {
    /// When
    pub time: Timestamp,
    /// The number of the line that told of it; `null`: none did
    pub seq: Option<u64>,
    /// The operation, or what else happened
    pub what: Cow<'static, str>,
    /// The kernel's result, if it was one call
    pub ret: Option<i64>,
    /// The error, if it was one
    pub error: Option<CallError>,
    /// How many such events came together
    pub count: u64,
}

/// Why a finding is as sure as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Reason {
    /// In words
    pub text: Cow<'static, str>,
    /// What it adds to the confidence, or takes from it
    pub weight: i32,
}

/// A finding, as a line tells of it: at first sight, and again when it has grown.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FindingLine<'a> {
    /// Number of the line
    pub seq: u64,
    /// When the line was written
    pub time: Timestamp,
    /// Whether it is told of for the first time
    pub new: bool,
    /// The finding
    #[serde(flatten)]
    pub finding: &'a Finding,
}

/// What became of findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct FindingsAccounting {
    /// Findings, by class
    pub by_class: BTreeMap<Class, u64>,
    /// Findings that the policy does not want to be shown, by class
    pub muted: BTreeMap<Class, u64>,
    /// The same, by the name of the rule that mutes them
    pub muted_by: BTreeMap<String, u64>,
    /// Findings that had to make room, after they were shown
    pub folded: u64,
    /// Observations that would have been new findings, and for which there was no room, by class
    pub over_limit: BTreeMap<Class, u64>,
    /// Records of ways to objects whose namespace could not be told: nothing was made of them
    pub undetermined: u64,
}
