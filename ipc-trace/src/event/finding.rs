//! Findings, with their evidence.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use ipc_trace_common::cbor::{Cbor, Encoded, encode_as_cbor, invalid};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};
use schemars::JsonSchema;
use serde::Serialize;

use super::shared::SharedState;
use super::{
    Container, IpcNs, IpcNsRef, Process, ReadFrom,
    classes::for_each_class,
    objects::Creator,
    value::{CallError, Hex32, KindName, OsBytes, Timestamp},
};

macro_rules! class {
    ($($(#[$doc:meta])* $class:ident = $name:literal, $module:ident, $about:ident;)*) => {
        /// What a finding reports.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema, clap::ValueEnum,
        )]
        pub(crate) enum Class {
            $($(#[$doc])* #[serde(rename = $name)] #[value(name = $name)] $class,)*
        }

        impl Class {
            /// All classes.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$class),*];

            /// Its name in JSON.
            #[must_use]
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$class => $name,)* }
            }

            /// The part of a finding that stays the same in later runs.
            #[must_use]
            pub(crate) const fn about(self) -> About {
                match self { $(Self::$class => About::$about,)* }
            }
        }
    };
}

for_each_class!(class);

/// As its name: new classes may come.
impl Cbor for Class {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        to.str(self.name())?;
        Ok(())
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let name = from.str()?;
        let known = Self::ALL.into_iter().find(|class| class.name() == name);
        known.ok_or_else(|| invalid("no such class of findings"))
    }
}

encode_as_cbor!(Class);

/// The part of a finding that stays the same in later runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The process that did it
    Process,
    /// The container, whichever process it was
    Container,
    /// The object
    Object,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The severity of a finding, if it is what it seems to be.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    JsonSchema,
    clap::ValueEnum,
    Encode,
    Decode,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Informational, or allowed
    #[n(0)]
    Info,
    /// To be reviewed at some time
    #[n(1)]
    Low,
    /// To be reviewed
    #[n(2)]
    Medium,
    /// A boundary was crossed
    #[n(3)]
    High,
    /// A boundary was crossed, and the policy sets the highest severity
    #[n(4)]
    Critical,
}

impl Severity {
    /// All severities, the lowest first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Its name in JSON.
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

/// A finding about one or more events.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// The number of the finding: a later line with the same number updates it
    pub id: u64,
    /// The class
    pub class: Class,
    /// The severity, after the policy
    pub severity: Severity,
    /// The confidence that the finding is right, from 0 to 100: the sum of the reasons' weights, clamped to
    /// this range
    pub confidence: u8,
    /// What happened, in one sentence
    pub title: String,
    /// The process or container that did it
    pub subject: Subject,
    /// The object concerned; `null`: none
    pub object: Option<FoundObject>,
    /// When it was first observed
    pub first: Timestamp,
    /// When it was last observed
    pub last: Timestamp,
    /// Number of observations
    pub count: u64,
    /// Numbers of the lines that support it: the first and the last ones, if there are many. Events without a
    /// line, because a filter excluded it or it was lost, are only in `events`
    pub evidence: Vec<u64>,
    /// The events that support it: the first and the last ones, if there are many
    pub events: Vec<Evidence>,
    /// The reasons for the confidence
    pub reasons: Vec<Reason>,
    /// The rule of the policy, or the runtime configuration, that allows it; `null`: none does
    pub declared_by: Option<String>,
    /// A benign explanation
    pub benign_explanation: Cow<'static, str>,
    /// A policy rule that would allow it; `null`: there is none
    pub policy: Option<String>,
}

/// The subject of a finding.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Subject {
    /// The process; `null`: the finding is about a container
    pub process: Option<Process<'static>>,
    /// Its container; `null` on the host
    pub container: Option<Arc<Container>>,
    /// The path of the process's cgroup, from the root of the hierarchy; `null`: unknown
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Arc<OsBytes<'static>>>,
    /// Its IPC namespace; `null`: unknown
    pub ipc_ns: Option<IpcNs>,
}

/// The object of a finding.
#[derive(Clone, Debug, Default, Serialize, JsonSchema, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct FoundObject {
    /// `shm`, `sem`, `msg` or `mq`; `null`: the namespace itself
    #[n(0)]
    pub kind: Option<KindName>,
    /// The shmid, semid or msqid; `null` for queues and if unknown
    #[n(1)]
    pub id: Option<i32>,
    /// The key; `null`: none or unknown
    #[n(2)]
    pub key: Option<Hex32>,
    /// A queue's name, without the slash; for another file its own name; `null`: none or unknown
    #[n(3)]
    pub name: Option<OsBytes<'static>>,
    /// The source of a queue's name; `kernel` is its own directory entry; `null`: the name is `null`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(4)]
    pub name_from: Option<ReadFrom>,
    /// The namespace that it belongs to; `null`: unknown
    #[n(5)]
    pub ipc_ns: Option<IpcNsRef>,
    /// Whether that differs from the subject's namespace; `null`: unknown
    #[n(6)]
    pub foreign: Option<bool>,
    /// Whether that namespace was dead
    #[serde(skip_serializing_if = "super::is_false")]
    #[n(7)]
    pub ipc_ns_dead: bool,
    /// The container that created it, or else the container of its namespace; `null`: on the host, or unknown
    #[cbor(n(8), with = "ipc_trace_common::cbor")]
    pub owner_container: Option<Arc<Container>>,
    /// Whether its owner is the host, not a container; `null`: unknown
    #[n(9)]
    pub owner_on_host: Option<bool>,
    /// The process that created it; `null`: unknown
    #[n(10)]
    pub creator: Option<Creator>,
}

/// An event that supports a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Evidence {
    /// When
    pub time: Timestamp,
    /// The number of its line; of several merged, that of the last; `null`: it has none
    pub seq: Option<u64>,
    /// The operation, or another description
    pub what: Cow<'static, str>,
    /// The kernel's result; `null`: it wasn't a single call
    pub ret: Option<i64>,
    /// The error; `null`: there was none
    pub error: Option<CallError>,
    /// Number of equal events merged into this one
    pub count: u64,
}

/// A reason for a finding's confidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Encode, Decode)]
pub(crate) struct Reason {
    /// The reason in words
    #[n(0)]
    pub text: Cow<'static, str>,
    /// What it adds to the confidence; negative: what it subtracts
    #[n(1)]
    pub weight: i32,
}

/// A finding on a line: when it is first observed, and again when it changed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FindingLine<'a> {
    /// Number of the line
    pub seq: u64,
    /// When the line was written
    pub time: Timestamp,
    /// Whether the finding is reported for the first time
    pub new: bool,
    /// The finding
    #[serde(flatten)]
    pub finding: &'a Finding,
}

/// Counts of findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct FindingsAccounting {
    /// Findings, by class
    pub by_class: BTreeMap<Class, u64>,
    /// Findings that the policy mutes, by class
    pub muted: BTreeMap<Class, u64>,
    /// The same, by the name of the rule
    pub muted_by: BTreeMap<String, u64>,
    /// Findings that were evicted after they were shown
    pub folded: u64,
    /// Observations that would have been new findings but exceeded the limit, by class
    pub over_limit: BTreeMap<Class, u64>,
    /// Accesses whose namespace couldn't be determined: they caused no finding
    pub undetermined: u64,
}
