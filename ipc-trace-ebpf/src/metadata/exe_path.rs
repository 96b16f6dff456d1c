//! Paths of executables: built when a program is executed, and at the start for those that already run, so that the
//! programs at system calls only copy them. The walk along a path is the longest code that the verifier follows; this
//! way it follows it twice, and not for each of the sixty programs of backend `function`.
//!
//! The key of a path is the file's dentry and mount. A task that runs a file has executed it or was forked by one
//! that has, and every exec writes the path anew: an address that was freed and is used again never yields the path
//! of another file. User space reads paths that were evicted from the table in `/proc`.

use aya_ebpf::{bindings::BPF_ANY, macros::map, maps::LruHashMap};
use ipc_trace_common::{
    layout::Field,
    record::{EXE_LEN, flag},
};

use crate::base::{
    gate,
    memory::{bytes, current_task, exists, field, kernel_bytes, unknown},
};

/// A file, as in `struct path` (include/linux/path.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct Place {
    vfsmount: u64,
    dentry: u64,
}

/// The file that a task runs.
struct Executable {
    place: Place,
    inode: u64,
}

/// The path of a file, last component first, each followed by a NUL.
#[repr(C)]
struct Path {
    /// Bytes used; `0`: it is being written for the first time
    len: u32,
    /// `TRUNCATED`
    flags: u32,
    /// The file's inode number, which distinguishes another file at the same address
    ino: u64,
    bytes: [u8; EXE_LEN],
    /// Room that the verifier requires beyond the last component
    slack: [u8; 256],
}

#[map]
static EXECUTABLES: LruHashMap<Place, Path> = LruHashMap::with_max_entries(4096, 0);

/// The initial value, too large for the stack.
static EMPTY: Path = Path { len: 0, flags: 0, ino: 0, bytes: [0; EXE_LEN], slack: [0; 256] };

/// The file that the task runs; `None`: none, or it can't be read.
#[inline(always)]
fn executable(task: u64) -> Option<Executable> {
    if !exists(Field::MmExeFile) || !exists(Field::MountParent) {
        return None;
    }
    let mm: u64 = field(task, Field::TaskMm);
    let file: u64 = field(mm, Field::MmExeFile);
    if mm == 0 || file == 0 {
        return None;
    }
    let place =
        Place { vfsmount: field(file, Field::FileMount), dentry: field(file, Field::FileDentry) };
    Some(Executable { place, inode: field(file, Field::FileInode) })
}

/// Writes the path of the task's executable to `to`: returns the bytes used, and `TRUNCATED`, `DELETED`.
///
/// # Safety
/// `to` has room for [`EXE_LEN`] bytes.
#[inline(always)]
pub(crate) unsafe fn path(task: u64, to: *mut u8) -> (u32, u32) {
    let Some(Executable { place, .. }) = executable(task) else {
        return (0, 0);
    };
    let Some(path) = EXECUTABLES.get_ptr(&place) else {
        return (0, flag::TRUNCATED);
    };
    // SAFETY: the map gave the pointer. Two CPUs may write the same path at the same time, with the same bytes; `len`
    // is written last.
    let (len, mut flags) = unsafe { ((*path).len, (*path).flags) };
    if len == 0 || len > EXE_LEN as u32 {
        return (0, flag::TRUNCATED);
    }
    // SAFETY: `to` and `bytes` have EXE_LEN bytes, and `len` is at most that.
    if !unsafe { kernel_bytes(to, len, core::ptr::addr_of!((*path).bytes) as u64) } {
        return (0, flag::TRUNCATED);
    }
    if is_unhashed(&place) {
        flags |= flag::DELETED;
    }
    (len, flags)
}

/// Whether the file is unlinked, as in `d_unlinked` (include/linux/dcache.h): it is off the hash table, and not the
/// root of a file system. A file that was never linked, as one of memfd_create(2) (`shmem_dname`, mm/shmem.c), is its
/// own parent.
#[inline(always)]
fn is_unhashed(place: &Place) -> bool {
    exists(Field::DentryHashed)
        && field::<u64>(place.dentry, Field::DentryHashed) == 0
        && place.dentry != field::<u64>(place.vfsmount, Field::VfsmountRoot)
}

/// Whether the task's executable was deleted, or replaced by another file of the same name: `1`, or `0`.
#[inline(always)]
pub(crate) fn is_deleted(task: u64) -> u64 {
    executable(task).is_some_and(|executable| is_unhashed(&executable.place)).into()
}

