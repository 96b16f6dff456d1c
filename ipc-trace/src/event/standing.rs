//! Status and end: the events that a sink completes with its own counts.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    CommandOutcome, Event, PendingCall, accounting::Accounting, finding::Finding, report::Report,
    value::Timestamp,
};

/// The status. It has no number: it isn't an occurrence.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Status {
    /// When
    pub time: Timestamp,
    /// The accounting so far. Records in flight are in `emitted`, but not in `delivered`
    pub accounting: Accounting,
    /// Whether a minute has passed: only then it is written as a line
    #[serde(skip)]
    pub minute: bool,
    /// Calls that haven't returned
    #[serde(skip)]
    pub pending: Vec<PendingCall>,
}

/// Tracing ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct End {
    /// Number of the line
    pub seq: u64,
    /// When
    pub time: Timestamp,
    /// What was seen, and what became of it
    pub accounting: Accounting,
    /// COMMAND and its exit status; `null`: there was none
    pub command: Option<CommandOutcome>,
    /// Calls that haven't returned
    pub pending: Vec<PendingCall>,
    /// All findings, the highest severity first: text output sums them up
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

/// An event that a sink completes with its own counts.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// The status
    Status(Status),
    /// The last line
    End(End),
    /// A report
    Report(Box<Report>),
}

impl Standing {
    /// The event.
    #[must_use]
    pub(crate) const fn event(&self) -> Event<'_> {
        match self {
            Self::Status(status) => Event::Status(status),
            Self::End(end) => Event::End(end),
            Self::Report(report) => Event::Report(report),
        }
    }

    /// The time of the event.
    #[must_use]
    pub(crate) const fn time(&self) -> Timestamp {
        match self {
            Self::Status(status) => status.time,
            Self::End(end) => end.time,
            Self::Report(report) => report.ended,
        }
    }

    /// The accounting, to be completed.
    pub(crate) const fn accounting(&mut self) -> &mut Accounting {
        match self {
            Self::Status(status) => &mut status.accounting,
            Self::End(end) => &mut end.accounting,
            Self::Report(report) => &mut report.accounting,
        }
    }
}

impl Event<'_> {
    /// The event, if it is one that a sink completes.
    #[inline]
    #[must_use]
    pub(crate) fn standing(&self) -> Option<Box<Standing>> {
        match self {
            Self::Status(status) => Some(Box::new(Standing::Status(Status::clone(status)))),
            Self::End(end) => Some(Box::new(Standing::End(End::clone(end)))),
            Self::Report(report) => {
                Some(Box::new(Standing::Report(Box::new(Report::clone(report)))))
            }
            Self::Start(_)
            | Self::Ipc(_)
            | Self::Namespace(_)
            | Self::Object(_)
            | Self::Container(_)
            | Self::Loss(_)
            | Self::Resync(_)
            | Self::Finding(_) => None,
        }
    }
}
