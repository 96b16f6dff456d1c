//! Ways to other namespaces' objects that are no operations: what is told of them.
//!
//! A thread can do the same a million times, a page fault or a read each time. So what is the same but for its
//! time is told of once, then counted for a second: user space adds up those that were not told of.
//! Such records get no more than half of the control ring, and what finds no room is counted as dropped.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
    macros::map,
    maps::HashMap,
};
use ipc_trace_common::{
    layout::Field,
    record::{AccessRecord, Channel, NAME_LEN, NsRef, RecordKind, flag, queue_flag},
    state::{Diagnostic, FOLD_NS, FOLDS, Fold, FoldKey},
};

use crate::{
    base::{
        counts,
        memory::{bytes, current_task, field, kernel_bytes, kernel_field},
        rings::{self, Share},
    },
    facts::namespaces,
    thread::{context, slots},
};

/// Accesses that are counted, and not told of each.
#[map]
static ACCESS_FOLDS: HashMap<FoldKey, Fold> = HashMap::with_max_entries(FOLDS, 0);

/// Bits of [`tell`]'s first argument, beside the channel: whose the object is can't be told here.
pub(crate) const UNTOLD: u64 = 1 << 8;
/// The file has no name that says anything.
pub(crate) const NAMELESS: u64 = 1 << 9;
/// What was reached is a queue's, or an mqueue file system's, file.
pub(crate) const QUEUE: u64 = 1 << 10;

/// Tells of an access by the current thread. `what`: a [`Channel`] and the bits above; `ipc_ns`: whose it is
/// that was reached, NULL: a dead namespace's; `dentry` and `inode`: the file's. `segment`: of a segment its id,
/// and above it the key.
///
/// A global function, so that the verifier looks at it once and not once for each way that leads here.
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
    // First, before ways part, as in `calls::finish_call`: there are ten programs that call this.
    let task = current_task();
    let ipc_ns_of_caller = namespaces::of_task(task);
    let cred = field(task, Field::TaskCred);
    let mut whose = NsRef { inum: 0, generation: 0 };
    let mut flags = 0;
    if what & UNTOLD == 0 {
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
        FoldKey { pid_tgid, file: inode, ns: whose, channel: what as u32 & 0xff, reserved: 0 };
    let fold = ACCESS_FOLDS.get_ptr_mut(&key);
    if let Some(fold) = fold {
        // SAFETY: the map gave the pointer; both are whole words. User space takes an entry away only
        // when it has been left alone for far longer than this.
        unsafe {
            if now - core::ptr::addr_of!((*fold).sent_ns).read_volatile() < FOLD_NS {
                counts::add(core::ptr::addr_of_mut!((*fold).count), 1);
                return 0;
            }
        }
    }
    let ns = namespaces::identify(ipc_ns_of_caller);
    // A thread that is ending has given its slot back, or is about to: it is described for this alone.
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
    // SAFETY: the ring gave room for a whole record; every field but the unused end of `name` is written,
    // and `len` is below NAME_LEN. `comm` has 16 bytes.
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
        context::tell_end(pid_tgid, context);
    }
    match fold {
        // SAFETY: as above.
        Some(fold) => unsafe { core::ptr::addr_of_mut!((*fold).sent_ns).write_volatile(now) },
        // When there is no room, each is told of.
        None => {
            let _ = ACCESS_FOLDS.insert(&key, &Fold { sent_ns: now, count: 0 }, BPF_NOEXIST.into());
        }
    }
    0
}

/// The first argument of [`tell`] for a channel.
#[inline(always)]
pub(crate) const fn what(channel: Channel) -> u64 {
    channel as u64
}