/// Stores the current task's executable. The current task reads the namespace list, so it is the tracer.
#[inline(always)]
pub(crate) fn learn_own() {
    gate::set_own_executable(inode(current_task()));
}

/// `TRACER`, if the task runs the tracer's executable: the same file, not one with the same path or name. A global
/// function, like [`found_task`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn of_tracer(task: u64) -> u64 {
    let own = gate::own_executable();
    u64::from(if own != 0 && inode(task) == own { flag::TRACER } else { 0 })
}

/// `struct inode *` of the file that the task runs; `0`: none, or unknown.
#[inline(always)]
fn inode(task: u64) -> u64 {
    if !exists(Field::TaskMm) || !exists(Field::MmExeFile) {
        return 0;
    }
    let file: u64 = field(field(task, Field::TaskMm), Field::MmExeFile);
    field(file, Field::FileInode)
}

/// The current task has executed a program: its path is written anew.
#[inline(always)]
pub(crate) fn executed(task: u64) {
    if let Some(executable) = executable(task) {
        write(&executable);
    }
}

/// A task was found: writes the path of its executable unless it is there. A global function, so that the verifier
/// checks it once and not once for each path through its callers.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn found_task(task: u64) -> u64 {
    if let Some(executable) = executable(task)
        && EXECUTABLES.get_ptr(&executable.place).is_none()
    {
        write(&executable);
    }
    0
}

#[inline(always)]
fn write(Executable { place, inode }: &Executable) {
    let ino: u64 = field(*inode, Field::InodeNumber);
    let path = match EXECUTABLES.get_ptr_mut(place) {
        Some(path) => path,
        None => {
            let _ = EXECUTABLES.insert(place, &EMPTY, u64::from(BPF_ANY));
            match EXECUTABLES.get_ptr_mut(place) {
                Some(path) => path,
                None => return,
            }
        }
    };
    // SAFETY: the map gave the pointer.
    unsafe {
        // For the same file the same bytes are written again; other CPUs may read them meanwhile.
        if (*path).ino != ino {
            core::ptr::addr_of_mut!((*path).len).write_volatile(0);
            core::ptr::addr_of_mut!((*path).ino).write_volatile(ino);
        }
        let (len, flags) = walk(place, core::ptr::addr_of_mut!((*path).bytes).cast());
        core::ptr::addr_of_mut!((*path).flags).write_volatile(flags);
        core::ptr::addr_of_mut!((*path).len).write_volatile(len);
    }
}

/// The largest number of path components that are followed.
const DEPTH: u32 = 24;

/// Writes the path to `to`: returns the bytes used, and `TRUNCATED`. It walks as `prepend_path` does (fs/d_path.c),
/// but to the root of the mount tree and not to the root directory of the current task.
///
/// # Safety
/// `to` has room for [`EXE_LEN`] bytes and the slack.
#[inline(always)]
unsafe fn walk(place: &Place, to: *mut u8) -> (u32, u32) {
    let Place { mut vfsmount, mut dentry } = *place;
    let mut len: u32 = 0;
    for _ in 0..DEPTH {
        len = unknown(len);
        let parent: u64 = field(dentry, Field::DentryParent);
        // A file that is in no directory still has a name.
        let is_nowhere = dentry == parent && len == 0;
        let is_root = dentry == field::<u64>(vfsmount, Field::VfsmountRoot);
        if is_root || dentry == parent && !is_nowhere {
            let mount = vfsmount - bytes(Field::MountVfsmount);
            let above: u64 = field(mount, Field::MountParent);
            if above == mount || above == 0 {
                return (len, 0);
            }
            dentry = field(mount, Field::MountMountpoint);
            vfsmount = above + bytes(Field::MountVfsmount);
            continue;
        }
        let name: u64 = field(dentry, Field::DentryName);
        let name_len = field::<u32>(dentry, Field::DentryNameLen) & 0xff;
        if len + name_len + 1 > EXE_LEN as u32 {
            return (len, flag::TRUNCATED);
        }
        let at = len & (EXE_LEN as u32 - 1);
        // SAFETY: `at` is below EXE_LEN and a name has at most 255 bytes: `exe_slack` has room for
        // one and its NUL beyond.
        unsafe {
            if !kernel_bytes(to.add(at as usize), name_len, name) {
                return (len, flag::TRUNCATED);
            }
            to.add(at as usize + name_len as usize).write_volatile(0);
        }
        len = at + name_len + 1;
        dentry = parent;
    }
    (len, flag::TRUNCATED)
}
