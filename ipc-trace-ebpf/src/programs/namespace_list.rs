//! The namespace list: an iterator over all tasks that lists the IPC namespaces that exist, including those without a
//! process, and the calls that have not returned.
//!
//! Each IPC namespace has one superblock of type mqueue (`mq_init_ns`, ipc/mqueue.c): the list of
//! that type's superblocks is the list of namespaces. It is walked without its lock: an entry may
//! be missed or seen twice while the list changes, and user space allows for that.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_seq_write},
    },
    macros::map,
    maps::Array,
};
use ipc_trace_common::{
    layout::Field,
    record::{
        EndRecord, NamespaceRecord, NsRef, PackedCall, PendingRecord, RecordKind, UNKNOWN_COUNT,
        flag,
    },
};

use crate::{
    base::{
        gate::gate,
        memory::{bytes, exists, field, kernel, unknown},
        registers::Call,
        rings::header,
    },
    metadata::{exe_path, namespaces, queues},
    thread::{batches, slots},
};

/// [0]: the state of the walk.
#[map]
pub(crate) static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// Superblocks that are visited per task of the iteration: a host has many tasks, so the list gets long enough.
const STEP: u32 = 64;

/// The state of the walk through the superblocks.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Walk {
    /// When the namespace list began
    boot_ns: u64,
    /// The type's address: every superblock in the list has it
    kind: u64,
    /// The next node (`super_block.s_instances`); `0`: the end is reached
    node: u64,
    /// Namespaces listed
    listed: u64,
    /// [`flag::TRUNCATED`]: the list changed during the walk
    flags: u32,
    /// Padding
    reserved: u32,
    /// The namespace that was found last
    found: NamespaceRecord,
}

/// The part of a [`Walk`] that is restored when the buffer is full.
type Stand = (u64, u64, u32);

/// `struct bpf_iter__task` (kernel/bpf/task_iter.c) with `struct bpf_iter_meta`
/// (include/linux/bpf.h), whose first member is the `seq_file`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn namespace_list(ctx: *mut u64) -> i32 {
    // SAFETY: the verifier checks the accesses to the context.
    let (meta, task) = unsafe { (ctx.read_volatile(), ctx.add(1).read_volatile()) };
    // SAFETY: as above; the members are three 64-bit values: seq, session_id, seq_num.
    let (seq, number) = unsafe {
        ((meta as *const u64).read_volatile(), (meta as *const u64).add(2).read_volatile())
    };
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the map gave the pointer; one process reads one namespace list at a time.
    let walk = unsafe { &mut *walk };
    if task == 0 {
        end(seq, walk);
        return 0;
    }
    if number == 0 {
        begin(walk, task);
    }
    // Tasks that already run; later ones are seen at exec.
    if !gate().is_open() {
        exe_path::found_task(unknown(task));
    }
    // If the buffer is full, the kernel discards what was written for this task and repeats the step (`bpf_seq_read`,
    // kernel/bpf/bpf_iter.c): the walk advances only when all records fit.
    let stood = walk.stand();
    if !list_namespaces(seq, walk) || !list_pending(seq, task) {
        walk.go_back(stood);
    }
    0
}

impl Walk {
    #[inline(always)]
    pub(crate) fn stand(&self) -> Stand {
        (self.node, self.listed, self.flags)
    }

    #[inline(always)]
    pub(crate) fn go_back(&mut self, to: Stand) {
        (self.node, self.listed, self.flags) = to;
    }
}

/// Lists the current call of `task`, if it is in one. Returns whether there was room.
#[inline(always)]
fn list_pending(seq: u64, task: u64) -> bool {
    let tid: u32 = kernel(task + bytes(Field::TaskPid));
    let pid: u32 = kernel(task + bytes(Field::TaskTgid));
    let pid_tgid = u64::from(pid) << 32 | u64::from(tid);
    let mut record = PendingRecord {
        header: header(RecordKind::Pending, 0),
        enter_boot_ns: 0,
        context: 0,
        tid,
        pid,
        ns: NsRef { inum: 0, generation: 0 },
        queue: queues::none(),
        arg0: 0,
        comm: [0; 16],
    };
    if let Some(batch) = batches::pending(pid_tgid) {
        (record.enter_boot_ns, record.context) = (batch.enter_ns, batch.record.head.context);
        let PackedCall { id, abi, code } = PackedCall::unpacked(batch.what);
        (record.header.abi, record.header.code) = (abi, code);
        record.arg0 = u64::from(id as u32);
        record.queue = batch.record.head.queue;
    } else if let Some(noted) = batches::taken_from(pid_tgid) {
        (record.enter_boot_ns, record.context) = (noted.enter_ns, noted.context);
        let PackedCall { id, abi, code } = PackedCall::unpacked(noted.what);
        (record.header.abi, record.header.code) = (abi, code);
        record.arg0 = u64::from(id as u32);
        record.queue = noted.queue;
    } else if let Some(slot) = slots::find(pid_tgid) {
        let call = Call::unpacked(0, slot.entered);
        // The call may be returning right now.
        if call.code.op().is_none() {
            return true;
        }
        (record.enter_boot_ns, record.context) = (slot.enter_ns, slot.context);
        (record.header.abi, record.header.code) = (call.abi as u8, call.code.0);
        (record.queue, record.arg0) = (slot.queue, slot.arg0);
    }
    if record.enter_boot_ns == 0 {
        return true;
    }
    record.ns = namespaces::lookup(inum(task));
    record.comm = kernel(task + bytes(Field::TaskComm));
    write(seq, &record)
}

