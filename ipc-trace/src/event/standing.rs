//! How it stands, at the end and before: what a sink completes with what it has counted itself.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    CommandOutcome, Event, PendingCall, accounting::Accounting, finding::Finding, report::Report,
    value::Timestamp,
};

/// How it stands. It has no number: nothing happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Status {
    /// When
    pub time: Timestamp,
    /// What was seen, and what became of it so far. Records on their way are in `emitted`, and not yet in
    /// `delivered`
    pub accounting: Accounting,
    /// Whether a minute went by: lines tell of it then alone
    #[serde(skip)]
    pub minute: bool,
    /// Calls that have not returned
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
    /// The end of COMMAND
    pub command: Option<CommandOutcome>,
    /// Calls that have not returned
    pub pending: Vec<PendingCall>,
    /// All findings, the severest first: text sums them up
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

/// What a sink completes with what it has counted.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// How it stands
    Status(Status),
    /// The last line
    End(End),
    /// A report
    Report(Box<Report>),
}

impl Standing {
    /// As an event.
    #[must_use]
    pub(crate) const fn event(&self) -> Event<'_> {
        match self {
            Self::Status(status) => Event::Status(status),
            Self::End(end) => Event::End(end),
            Self::Report(report) => Event::Report(report),
        }
    }

    /// When it was so.
    #[must_use]
    pub(crate) const fn time(&self) -> Timestamp {
        match self {
            Self::Status(status) => status.time,
            Self::End(end) => end.time,
            Self::Report(report) => report.ended,
        }
    }

    /// What was seen, and what became of it.
    pub(crate) const fn accounting(&mut self) -> &mut Accounting {
        match self {
            Self::Status(status) => &mut status.accounting,
            Self::End(end) => &mut end.accounting,
            Self::Report(report) => &mut report.accounting,
        }
    }
}

impl Event<'_> {
    /// What a sink completes with what it has counted, if it is that.
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
