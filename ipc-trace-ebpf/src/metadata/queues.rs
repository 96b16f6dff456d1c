//! From a queue descriptor to the queue and its namespace, which need not be the caller's.
//!
//! `files->fdt->fd[n]->f_inode->i_sb`: the superblock of an mqueue file system has `s_magic` `MQUEUE_MAGIC` and the
//! IPC namespace in `s_fs_info`, which becomes NULL when the namespace dies (`mq_clear_sbinfo`, ipc/mqueue.c). Looked
//! up when the call enters the kernel: while it sleeps, another thread can close the descriptor or replace its file.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, LruHashMap},
};
use ipc_trace_common::{
    layout::Field,
    record::{NAME_LEN, NsRef, QueueRecord, QueueRef, RecordKind, flag, queue_flag},
};

use crate::{
    base::{
        memory::{current_task, field, kernel, kernel_bytes},
        rings::{self, Share},
        words::masked,
    },
    metadata::namespaces,
};

/// `MQUEUE_MAGIC`, ipc/mqueue.c
pub(crate) const MQUEUE_MAGIC: u64 = 0x1980_0202;

/// Cached queues, by `ino & 0xfff`.
#[map]
static QUEUES: Array<CachedQueue> = Array::with_max_entries(1 << 12, 0);
/// Queues whose names were sent, by their inode numbers: those of mqueue file systems do not repeat for 2^32 inodes.
#[map]
static NAMED_QUEUES: LruHashMap<u64, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// A cached queue. Inode numbers of mqueue file systems come from `get_next_ino` and do not repeat for 2^32 inodes,
/// so the pair (inode, number) identifies a queue that was checked before.
///
/// Two CPUs may write two queues to one entry at once, or one may read while another one writes: a value is used only
/// if its checksum is right.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct CachedQueue {
    inode: u64,
    ino: u64,
    sb: u64,
    dev: u64,
    sum: u64,
}

impl CachedQueue {
    /// The checksum, which distinguishes a queue from a mixture of two. The reader of an entry compares the inode and
    /// its number, so a mixture could be wrong only in the superblock and the device number: with the right queue's
    /// checksum, only if the superblocks lie a multiple of 2^40 bytes apart; with the other one's, with a chance of
    /// 2^-64.
    #[inline(always)]
    fn sum(&self) -> u64 {
        let place = self.inode.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let number = self.ino.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        place ^ number ^ self.sb.wrapping_add(self.dev << 40)
    }

    /// Reads an entry, word by word.
    #[inline(always)]
    fn read(from: *const Self) -> Self {
        let word = |at: usize| {
            // SAFETY: the caller has the pointer from the map, and an entry is five words.
            unsafe { from.cast::<u64>().add(at).read_volatile() }
        };
        Self { inode: word(0), ino: word(1), sb: word(2), dev: word(3), sum: word(4) }
    }

    #[inline(always)]
    fn write(&self, to: *mut Self) {
        for (at, word) in
            [self.inode, self.ino, self.sb, self.dev, self.sum].into_iter().enumerate()
        {
            // SAFETY: as above.
            unsafe { to.cast::<u64>().add(at).write_volatile(word) };
        }
    }
}

const _: () = assert!(size_of::<CachedQueue>() == 5 * 8);

/// No queue. Of zeros that the compiler does not know to be zeros: else it calls `memset`, which is a loop over bytes
/// here, and made every call a hundred instructions more expensive.
#[inline(always)]
pub(crate) fn none() -> QueueRef {
    let zero = masked::<0>(0);
    let half = zero as u32;
    QueueRef { ns: NsRef { inum: half, generation: half }, ino: zero, dev: half, flags: half }
}

/// Writes a queue, in words: an assignment becomes a call of `memmove`, which is a loop over bytes here.
///
/// # Safety
/// `to` is valid for writing, and aligned.
#[inline(always)]
pub(crate) unsafe fn write(to: *mut QueueRef, queue: &QueueRef) {
    // SAFETY: a queue is three words, aligned as such; the rest as the caller says.
    unsafe { to.cast::<[u64; 3]>().write(core::ptr::from_ref(queue).cast::<[u64; 3]>().read()) };
}

const _: () = assert!(size_of::<QueueRef>() == 24 && align_of::<QueueRef>() == 8);

/// Whether a queue is known to belong to another namespace than the thread that it was compared with.
#[inline(always)]
pub(crate) fn is_foreign(queue: &QueueRef) -> bool {
    queue.flags & queue_flag::FOREIGN != 0
}

/// Whether two queue references are equal.
#[inline(always)]
pub(crate) fn same(one: &QueueRef, other: &QueueRef) -> bool {
    one.ino == other.ino
        && one.dev == other.dev
        && one.flags == other.flags
        && one.ns.inum == other.ns.inum
        && one.ns.generation == other.ns.generation
}

/// Marks a queue that isn't in the caller's namespace as foreign.
#[inline(always)]
pub(crate) fn compare(queue: &mut QueueRef, caller: NsRef) {
    let known = queue.flags & queue_flag::KNOWN != 0;
    let same = queue.ns.inum == caller.inum && queue.ns.generation == caller.generation;
    if known && !same {
        queue.flags |= queue_flag::FOREIGN;
    }
}

