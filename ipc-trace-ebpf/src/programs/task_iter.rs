//! The task iterators, for a snapshot without any tracing: they list all IPC namespaces and all threads, descriptors
//! related to IPC, and mapped segments.
//!
//! A record that does not fit into the buffer is requested again (`bpf_seq_read`, kernel/bpf/bpf_iter.c), so nothing
//! is missing for lack of room.

use ipc_trace_common::{
    layout::Field,
    record::{
        DescriptorKind, DescriptorRecord, MappingRecord, NAME_LEN, RecordKind, TaskRecord, flag,
    },
};

use crate::{
    access::files::{
        HUGETLBFS_MAGIC, PROC_SUPER_MAGIC, TMPFS_MAGIC, is_sysvipc, sysvipc_namespace,
    },
    base::{
        memory::{exists, field, kernel_bytes, kernel_field},
        rings::header,
    },
    metadata::queues::MQUEUE_MAGIC,
    programs::namespace_list::{self, WALK},
    thread::context::pid_namespace,
};

/// `NSFS_MAGIC` (include/uapi/linux/magic.h)
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Member `n` of an iterator's context: `struct bpf_iter__task` and similar structures consist of 64-bit values.
#[inline(always)]
fn member(ctx: *mut u64, n: usize) -> u64 {
    // SAFETY: the verifier checks the accesses to the context.
    unsafe { ctx.add(n).read_volatile() }
}

/// `seq` and `seq_num` of `struct bpf_iter_meta` (include/linux/bpf.h): seq, session_id, seq_num.
#[inline(always)]
fn meta(ctx: *mut u64) -> (u64, u64) {
    let meta = member(ctx, 0) as *const u64;
    // SAFETY: as above.
    unsafe { (meta.read_volatile(), meta.add(2).read_volatile()) }
}

/// `struct bpf_iter__task` (kernel/bpf/task_iter.c).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn iter_tasks(ctx: *mut u64) -> i32 {
    let (seq, number) = meta(ctx);
    let task = member(ctx, 1);
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the map gave the pointer; one process reads one task iterator at a time.
    let walk = unsafe { &mut *walk };
    if task == 0 {
        namespace_list::end(seq, walk);
        return 0;
    }
    if number == 0 {
        namespace_list::begin(walk, task);
    }
    // As in the namespace list: the walk advances only when all records fit.
    let stood = walk.stand();
    if !namespace_list::list_namespaces(seq, walk) || !list_task(seq, task) {
        walk.go_back(stood);
    }
    0
}

/// Lists a thread. Returns whether there was room.
#[inline(always)]
fn list_task(seq: u64, task: u64) -> bool {
    let leader: u64 = kernel_field(task, Field::TaskGroupLeader);
    let parent: u64 = kernel_field(task, Field::TaskRealParent);
    let cred: u64 = kernel_field(task, Field::TaskCred);
    // NULL after exit_task_namespaces (kernel/exit.c): all reads below then give 0.
    let nsproxy: u64 = kernel_field(task, Field::TaskNsproxy);
    let ipc_ns: u64 = kernel_field(nsproxy, Field::NsproxyIpc);
    let record = TaskRecord {
        header: header(RecordKind::Task, 0),
        start_boot_ns: kernel_field(leader, Field::TaskStartBoottime),
        tid: kernel_field(task, Field::TaskPid),
        pid: kernel_field(task, Field::TaskTgid),
        ppid: kernel_field(parent, Field::TaskTgid),
        euid: kernel_field(cred, Field::CredEuid),
        egid: kernel_field(cred, Field::CredEgid),
        ipc_ns: kernel_field(ipc_ns, Field::IpcNsInum),
        pid_ns: pid_namespace(task),
        mnt_ns: field(field(nsproxy, Field::NsproxyMnt), Field::MntNsInum),
        user_ns: field(field(cred, Field::CredUserNs), Field::UserNsInum),
        reserved: 0,
        comm: kernel_field(task, Field::TaskComm),
    };
    namespace_list::write(seq, &record)
}