#[inline(always)]
pub(crate) fn write<T>(seq: u64, record: &T) -> bool {
    // SAFETY: `seq` came from the iterator's context, and `record` has that many bytes.
    unsafe {
        bpf_seq_write(seq as *mut _, core::ptr::from_ref(record).cast(), size_of::<T>() as u32) == 0
    }
}

/// Inode number of the task's IPC namespace.
#[inline(always)]
fn inum(task: u64) -> u32 {
    kernel(ipc_ns(task) + bytes(Field::IpcNsInum))
}

#[inline(always)]
pub(crate) fn ipc_ns(task: u64) -> u64 {
    let nsproxy: u64 = kernel(task + bytes(Field::TaskNsproxy));
    kernel(nsproxy + bytes(Field::NsproxyIpc))
}

#[inline(always)]
pub(crate) fn begin(walk: &mut Walk, task: u64) {
    // SAFETY: no arguments.
    walk.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    walk.node = 0;
    walk.listed = u64::MAX;
    walk.flags = 0;
    let able = exists(Field::IpcNsMqMount)
        && exists(Field::VfsmountSb)
        && exists(Field::SbType)
        && exists(Field::SbInstances)
        && exists(Field::FsSupers);
    if able {
        let mount: u64 = field(ipc_ns(task), Field::IpcNsMqMount);
        let sb: u64 = field(mount, Field::VfsmountSb);
        walk.kind = field(sb, Field::SbType);
        walk.node = field(walk.kind, Field::FsSupers);
        walk.listed = 0;
    }
}

/// Lists the namespaces from the walk's position. Returns whether there was room.
#[inline(always)]
pub(crate) fn list_namespaces(seq: u64, walk: &mut Walk) -> bool {
    for _ in 0..STEP {
        // Read anew in each step: so each step looks the same to the verifier.
        let walk = core::ptr::from_mut(walk);
        // SAFETY: it was made of a reference.
        let node = unsafe { core::ptr::addr_of!((*walk).node).read_volatile() };
        if node == 0 {
            break;
        }
        if next_namespace(node) == 0 {
            continue;
        }
        // SAFETY: as above; the function has written it.
        let (found, listed) = unsafe { (&(*walk).found, &mut (*walk).listed) };
        if !write(seq, found) {
            return false;
        }
        *listed += 1;
    }
    true
}

/// Advances the walk from `node`. Returns whether there is a namespace: `1`, or `0`.
///
/// A global function, so that the verifier checks it once and not once a step.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn next_namespace(node: u64) -> u64 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the map gave the pointer; one process reads one namespace list at a time.
    let walk = unsafe { &mut *walk };
    let sb = node - bytes(Field::SbInstances);
    if field::<u64>(sb, Field::SbType) != walk.kind {
        // It was freed since the step before, and the rest of the list is lost.
        walk.flags = flag::TRUNCATED;
        walk.node = 0;
        return 0;
    }
    // struct hlist_node { struct hlist_node *next, **pprev; }
    walk.node = kernel(node);
    let ipc_ns: u64 = field(sb, Field::SbInfo);
    if ipc_ns == 0 {
        return 0;
    }
    walk.found = NamespaceRecord {
        header: header(RecordKind::Alive, 0),
        boot_ns: walk.boot_ns,
        ns: namespaces::listed(kernel(ipc_ns + bytes(Field::IpcNsInum))),
        ns_id: field(ipc_ns, Field::IpcNsId),
        mqueue_dev: field(sb, Field::SbDev),
        mq_queues: match exists(Field::IpcNsMqQueues) {
            true => field(ipc_ns, Field::IpcNsMqQueues),
            false => UNKNOWN_COUNT,
        },
    };
    1
}

#[inline(always)]
pub(crate) fn end(seq: u64, walk: &Walk) {
    exe_path::learn_own();
    let flags = if walk.node == 0 { walk.flags } else { flag::TRUNCATED };
    let record = EndRecord {
        header: header(RecordKind::End, flags),
        boot_ns: walk.boot_ns,
        namespaces: walk.listed,
        self_pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        // SAFETY: no arguments.
        self_ns_inum: inum(unsafe { bpf_get_current_task() }),
    };
    write(seq, &record);
}
