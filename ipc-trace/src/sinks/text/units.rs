//! Human-readable numbers. Integers throughout: no value is too large, and none is rounded twice.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::event::value::Timestamp;

/// Writes `value / unit` with two significant digits: `8.1`, `12`, `812`.
fn scaled(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, name: &str) -> fmt::Result {
    let tenths = (u128::from(value) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths < 100 {
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        let ones = (u128::from(value) + u128::from(unit) / 2) / u128::from(unit);
        write!(f, "{ones} {name}")
    }
}

/// Whether `value` rounds to `limit` units or more, so that the next unit must be used.
fn rounds_to(value: u64, unit: u64, limit: u64) -> bool {
    u128::from(value) + u128::from(unit) / 2 >= u128::from(unit) * u128::from(limit)
}

/// Nanoseconds: `812 ns`, `8.1 µs`, `12 ms`, `3.4 s`, `2 min 5 s`, `3 h 12 min`, `4 d 3 h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duration(pub u64);

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        if self.0 < 1_000 {
            return write!(f, "{} ns", self.0);
        }
        for (unit, limit, name) in
            [(1_000, 1_000, "µs"), (1_000_000, 1_000, "ms"), (SECOND, 60, "s")]
        {
            if !rounds_to(self.0, unit, limit) {
                return scaled(f, self.0, unit, name);
            }
        }
        let seconds = self.0.saturating_add(SECOND / 2) / SECOND;
        let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
        if hours == 0 {
            write!(f, "{minutes} min {} s", seconds % 60)
        } else if days == 0 {
            write!(f, "{hours} h {} min", minutes % 60)
        } else {
            write!(f, "{days} d {} h", hours % 24)
        }
    }
}

/// Bytes: `812 B`, `1.5 KiB`, `12 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1_024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = 1_024;
        for name in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            if !rounds_to(self.0, unit, 1_024) {
                return scaled(f, self.0, unit, name);
            }
            unit *= 1_024;
        }
        scaled(f, self.0, unit, "EiB")
    }
}

/// A count with its digits in groups: `1,234,567`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupedCount(pub u64);

impl fmt::Display for GroupedCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The groups from the left: from 10^18 down to the ones.
        let mut group: u64 = 1_000_000_000_000_000_000;
        while group > 1 && self.0 < group {
            group /= 1_000;
        }
        write!(f, "{}", self.0 / group)?;
        while group > 1 {
            group /= 1_000;
            write!(f, ",{:03}", self.0 / group % 1_000)?;
        }
        Ok(())
    }
}

/// A rate per second: `0.3/s`, `812/s`, `12 k/s`, `1.2 M/s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(pub f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A float becomes an integer by saturating; NaN becomes 0.
        let (tenths, ones) = ((self.0 * 10.0).round() as u64, self.0.round() as u64);
        if tenths == 0 {
            f.write_str("0/s")
        } else if tenths < 100 {
            write!(f, "{}.{}/s", tenths / 10, tenths % 10)
        } else if ones < 10_000 {
            write!(f, "{}/s", GroupedCount(ones))
        } else if !rounds_to(ones, 1_000, 1_000) {
            scaled(f, ones, 1_000, "k/s")
        } else if !rounds_to(ones, 1_000_000, 1_000) {
            scaled(f, ones, 1_000_000, "M/s")
        } else {
            scaled(f, ones, 1_000_000_000, "G/s")
        }
    }
}

/// Seconds and nanoseconds since 1970; a time before that is 1970, which no event can have.
fn since_1970(time: Timestamp) -> (u64, u32) {
    let Timestamp(time) = time;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

/// The time of day, UTC: `HH:MM:SS.mmm`. Local time would need the host's time-zone files; headings say that it is
/// UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeOfDay(pub Timestamp);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = since_1970(self.0);
        let of_day = seconds % 86_400;
        let (hours, minutes, seconds) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{:03}", nanos / 1_000_000)
    }
}

/// Day and time, UTC: `YYYY-MM-DD HH:MM:SS.mmm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date(pub Timestamp);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, _) = since_1970(self.0);
        // The calendar repeats every 400 years, which are 146,097 days. Years that begin in March have the leap day
        // last.
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02} {}", TimeOfDay(self.0))
    }
}

/// A moment in a span of time: the time of day, and the date unless it is the first one. UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanMoment {
    /// The moment
    pub time: Timestamp,
    /// When the span began
    pub started: Timestamp,
}

impl fmt::Display for SpanMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |time| since_1970(time).0 / 86_400;
        if day(self.time) == day(self.started) {
            TimeOfDay(self.time).fmt(f)
        } else {
            Date(self.time).fmt(f)
        }
    }
}

/// The nanoseconds from one moment to a later one; 0 if the clock was set back between them.
#[must_use]
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    let span = SystemTime::duration_since(&to.0, from.0).unwrap_or_default();
    Duration(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let cases: [(u64, &str); 18] = [
            (0, "0 ns"),
            (812, "812 ns"),
            (1_000, "1.0 µs"),
            (8_135, "8.1 µs"),
            (9_949, "9.9 µs"),
            (9_960, "10 µs"),
            (12_345_678, "12 ms"),
            (999_499, "999 µs"),
            (999_500, "1.0 ms"),
            (999_500_000, "1.0 s"),
            (3_400_000_000, "3.4 s"),
            (14_000_000_000, "14 s"),
            (59_499_999_999, "59 s"),
            (59_500_000_000, "1 min 0 s"),
            (125_000_000_000, "2 min 5 s"),
            (3_599_600_000_000, "1 h 0 min"),
            (11_520_000_000_000, "3 h 12 min"),
            (u64::MAX, "213503 d 23 h"),
        ];
        for (nanos, text) in cases {
            assert_eq!(Duration(nanos).to_string(), text, "{nanos}");
        }
    }

    #[test]
    fn bytes() {
        let cases: [(u64, &str); 7] = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (12 << 20, "12 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text, "{bytes}");
        }
    }

    #[test]
    fn counts_and_rates() {
        assert_eq!(GroupedCount(0).to_string(), "0");
        assert_eq!(GroupedCount(999).to_string(), "999");
        assert_eq!(GroupedCount(1_000).to_string(), "1,000");
        assert_eq!(GroupedCount(1_234_567).to_string(), "1,234,567");
        assert_eq!(GroupedCount(u64::MAX).to_string(), "18,446,744,073,709,551,615");
        let cases = [
            (0.0, "0/s"),
            (0.26, "0.3/s"),
            (9.96, "10/s"),
            (9_999.4, "9,999/s"),
            (12_345.0, "12 k/s"),
            (999_900.0, "1.0 M/s"),
            (1_234_567.0, "1.2 M/s"),
            (f64::NAN, "0/s"),
            (-3.0, "0/s"),
        ];
        for (rate, text) in cases {
            assert_eq!(Rate(rate).to_string(), text, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn grouped_count_has_same_digits(count: u64) {
            prop_assert_eq!(GroupedCount(count).to_string().replace(',', ""), count.to_string());
        }

        // Compared with another implementation of the calendar.
        #[test]
        fn dates_match_calendar(seconds in 0_u64..253_402_300_799) {
            let time = UNIX_EPOCH + std::time::Duration::from_millis(seconds * 1_000 + 7);
            let other = humantime::format_rfc3339_millis(time).to_string();
            let ours = Date(Timestamp(time)).to_string();
            prop_assert_eq!(ours.replace(' ', "T") + "Z", other);
        }
    }
}
