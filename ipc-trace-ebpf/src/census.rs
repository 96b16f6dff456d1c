//! The census: an iterator over all tasks that lists the IPC namespaces that exist, also those
//! that no process is in, and the calls that have not returned.
//!
//! Each IPC namespace has one superblock of type mqueue (`mq_init_ns`, ipc/mqueue.c): the list of
//! that type's superblocks is the list of namespaces. It is walked without its lock: an entry may
//! be missed or seen twice while the list changes, and the user side allows for that.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_seq_write};
use aya_log_ebpf::warn;
use ipc_trace_common::{
    layout::Field,
    record::{EndRecord, Header, Kind, NamespaceRecord, PendingRecord, VERSION, flag},
    state::DIAGNOSTICS,
};

use crate::{
    context, maps,
    memory::{exists, field, kernel},
    namespaces, slots,
};

/// Namespaces that one census can list.
const LIMIT: u32 = 8192;

/// `struct bpf_iter__task` (kernel/bpf/task_iter.c) with `struct bpf_iter_meta`
/// (include/linux/bpf.h), whose first member is the `seq_file`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn census(ctx: *mut u64) -> i32 {
    // SAFETY: the verifier checks the accesses to the context.
    let (meta, task) = unsafe { (ctx.read_volatile(), ctx.add(1).read_volatile()) };
    // SAFETY: as above; the members are three 64-bit values: seq, session_id, seq_num.
    let (seq, number) = unsafe {
        ((meta as *const u64).read_volatile(), (meta as *const u64).add(2).read_volatile())
    };
    if task == 0 {
        return 0;
    }
    if number == 0 {
        log_diagnostics(ctx);
        list_namespaces(seq, task);
    }
    let tid: u32 = kernel(task + context::bytes(Field::TaskPid));
    let pid: u32 = kernel(task + context::bytes(Field::TaskTgid));
    let Some(slot) = slots::find(u64::from(pid) << 32 | u64::from(tid)) else {
        return 0;
    };
    let enter_boot_ns = slot.enter_ns;
    if enter_boot_ns == 0 {
        return 0;
    }
    let nsproxy: u64 = kernel(task + context::bytes(Field::TaskNsproxy));
    let ipc_ns: u64 = kernel(nsproxy + context::bytes(Field::NsproxyIpc));
    let record = PendingRecord {
        header: Header {
            version: VERSION,
            kind: Kind::Pending as u8,
            abi: slot.abi,
            code: slot.code,
            flags: 0,
        },
        enter_boot_ns,
        context: slot.context,
        tid,
        pid,
        ns: namespaces::look(kernel(ipc_ns + context::bytes(Field::IpcNsInum))),
        queue: slot.queue,
        arg0: slot.arg0,
        comm: kernel(task + context::bytes(Field::TaskComm)),
    };
    write(seq, &record);
    0
}

#[inline(always)]
fn write<T>(seq: u64, record: &T) {
    // SAFETY: `seq` came from the iterator's context, and `record` has that many bytes.
    unsafe {
        bpf_seq_write(seq as *mut _, core::ptr::from_ref(record).cast(), size_of::<T>() as u32)
    };
}

#[inline(never)]
fn list_namespaces(seq: u64, task: u64) {
    // SAFETY: no arguments.
    let boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    let mut end =
        EndRecord { header: context::header(Kind::End, 0), boot_ns, namespaces: u64::MAX };
    let able = exists(Field::IpcNsMqMount)
        && exists(Field::VfsmountSb)
        && exists(Field::SbType)
        && exists(Field::SbInstances)
        && exists(Field::FsSupers)
        && exists(Field::SbInfo);
    if !able {
        write(seq, &end);
        return;
    }
    let nsproxy: u64 = kernel(task + context::bytes(Field::TaskNsproxy));
    let ipc_ns: u64 = kernel(nsproxy + context::bytes(Field::NsproxyIpc));
    let mount: u64 = field(ipc_ns, Field::IpcNsMqMount);
    let sb: u64 = field(mount, Field::VfsmountSb);
    let kind: u64 = field(sb, Field::SbType);
    let mut node: u64 = field(kind, Field::FsSupers);
    end.namespaces = 0;
    for _ in 0..LIMIT {
        if node == 0 {
            break;
        }
        let sb = node - context::bytes(Field::SbInstances);
        let ipc_ns: u64 = field(sb, Field::SbInfo);
        if ipc_ns != 0 {
            let record = NamespaceRecord {
                header: context::header(Kind::Alive, 0),
                boot_ns,
                ns: namespaces::look(kernel(ipc_ns + context::bytes(Field::IpcNsInum))),
                ns_id: field(ipc_ns, Field::IpcNsId),
            };
            write(seq, &record);
            end.namespaces += 1;
        }
        // struct hlist_node { struct hlist_node *next, **pprev; }
        node = kernel(node);
    }
    if node != 0 {
        end.header.flags = flag::TRUNCATED;
    }
    write(seq, &end);
}

/// Rare conditions go to the user's log from here, so at most once per census.
#[inline(never)]
fn log_diagnostics(ctx: *mut u64) {
    for what in 0..DIAGNOSTICS {
        if let Some(count) = maps::diagnosed(what) {
            warn!(&ctx, "diagnostic {} came up {} times so far", what, count);
        }
    }
}
