//! Converts boot time, the eBPF programs' time stamps, to the time of day.

use std::time::{Duration, SystemTime};

use minicbor::{Decode, Encode};

use crate::event::value::Timestamp;

/// Smallest step of the time of day that is applied, nanoseconds; smaller ones are measurement noise.
const STEP_NS: i128 = 1_000_000;

/// The offset between the two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Clock {
    /// Time of day minus boot time, nanoseconds
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    offset_ns: i128,
}

impl Clock {
    /// A clock with this offset, in nanoseconds.
    #[must_use]
    pub(crate) const fn with_offset(offset_ns: i128) -> Self {
        Self { offset_ns }
    }

    /// Adopts a new offset if the time of day was set.
    pub(crate) const fn follow(&mut self, offset_ns: i128) {
        if (offset_ns - self.offset_ns).abs() > STEP_NS {
            self.offset_ns = offset_ns;
        }
    }

    /// The time of day at a boot time in nanoseconds.
    #[must_use]
    pub(crate) fn time(&self, boot_ns: u64) -> Timestamp {
        Timestamp(SystemTime::UNIX_EPOCH + Duration::from_nanos(self.since_1970(boot_ns)))
    }

    /// The same in whole seconds since 1970.
    #[inline]
    #[must_use]
    pub(crate) fn second(&self, boot_ns: u64) -> u64 {
        self.since_1970(boot_ns) / 1_000_000_000
    }

    /// The same in nanoseconds since 1970; 0 if it was before.
    #[inline]
    fn since_1970(&self, boot_ns: u64) -> u64 {
        u64::try_from(self.offset_ns + i128::from(boot_ns)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_converts_to_time_of_day() {
        let clock = Clock::with_offset(1_700_000_000_000_000_000);
        assert_eq!(clock.time(5).to_string(), "2023-11-14T22:13:20.000000005Z");
        assert_eq!(clock.second(999_999_999), 1_700_000_000);
        assert_eq!(clock.second(1_000_000_000), 1_700_000_001);
        assert_eq!(Clock::with_offset(-5).second(4), 0);
    }
}
