//! Values of columns.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::event::value::{OsBytes, Timestamp};

/// A value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    /// Nothing, or unknown
    Null,
    /// A number
    Integer(i64),
    /// Yes or no
    Boolean(bool),
    /// A time of day: nanoseconds since 1970
    Time(i64),
    /// Text, or JSON
    Text(Cow<'a, str>),
}

impl Cell<'_> {
    /// A time as RFC 3339 shows it, in UTC with nanoseconds.
    pub(crate) fn time_text(ns: i64) -> String {
        let since = Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
        Timestamp(SystemTime::UNIX_EPOCH + since).to_string()
    }

    /// The value as JSON.
    pub(super) fn json(value: &impl Serialize) -> Cell<'static> {
        // All values can be serialised.
        serde_json::to_string(value).map_or(Cell::Null, |json| Cell::Text(json.into()))
    }
}

/// Nanoseconds since 1970.
pub(super) fn nanos(time: Timestamp) -> i64 {
    let since = time.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A day in UTC, as `2026-01-31`.
pub(super) fn date(ns: i64) -> Cell<'static> {
    let mut text = Cell::time_text(ns);
    text.truncate(10);
    Cell::Text(text.into())
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl From<$type> for Cell<'_> {
            fn from(number: $type) -> Self {
                Self::Integer(number.into())
            }
        })*
    };
}

integers! { i64 i32 u32 u8 }

/// A number that only a hostile or damaged recording has above the largest signed one.
impl From<u64> for Cell<'_> {
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell<'_> {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl From<bool> for Cell<'_> {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<Timestamp> for Cell<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Time(nanos(time))
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl<'a> From<&'a String> for Cell<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text.as_str().into())
    }
}

impl<'a> From<&'a OsBytes<'_>> for Cell<'a> {
    fn from(name: &'a OsBytes<'_>) -> Self {
        Self::Text(name.to_str())
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}
