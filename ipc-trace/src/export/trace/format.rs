//! The parts of an event in the Trace Event Format, appended to a buffer.

use std::{fmt, io::Write as _};

use serde::Serialize;

/// A track: the numbers of a process and of a thread, as the file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrackRef {
    pub pid: u32,
    pub tid: u32,
}

/// Microseconds, exact to the nanosecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Microseconds(pub i64);

impl fmt::Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let ns = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:03}", ns / 1000, ns % 1000)
    }
}

/// Begins an event, with a comma if it isn't the first one. Neither name nor category has a character that JSON escapes.
pub(super) fn begin(
    out: &mut Vec<u8>,
    phase: char,
    name: impl fmt::Display,
    category: impl fmt::Display,
    track: TrackRef,
) {
    separate(out);
    let TrackRef { pid, tid } = track;
    // Writing to memory doesn't fail.
    let _ = write!(
        out,
        r#"{{"ph":"{phase}","name":"{name}","cat":"{category}","pid":{pid},"tid":{tid}"#
    );
}

/// Appends a member whose value needs no escapes.
pub(super) fn put_member(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    let _ = write!(out, r#","{name}":{value}"#);
}

/// Appends the arguments of an event, and ends it.
pub(super) fn end_with(out: &mut Vec<u8>, args: &impl Serialize) {
    out.extend_from_slice(b",\"args\":");
    put_json(out, args);
    out.push(b'}');
}

/// Appends metadata of a track: its name, or where it is sorted.
pub(super) fn put_metadata(
    out: &mut Vec<u8>,
    what: &str,
    track: TrackRef,
    value: &(impl Serialize + ?Sized),
) {
    separate(out);
    let TrackRef { pid, tid } = track;
    let member = if what.ends_with("_name") { "name" } else { "sort_index" };
    let _ =
        write!(out, r#"{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"args":{{"{member}":"#);
    put_json(out, value);
    out.extend_from_slice(b"}}");
}

/// Each event has a line of its own.
fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
    out.push(b'\n');
}

/// Appends a value.
pub(super) fn put_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let len = out.len();
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        log::error!("a value could not be written as JSON: {error}");
        out.truncate(len);
        out.extend_from_slice(b"null");
    }
}
