//! What a person at a terminal reads: the event types as text.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`units`] | durations, sizes, counts and times of day |
//! | [`style`] | what may be coloured, and in what colour |
//! | [`args`] | a call with its arguments, by the names of its man page |
//! | [`call`] | one line for a call that returned |
//! | [`line`](mod@line) | one line for anything else that `live` says |
//! | [`findings`] | findings, in a line and in full |
//! | [`objects`] | lives of objects, and those of a namespace |
//! | [`summary`] | backends, accounting, COMMAND's end, pending calls |
//! | [`footer`] | the line that is rewritten below the others |
//! | [`flow`] | words onto lines of a width, and tables |
//! | [`report`] | `report`, namespace by namespace |
//! | [`ls`] | `ls`: what exists, by namespace |
//! | [`doctor`] | `doctor`: the verdict, what is wrong, how things stand |
//!
//! Invariant: these are functions from values to text. They know no file, clock, terminal or kernel;
//! width and colours are parameters. Bytes that another process chose go through [`escape`], so that
//! no name can move the cursor, hide itself or forge a line. A value that is not known is `?` or
//! left out, never invented.

pub(crate) mod args;
pub(crate) mod call;
mod containers;
pub(crate) mod doctor;
pub(crate) mod findings;
pub(crate) mod flow;
pub(crate) mod footer;
pub(crate) mod line;
pub(crate) mod ls;
pub(crate) mod objects;
pub(crate) mod report;
pub(crate) mod style;
pub(crate) mod summary;
pub(crate) mod units;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod snapshot_tests;
