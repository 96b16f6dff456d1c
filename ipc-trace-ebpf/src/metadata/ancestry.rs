//! A process's ancestors: read when its context is sent, so they are right even for a process that lives a
//! millisecond and is gone before anything could read `/proc`.
//!
//! Tasks are freed a grace period after they are removed from their parents' lists (`delayed_put_task_struct`,
//! kernel/exit.c), and programs run in read-side critical sections of RCU: so the parent's address is valid.

use ipc_trace_common::{
    layout::Field,
    record::{ANCESTORS, AncestorRecord, flag},
};

use crate::{
    base::memory::{bytes, field, kernel_bytes, kernel_field},
    metadata::cgroups,
};

/// The parent of the process whose first thread is `leader`, by its first thread; the last one is the idle task,
/// which is its own parent and has the number 0.
#[inline(always)]
fn parent(leader: u64) -> u64 {
    // Any thread of the parent.
    let parent = field(leader, Field::TaskRealParent);
    field(parent, Field::TaskGroupLeader)
}

/// Writes the ancestors of a process, the nearest first: returns how many, and `CUT` if there are more.
///
/// # Safety
/// `to` is valid for writing.
#[inline(always)]
pub(crate) unsafe fn read(leader: u64, to: *mut [AncestorRecord; ANCESTORS]) -> (u32, u32) {
    let mut leader = parent(leader);
    let mut pid: u32 = kernel_field(leader, Field::TaskTgid);
    let mut count = 0;
    // One entry and one back edge, at its end: 5.10 accepts a loop only if a jump closes it (`push_insn`,
    // kernel/bpf/verifier.c).
    while pid != 0 && count < ANCESTORS {
        // SAFETY: `count` is below the array's length, and the caller says that it is valid; every field
        // is written.
        unsafe {
            let one = to.cast::<AncestorRecord>().add(count);
            (*one).start_boot_ns = kernel_field(leader, Field::TaskStartBoottime);
            (*one).cgroup = cgroups::of_task(leader);
            let comm = core::ptr::addr_of_mut!((*one).comm).cast();
            kernel_bytes(comm, 16, leader + bytes(Field::TaskComm));
            (*one).pid = pid;
            (*one).reserved = 0;
        }
        count += 1;
        leader = parent(leader);
        pid = kernel_field(leader, Field::TaskTgid);
    }
    (count as u32, if pid != 0 { flag::CUT } else { 0 })
}
