//! Functions that SQLite lacks: `percentile(value, 0 to 100)`, `regexp(pattern, text)` with the operator REGEXP, and
//! `ns(time)`, the nanoseconds since 1970 of a time as RFC 3339 writes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

use regex::{Regex, RegexBuilder};
use rusqlite::{
    Connection, Error,
    functions::{Aggregate, Context, FunctionFlags},
    types::ValueRef,
};

/// How many values all percentiles of a query can have at a time: 256 MiB.
const MAX_VALUES: usize = if cfg!(test) { 1 << 16 } else { 32 << 20 };
/// The size of a compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 20;

const PURE: FunctionFlags = FunctionFlags::SQLITE_UTF8
    .union(FunctionFlags::SQLITE_DETERMINISTIC)
    .union(FunctionFlags::SQLITE_INNOCUOUS);

/// Adds them to a database.
pub(super) fn add(connection: &Connection) -> rusqlite::Result<()> {
    let values = Arc::<AtomicUsize>::default();
    connection.create_aggregate_function("percentile", 2, PURE, Percentile { values })?;
    connection.create_scalar_function("regexp", 2, PURE, |context| regexp(context))?;
    connection.create_scalar_function("ns", 1, PURE, |context| ns(context))
}

fn failed(message: impl Into<String>) -> Error {
    Error::UserFunctionError(message.into().into())
}

/// Whether the second argument matches the first, a regular expression of the crate `regex`: its time is linear in the
/// length of the text.
fn regexp(context: &Context<'_>) -> rusqlite::Result<Option<bool>> {
    let pattern = context.get_or_create_aux(0, |pattern| -> Result<Regex, Error> {
        RegexBuilder::new(pattern.as_str()?)
            .size_limit(MAX_PATTERN)
            .dfa_size_limit(MAX_PATTERN)
            .build()
            .map_err(|error| failed(error.to_string()))
    })?;
    match context.get_raw(1) {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => Ok(Some(pattern.is_match(&String::from_utf8_lossy(text)))),
        ValueRef::Integer(number) => Ok(Some(pattern.is_match(&number.to_string()))),
        ValueRef::Real(_) | ValueRef::Blob(_) => Err(failed("regexp() takes text")),
    }
}

/// The nanoseconds since 1970 of a time.
fn ns(context: &Context<'_>) -> rusqlite::Result<Option<i64>> {
    let Some(text) = context.get::<Option<String>>(0)? else { return Ok(None) };
    let time = humantime::parse_rfc3339_weak(&text)
        .map_err(|error| failed(format!("ns({text}): {error}; try 2026-01-31T23:59:00Z")))?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Some(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)))
}

/// The aggregate `percentile`.
struct Percentile {
    /// How many values there are at a time
    values: Arc<AtomicUsize>,
}

/// The values of a group.
struct Values {
    all: Vec<f64>,
    part: Option<f64>,
    /// Shared by all groups
    count: Arc<AtomicUsize>,
}

impl Drop for Values {
    fn drop(&mut self) {
        self.count.fetch_sub(self.all.len(), Relaxed);
    }
}

impl Aggregate<Values, Option<f64>> for Percentile {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<Values> {
        Ok(Values { all: Vec::new(), part: None, count: Arc::clone(&self.values) })
    }

    fn step(&self, context: &mut Context<'_>, values: &mut Values) -> rusqlite::Result<()> {
        let part: f64 = context.get(1)?;
        if !(0.0..=100.0).contains(&part) || values.part.is_some_and(|known| known != part) {
            return Err(failed("percentile(value, P): P must be one number from 0 to 100"));
        }
        values.part = Some(part);
        let value = match context.get_raw(0) {
            ValueRef::Null => return Ok(()),
            ValueRef::Integer(number) => number as f64,
            ValueRef::Real(number) => number,
            ValueRef::Text(_) | ValueRef::Blob(_) => {
                return Err(failed("percentile() takes numbers"));
            }
        };
        if self.values.fetch_add(1, Relaxed) >= MAX_VALUES {
            self.values.fetch_sub(1, Relaxed);
            return Err(failed(format!("percentile(): more than {MAX_VALUES} values at a time")));
        }
        values.all.push(value);
        Ok(())
    }

    /// Between two values it is interpolated, as in SQLite's own extension of that name.
    fn finalize(
        &self,
        _: &mut Context<'_>,
        values: Option<Values>,
    ) -> rusqlite::Result<Option<f64>> {
        let Some(mut values) = values else { return Ok(None) };
        let (all, part) = (&mut values.all, values.part.unwrap_or(0.0));
        let Some(last) = all.len().checked_sub(1) else { return Ok(None) };
        all.sort_unstable_by(f64::total_cmp);
        let place = part / 100.0 * last as f64;
        let at = |place: f64| all.get(place as usize).copied().unwrap_or(f64::NAN);
        let (below, above) = (at(place.floor()), at(place.ceil()));
        Ok(Some(below + (above - below) * place.fract()))
    }
}
