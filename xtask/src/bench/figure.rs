//! A result with its limit, as a row of a table.

use std::fmt;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    /// How many times as much
    Ratio,
    /// Of a total
    Percent,
    /// Seconds, shown in milliseconds
    Seconds,
    /// How many
    Count,
}

/// A result. Smaller is better.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// What it is
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) value: f64,
    /// What it must not exceed
    pub(super) limit: f64,
    /// What it was made of
    pub(super) details: String,
}

impl Figure {
    /// Whether the limit is kept.
    pub(super) fn is_within(&self) -> bool {
        self.value <= self.limit
    }
}

struct FigureValue(f64, Unit);

impl fmt::Display for FigureValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Unit::Ratio => write!(f, "{:.2}", self.0),
            Unit::Percent => write!(f, "{:.2} %", self.0),
            Unit::Seconds => write!(f, "{:.0} ms", self.0 * 1e3),
            Unit::Count => write!(f, "{:.0}", self.0),
        }
    }
}

/// The heading of the table that figures are rows of.
pub(super) const HEADING: &str = "| figure | measured | limit | how |\n| --- | --- | --- | --- |";

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, value, limit, details } = self;
        let (value, limit) = (FigureValue(*value, *unit), FigureValue(*limit, *unit));
        let mark = if self.is_within() { "" } else { " **over**" };
        write!(f, "| {name} | {value}{mark} | {limit} | {details} |")
    }
}

/// The value in the middle.
///
/// # Panics
///
/// If there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// The largest value.
pub(super) fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}

/// The smallest value.
pub(super) fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn row_marks_a_value_over_its_limit() {
        let figure = Figure {
            name: "a loop".to_owned(),
            unit: Unit::Ratio,
            value: 2.345,
            limit: 2.3,
            details: "somehow".into(),
        };
        assert_eq!(figure.to_string(), "| a loop | 2.35 **over** | 2.30 | somehow |");
        let within = Figure { value: 0.0123, unit: Unit::Seconds, limit: 1.0, ..figure };
        assert_eq!(within.to_string(), "| a loop | 12 ms | 1000 ms | somehow |");
    }
}