/// The file behind descriptor `fd` of `task` (`struct file *`); `0`: none.
#[inline(always)]
pub(crate) fn file(task: u64, fd: u32) -> u64 {
    let fdt: u64 = field(field(task, Field::TaskFiles), Field::FilesFdt);
    if fd >= field::<u32>(fdt, Field::FdtableMax) {
        return 0;
    }
    kernel(field::<u64>(fdt, Field::FdtableFd) + u64::from(fd) * 8)
}

/// `i_mode` of the queue whose descriptor mq_open returned as `ret`; `0`: not known.
#[inline(always)]
pub(crate) fn mode(ret: i64, queue: &QueueRef) -> u32 {
    if queue.flags & queue_flag::KNOWN == 0 {
        return 0;
    }
    let file = file(current_task(), ret as u32);
    u32::from(field::<u16>(field(file, Field::FileInode), Field::InodeMode))
}

/// What is behind a descriptor: file, inode, inode number, superblock, IPC namespace if it is a queue. Two of a queue
/// that are equal are of one queue, see [`CachedQueue`], in the same state. All are 0 if there is no file.
pub(crate) type Pointers = [u64; 5];

/// What is behind descriptor `fd` of `task`.
#[inline(always)]
pub(crate) fn pointers(task: u64, fd: u32) -> Pointers {
    let zero = masked::<0>(0);
    let file = file(task, fd);
    if file == 0 {
        return [zero; 5];
    }
    let inode: u64 = field(file, Field::FileInode);
    let sb: u64 = field(inode, Field::InodeSb);
    [file, inode, field(inode, Field::InodeNumber), sb, field(sb, Field::SbInfo)]
}

/// The queue behind descriptor `fd` of `task`.
#[inline(always)]
pub(crate) fn behind(task: u64, fd: u32) -> QueueRef {
    queue_at(&pointers(task, fd)).0
}

/// The queue, and whether it was cached: else its name may not have been sent.
#[inline(always)]
pub(crate) fn queue_at(&[file, inode, ino, sb, ipc_ns]: &Pointers) -> (QueueRef, bool) {
    let mut queue = none();
    if file == 0 {
        return (queue, false);
    }
    let Some(entry) = QUEUES.get_ptr_mut(ino as u32 & 0xfff) else {
        return (queue, false);
    };
    let cached = CachedQueue::read(entry);
    let mut dev = cached.dev as u32;
    let is_cached = cached.inode == inode && cached.ino == ino && cached.sum == cached.sum();
    if !is_cached {
        if cache_queue(file) == 0 {
            return (queue, false);
        }
        dev = field(sb, Field::SbDev);
    }
    (queue.ino, queue.dev) = (ino, dev);
    describe(&mut queue, ipc_ns);
    (queue, is_cached)
}

/// Fills in a queue's namespace; 0: it is dead.
#[inline(always)]
fn describe(queue: &mut QueueRef, ipc_ns: u64) {
    queue.flags = queue_flag::KNOWN;
    if ipc_ns == 0 {
        queue.flags |= queue_flag::DEAD;
    } else {
        queue.ns = namespaces::identify_read(ipc_ns);
    }
}

/// Caches a file that may be a queue: `1`, or `0`. Its name is sent if it wasn't before; if it could not be sent, the
/// file isn't cached, so that the next call tries again.
///
/// A global function, so that the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn cache_queue(file: u64) -> u64 {
    let inode: u64 = field(file, Field::FileInode);
    let ino: u64 = field(inode, Field::InodeNumber);
    let sb: u64 = field(inode, Field::InodeSb);
    if field::<u64>(sb, Field::SbMagic) != MQUEUE_MAGIC {
        return 0;
    }
    let dev: u32 = field(sb, Field::SbDev);
    let mut queue = none();
    (queue.ino, queue.dev) = (ino, dev);
    describe(&mut queue, field(sb, Field::SbInfo));
    if announce(file, &queue)
        && let Some(entry) = QUEUES.get_ptr_mut(ino as u32 & 0xfff)
    {
        let mut cached = CachedQueue { inode, ino, sb, dev: u64::from(dev), sum: 0 };
        cached.sum = cached.sum();
        cached.write(entry);
    }
    1
}

/// Sends a queue's name, if it wasn't sent yet. Returns whether it has been sent.
#[inline(always)]
fn announce(file: u64, queue: &QueueRef) -> bool {
    let number = queue.ino;
    if NAMED_QUEUES.get_ptr(&number).is_some() {
        return true;
    }
    let Some(record) = rings::reserve_control::<QueueRecord>(Share::Repeatable) else {
        return false;
    };
    let dentry: u64 = field(file, Field::FileDentry);
    let len = field::<u32>(dentry, Field::DentryNameLen) & (NAME_LEN as u32 - 1);
    let name: u64 = field(dentry, Field::DentryName);
    // SAFETY: the ring has room for a complete record; `len` is below NAME_LEN.
    unsafe {
        let read = kernel_bytes(core::ptr::addr_of_mut!((*record).name).cast(), len, name);
        (*record).header = rings::header(RecordKind::Queue, if read { flag::DETAIL } else { 0 });
        (*record).boot_ns = bpf_ktime_get_boot_ns();
        (*record).queue = *queue;
        (*record).name_len = len;
        (*record).reserved = 0;
    }
    rings::submit(record);
    let _ = NAMED_QUEUES.insert(&number, &0, u64::from(BPF_ANY));
    true
}
