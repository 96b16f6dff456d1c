//! The clocks: boot time, with which the eBPF programs stamp records, and the time of day.

use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

use crate::input::Moment;

/// The boot time now, in nanoseconds: the machine's, even if this process is in a time namespace.
#[must_use]
pub(crate) fn boot_ns() -> u64 {
    u64::try_from(boot()).unwrap_or(0)
}

/// Now, by both clocks.
#[must_use]
pub(crate) fn moment() -> Moment {
    let boot = boot();
    Moment {
        boot_ns: u64::try_from(boot).unwrap_or(0),
        offset_ns: read(ClockId::CLOCK_REALTIME) - boot,
    }
}

/// The processor time of this thread, nanoseconds.
#[must_use]
pub(crate) fn thread_ns() -> u64 {
    u64::try_from(read(ClockId::CLOCK_THREAD_CPUTIME_ID)).unwrap_or(0)
}

/// A boot time as the kernel shows it to this process in `/proc/PID/stat`.
#[must_use]
pub(crate) fn as_shown(boot_ns: u64) -> u64 {
    u64::try_from(i128::from(boot_ns) + time_namespace_offset()).unwrap_or(0)
}

fn boot() -> i128 {
    read(ClockId::CLOCK_BOOTTIME) - time_namespace_offset()
}

/// How far the boot time of this process's time namespace is ahead of the machine's, in nanoseconds
/// (time_namespaces(7)). It can't change while a process is in the namespace.
fn time_namespace_offset() -> i128 {
    static OFFSET: OnceLock<i128> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        // Without time namespaces there is no such file.
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        boot_offset(&offsets).unwrap_or(0)
    })
}

/// From lines such as `boottime 1000 0`: seconds and nanoseconds; the clock may be its number.
fn boot_offset(offsets: &str) -> Option<i128> {
    let mut words = offsets.lines().map(str::split_ascii_whitespace);
    let mut line = words
        .find_map(|mut words| matches!(words.next(), Some("boottime" | "7")).then_some(words))?;
    let [seconds, nanos] = [line.next()?, line.next()?].map(str::parse::<i128>);
    Some(seconds.ok()? * 1_000_000_000 + nanos.ok()?)
}

fn read(clock: ClockId) -> i128 {
    // Fails only for clocks that do not exist; these two do since Linux 2.6.39.
    clock_gettime(clock)
        .map_or(0, |t| i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_namespace_offset_is_boottime() {
        assert_eq!(
            boot_offset("monotonic           5         1\nboottime   -1000   7\n"),
            Some(-999_999_999_993)
        );
        assert_eq!(boot_offset(""), None);
        assert_eq!(boot_offset("boottime x 0"), None);
    }

    #[test]
    fn reads_both_clocks() {
        let Moment { boot_ns, offset_ns } = moment();
        let shown = u64::try_from(offset_ns + i128::from(boot_ns)).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let distance = now.as_nanos() - u128::from(shown);
        assert!(distance < 5_000_000_000, "{distance}");
    }
}
