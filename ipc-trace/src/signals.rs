//! Signals that end a run, and one that has a flight recorder write a file.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::sources::clock::boot_ns;

/// Signals within this time count as one: timeout(1) sends one to its child, and at once to the child's group.
const SAME_SIGNAL_NS: u64 = 300_000_000;

/// The state of termination signals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals(Arc<SignalState>);

#[derive(Debug, Default)]
struct SignalState {
    /// In nanoseconds since boot; 0 for never
    first: AtomicU64,
    again: AtomicBool,
    dump: AtomicBool,
}

impl Signals {
    /// Installs handlers for SIGINT and SIGTERM.
    ///
    /// # Errors
    /// They can't be handled.
    pub(crate) fn handle() -> io::Result<Self> {
        // The clock reads its offset once: now, and not in a handler.
        let _ = boot_ns();
        let signals = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let state = signals.clone();
            // SAFETY: reading a clock and changing an atomic are safe in a handler (signal-safety(7)).
            unsafe { signal_hook::low_level::register(signal, move || state.came(boot_ns())) }?;
        }
        Ok(signals)
    }

    /// Installs a handler for SIGUSR2, which otherwise ends the process.
    ///
    /// # Errors
    /// It can't be handled.
    pub(crate) fn handle_dump(&self) -> io::Result<()> {
        let state = self.clone();
        let ask = move || state.0.dump.store(true, Ordering::Relaxed);
        // SAFETY: changing an atomic is safe in a handler (signal-safety(7)).
        unsafe { signal_hook::low_level::register(signal_hook::consts::SIGUSR2, ask) }?;
        Ok(())
    }

    /// Whether SIGUSR2 has arrived since the last call.
    pub(crate) fn take_dump(&self) -> bool {
        self.0.dump.swap(false, Ordering::Relaxed)
    }

    fn came(&self, now: u64) {
        let SignalState { first, again, .. } = &*self.0;
        let earlier = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        if earlier.is_err_and(|earlier| now.saturating_sub(earlier) > SAME_SIGNAL_NS) {
            again.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a signal has requested the end.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        self.0.first.load(Ordering::Relaxed) != 0
    }

    /// Whether a second signal has requested an immediate end, even with losses.
    #[must_use]
    pub(crate) fn end_now(&self) -> bool {
        self.0.again.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_signal_counts_once() {
        let signals = Signals::default();
        assert!(!signals.end());
        signals.came(5);
        signals.came(6);
        signals.came(5 + SAME_SIGNAL_NS);
        assert!(signals.end() && !signals.end_now());
        signals.came(6 + SAME_SIGNAL_NS);
        assert!(signals.end_now());
    }
}
