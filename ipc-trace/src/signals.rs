//! Signals that end a run.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::sources::clock::boot_ns;

/// What is one signal: timeout(1) sends it to its child, and at once to the group that the child is in.
const SAME_NS: u64 = 300_000_000;

/// Whether the program was told to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals(Arc<SignalState>);

#[derive(Debug, Default)]
struct SignalState {
    /// In nanoseconds since boot; 0 for never
    first: AtomicU64,
    again: AtomicBool,
}

impl Signals {
    /// Takes SIGINT and SIGTERM from here on.
    ///
    /// # Errors
    /// They can't be handled.
    pub(crate) fn handle() -> io::Result<Self> {
        // What is read once for the clock is read now, and not in a handler.
        let _ = boot_ns();
        let signals = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let told = signals.clone();
            // SAFETY: reading a clock and changing an atomic are safe in a handler (signal-safety(7)).
            unsafe { signal_hook::low_level::register(signal, move || told.came(boot_ns())) }?;
        }
        Ok(signals)
    }

    fn came(&self, now: u64) {
        let SignalState { first, again } = &*self.0;
        let earlier = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        if earlier.is_err_and(|earlier| now.saturating_sub(earlier) > SAME_NS) {
            again.store(true, Ordering::Relaxed);
        }
    }

    /// The program is to end.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        self.0.first.load(Ordering::Relaxed) != 0
    }

    /// It was told so again: it is to end now, whatever is lost by it.
    #[must_use]
    pub(crate) fn end_now(&self) -> bool {
        self.0.again.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_at_once_is_one() {
        let signals = Signals::default();
        assert!(!signals.end());
        signals.came(5);
        signals.came(6);
        signals.came(5 + SAME_NS);
        assert!(signals.end() && !signals.end_now());
        signals.came(6 + SAME_NS);
        assert!(signals.end_now());
    }
}
