//! Which programs have run for a thread's current event, where one program on a function does the work and others back
//! it up: threads may be preempted inside of it, and the events of others on that CPU don't run it meanwhile (`copies`).
//!
//! The program runs first and notes that it did. Each backup has a number, in the order in which they run. It notes
//! its number, too. It has work to do if neither the program nor a backup before it ran for this event: then it finds
//! what was noted last for another event, which is the last backup's number, or another thread's. This is wrong only if
//! the last backup was skipped for the thread's last event and all programs before this one for the current event:
//! only if there is a preempted thread in as many programs as there are.

use core::mem::MaybeUninit;

use ipc_trace_common::state::STEPS as PLACES;

use crate::base::constants::constant;

/// By the low bits of a thread's number; user space makes it smaller where programs have no backups. A variable in a
/// section of its own, as [`super::batch_slots`].
#[unsafe(link_section = ".bss.steps")]
#[unsafe(no_mangle)]
static mut STEPS: MaybeUninit<[[u32; 4]; PLACES as usize]> = MaybeUninit::zeroed();

/// Events of a thread.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// It enters a call
    Entry,
    /// It leaves a call
    Return,
    /// An access that auxiliary probes see
    Access,
}

/// Whether programs have backups.
#[inline(always)]
pub(crate) fn backed() -> bool {
    constant!(LAST_STEP) != 0
}

/// How many bits of a step are its number; above are the thread's.
const BITS: u32 = 4;

#[inline(always)]
fn step(tid: u64, event: Event) -> *mut u32 {
    let at = tid & u64::from(constant!(LAST_STEP));
    let all = (&raw mut STEPS).cast::<[u32; 4]>().wrapping_add(at as usize);
    all.cast::<u32>().wrapping_add(event as usize)
}

/// The program that does the work runs.
#[inline(always)]
pub(crate) fn begin(tid: u64, event: Event) {
    if backed() {
        // SAFETY: the variable is there. Another thread whose number has the same low bits may be preempted here, too:
        // its event is processed twice then.
        unsafe { step(tid, event).write_volatile((tid << BITS | 1) as u32) };
    }
}

/// A backup runs, whose number is 1 or more. Returns whether no program ran before it.
#[inline(always)]
pub(crate) fn is_left(tid: u64, event: Event, number: u64) -> bool {
    let step = step(tid, event);
    // SAFETY: as in `begin`.
    let before = unsafe { step.read_volatile() } ^ (tid << BITS) as u32;
    // SAFETY: likewise.
    unsafe { step.write_volatile((tid << BITS | (number + 1)) as u32) };
    u64::from(before).wrapping_sub(1) >= number
}