/// `struct bpf_iter__task_file` (kernel/bpf/task_iter.c): meta, task, fd, file. The kernel skips threads that share
/// their leader's table.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn iter_descriptors(ctx: *mut u64) -> i32 {
    let (seq, _) = meta(ctx);
    let (task, fd, file) = (member(ctx, 1), member(ctx, 2) as u32, member(ctx, 3));
    if task == 0 || file == 0 {
        return 0;
    }
    let inode: u64 = kernel_field(file, Field::FileInode);
    let sb: u64 = kernel_field(inode, Field::InodeSb);
    let dentry: u64 = kernel_field(file, Field::FileDentry);
    let (of, ipc_ns) = match kernel_field::<u64>(sb, Field::SbMagic) {
        // The number is the inode's; user space knows which numbers are IPC namespaces.
        NSFS_MAGIC => (DescriptorKind::Namespace, 0),
        MQUEUE_MAGIC => (DescriptorKind::Queue, inum(kernel_field(sb, Field::SbInfo))),
        PROC_SUPER_MAGIC if is_sysvipc(dentry) => {
            let ipc_ns = inum(sysvipc_namespace(file));
            // Opened with O_PATH it belongs to no namespace.
            if ipc_ns == 0 {
                return 0;
            }
            (DescriptorKind::Sysvipc, ipc_ns)
        }
        _ => return 0,
    };
    let mut record = DescriptorRecord {
        header: header(RecordKind::Descriptor, 0),
        ino: kernel_field(inode, Field::InodeNumber),
        pid: kernel_field(task, Field::TaskTgid),
        tid: kernel_field(task, Field::TaskPid),
        fd,
        of: of as u32,
        ipc_ns,
        links: field(inode, Field::InodeLinks),
        name_len: 0,
        reserved: 0,
        name: [0; NAME_LEN],
    };
    if !matches!(of, DescriptorKind::Namespace) {
        let len = kernel_field::<u32>(dentry, Field::DentryNameLen) & (NAME_LEN as u32 - 1);
        let name: u64 = kernel_field(dentry, Field::DentryName);
        // SAFETY: `len` is below NAME_LEN.
        if unsafe { kernel_bytes(record.name.as_mut_ptr(), len, name) } {
            record.name_len = len;
            record.header.flags = flag::DETAIL;
        }
    }
    namespace_list::write(seq, &record);
    0
}

/// The inode number of the namespace at `ipc_ns`; `0`: none.
#[inline(always)]
fn inum(ipc_ns: u64) -> u32 {
    if ipc_ns == 0 { 0 } else { kernel_field(ipc_ns, Field::IpcNsInum) }
}

/// `struct bpf_iter__task_vma` (kernel/bpf/task_iter.c, 5.12 and later): meta, task, vma.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_vma")]
fn iter_mappings(ctx: *mut u64) -> i32 {
    let (seq, _) = meta(ctx);
    let (task, vma) = (member(ctx, 1), member(ctx, 2));
    if task == 0 || vma == 0 || !exists(Field::VmaFile) || !exists(Field::ShmFileId) {
        return 0;
    }
    let file: u64 = field(vma, Field::VmaFile);
    if file == 0 {
        return 0;
    }
    let inode: u64 = kernel_field(file, Field::FileInode);
    let magic: u64 = kernel_field(kernel_field(inode, Field::InodeSb), Field::SbMagic);
    if magic != TMPFS_MAGIC && magic != HUGETLBFS_MAGIC {
        return 0;
    }
    // `struct shm_file_data` (ipc/shm.c) contains the id, and `newseg` makes it the inode's number. Other files of
    // these file systems have no private data.
    let data: u64 = field(file, Field::FilePrivate);
    let shmid: i32 = field(data, Field::ShmFileId);
    let ino: u64 = kernel_field(inode, Field::InodeNumber);
    if data == 0 || ino != shmid as u64 {
        return 0;
    }
    let record = MappingRecord {
        header: header(RecordKind::Mapping, 0),
        start: field(vma, Field::VmaStart),
        end: field(vma, Field::VmaEnd),
        pid: kernel_field(task, Field::TaskTgid),
        shmid,
        ipc_ns: inum(field(data, Field::ShmFileNs)),
        reserved: 0,
    };
    namespace_list::write(seq, &record);
    0
}
