//! Reports of accesses to other namespaces' objects without an IPC call.
//!
//! A thread can repeat an access a million times, with each page fault or read. So of accesses that differ only in
//! their time, the first is reported, and the others are counted for a second: user space adds these up. Such records
//! get no more than seven eighths of the control ring (`rings::Share`), and a record that finds no room is counted as
//! dropped.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
    macros::map,
    maps::HashMap,
};
use ipc_trace_common::{
    layout::Field,
    record::{AccessPath, AccessRecord, NAME_LEN, NsRef, RecordKind, flag, queue_flag},
    state::{COALESCE_NS, Coalesced, CoalescedKey, Diagnostic, MAX_COALESCED},
};

use crate::{
    base::{
        counts,
        memory::{bytes, current_task, field, kernel_bytes, kernel_field},
        rings::{self, Share},
    },
    metadata::namespaces,
    thread::{context, slots},
};

/// Accesses that are counted without being reported one by one.
#[map]
static COALESCED_ACCESSES: HashMap<CoalescedKey, Coalesced> =
    HashMap::with_max_entries(MAX_COALESCED, 0);

/// Bits of [`report_access`]'s first argument, beside the access path: the object's namespace is unknown here.
pub(crate) const UNREPORTED: u64 = 1 << 8;
/// The file's name is meaningless.
pub(crate) const NAMELESS: u64 = 1 << 9;
/// The object is a queue's file, or an mqueue file system.
pub(crate) const QUEUE: u64 = 1 << 10;

/// Reports an access by the current thread. `what`: an [`AccessPath`] and the bits above; `ipc_ns`: the object's
/// namespace, NULL: a dead one; `dentry` and `inode`: the file's. `segment`: the id of a segment, and above it the
/// key.
///
/// A global function, so that the verifier checks it once and not once for each path through its callers.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn report_access(
    what: u64,
    ipc_ns: u64,
    dentry: u64,
    inode: u64,
    segment: u64,
) -> u64 {
    let pid_tgid = bpf_get_current_pid_tgid();
    // First, before branches diverge, as in `calls::finish_call`: ten programs call this.
    let task = current_task();
    let ipc_ns_of_caller = namespaces::of_task(task);
    let cred = field(task, Field::TaskCred);
    let mut whose = NsRef { inum: 0, generation: 0 };
    let mut flags = 0;
    if what & UNREPORTED == 0 {
        flags = queue_flag::KNOWN;
        if ipc_ns == 0 {
            flags |= queue_flag::DEAD;
        } else {
            flags |= queue_flag::FOREIGN;
            whose = namespaces::identify_read(ipc_ns);
        }
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key =
        CoalescedKey { pid_tgid, file: inode, ns: whose, channel: what as u32 & 0xff, reserved: 0 };
    let entry = COALESCED_ACCESSES.get_ptr_mut(&key);
    if let Some(entry) = entry {
        // SAFETY: the map gave the pointer; both are aligned words. User space removes an entry only when it has been
        // unused for far longer than this.
        unsafe {
            if now - core::ptr::addr_of!((*entry).sent_ns).read_volatile() < COALESCE_NS {
                counts::add(core::ptr::addr_of_mut!((*entry).count), 1);
                return 0;
            }
        }
    }
    let ns = namespaces::identify(ipc_ns_of_caller);
    // A thread that is ending has released its slot, or is about to: its description is sent for this access alone.
    let slot = slots::find_or_take(pid_tgid, Diagnostic::NoSlotForTask);
    let once = slot.is_none() && slots::is_ending();
    let context = match slot {
        Some(slot) => context::ensure(slot, task, ns),
        None if once => context::send_once(task, pid_tgid, ns),
        None => 0,
    };
    let Some(record) = rings::reserve_control::<AccessRecord>(Share::Access) else {
        return 0;
    };
    // SAFETY: the ring has room for a complete record; every field but the unused end of `name` is written, and `len`
    // is below NAME_LEN. `comm` has 16 bytes.
    unsafe {
        let mut len = 0;
        let mut named = 0;
        if what & NAMELESS == 0 {
            len = kernel_field::<u32>(dentry, Field::DentryNameLen) & (NAME_LEN as u32 - 1);
            let name = kernel_field(dentry, Field::DentryName);
            if kernel_bytes(core::ptr::addr_of_mut!((*record).name).cast(), len, name) {
                named = flag::DETAIL;
            }
        }
        (*record).header = rings::header(RecordKind::Access, named);
        (*record).header.code = what as u8;
        (*record).boot_ns = now;
        (*record).context = context;
        (*record).tid = pid_tgid as u32;
        (*record).pid = (pid_tgid >> 32) as u32;
        (*record).euid = field(cred, Field::CredEuid);
        (*record).egid = field(cred, Field::CredEgid);
        (*record).ns = ns;
        (*record).object.ns = whose;
        (*record).object.flags = flags;
        (*record).object.ino = segment & 0xffff_ffff;
        (*record).object.dev = 0;
        if what & QUEUE != 0 {
            (*record).object.ino = kernel_field(inode, Field::InodeNumber);
            let sb = kernel_field(inode, Field::InodeSb);
            (*record).object.dev = kernel_field(sb, Field::SbDev);
        }
        (*record).key = (segment >> 32) as u32;
        (*record).count = 1;
        (*record).file = inode;
        kernel_bytes(
            core::ptr::addr_of_mut!((*record).comm).cast(),
            16,
            task + bytes(Field::TaskComm),
        );
        (*record).name_len = len;
        (*record).reserved = 0;
    }
    rings::submit(record);
    if once && context != 0 {
        context::emit_end(pid_tgid, context);
    }
    match entry {
        // SAFETY: as above.
        Some(entry) => unsafe { core::ptr::addr_of_mut!((*entry).sent_ns).write_volatile(now) },
        // If there is no room, each access is reported.
        None => {
            let _ = COALESCED_ACCESSES.insert(
                &key,
                &Coalesced { sent_ns: now, count: 0 },
                BPF_NOEXIST.into(),
            );
        }
    }
    0
}

/// The first argument of [`report_access`] for an access path.
#[inline(always)]
pub(crate) const fn what(channel: AccessPath) -> u64 {
    channel as u64
}
