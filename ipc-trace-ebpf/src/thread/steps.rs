//! Which programs have run for a thread's current event, where one program on a function does the work and others back
//! it up: threads may be preempted inside of it, and the events of others on that CPU don't run it meanwhile (`copies`).
//!
//! The program runs first and notes that it did. Each backup has a number, in the order in which they run. It notes
//! its number, too, and the last one notes that all have run. A backup has work to do if neither the program nor a
//! backup before it noted something. This is wrong only if the last backup was skipped for the thread's last event, and
//! all programs before this one for the current event: only if there is a preempted thread in as many programs as there
//! are.

use core::mem::MaybeUninit;

use ipc_trace_common::state::{STEPS as PLACES, Steps, copies::FIRST_STEP};

use crate::base::{
    constants::constant,
    hooked,
    memory::{current_task, tid},
    words::element,
};

/// By tid; user space makes it larger where programs have backups. A variable in a section of its
/// own, as [`super::batch_slots`].
#[unsafe(link_section = ".bss.steps")]
#[unsafe(no_mangle)]
static mut STEPS: MaybeUninit<Steps> = MaybeUninit::zeroed();

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
    constant!(BACKED) != 0
}

#[inline(always)]
fn step(event: Event) -> *mut u8 {
    let steps: *mut Steps =
        element((&raw mut STEPS).cast(), tid(current_task()) & (PLACES as u64 - 1));
    steps.cast::<u8>().wrapping_add(event as usize)
}

/// The program that does the work runs.
#[inline(always)]
pub(crate) fn begin(event: Event) {
    if backed() {
        // SAFETY: the variable is there, and only the thread accesses its place.
        unsafe { step(event).write_volatile(FIRST_STEP as u8) };
    }
}

/// A backup runs. Returns whether no program ran before it.
#[inline(always)]
pub(crate) fn is_left(event: Event) -> bool {
    let step = step(event);
    // SAFETY: as in `begin`.
    let before = u64::from(unsafe { step.read_volatile() });
    let own = hooked::step();
    // SAFETY: likewise.
    unsafe { step.write_volatile(own as u8) };
    before <= own
}
