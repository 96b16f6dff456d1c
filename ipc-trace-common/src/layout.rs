//! The kernel-layout table: every field of a kernel structure that the programs read. No other place contains an
//! offset.
//!
//! User space resolves each row in the running kernel's BTF and patches its offset into the programs' instructions. A
//! field that is not found is [`ABSENT`]; what depends on it is switched off, with the reason given here.

macro_rules! fields {
    ($($variant:ident: $way:ident, $need:expr, [$(($structure:literal, $path:literal, $plus:literal)),+];)*) => {
        /// A field that the programs read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field {
            $(#[doc = concat!($("`", $structure, ".", $path, "` "),+)] $variant,)*
        }

        impl Field {
            /// Whether it is ever read with a plain load. A match, so that the programs are built without unused
            /// code.
            pub const fn is_direct(self) -> bool {
                matches!(match self { $(Self::$variant => ReadMethod::$way,)* }, ReadMethod::Direct)
            }

            /// Does something with the field's number as a constant: where the field is known to the compiler, only
            /// that one is left of the match.
            #[inline(always)]
            pub fn select<A: OfField>(self, action: A) -> A::Output {
                match self { $(Self::$variant => action.act_on::<{ Self::$variant as u32 }>(),)* }
            }

            /// Whether every kernel has it.
            pub const fn is_required(self) -> bool {
                matches!(match self { $(Self::$variant => $need,)* }, Need::Required)
            }
        }

        /// The table, in the order of [`Field`].
        pub const FIELDS: &[FieldSpec] = &[
            $(FieldSpec {
                field: Field::$variant,
                way: ReadMethod::$way,
                need: $need,
                places: &[$(FieldLocation { structure: $structure, path: $path, plus: $plus }),+],
            },)*
        ];
    };
}

/// See [`Field::select`].
pub trait OfField {
    /// What it results in
    type Output;
    /// Does it for the field with that number.
    fn act_on<const FIELD: u32>(self) -> Self::Output;
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// Which field
    pub field: Field,
    /// How the programs read it
    pub way: ReadMethod,
    /// What is lost without it
    pub need: Need,
    /// Its locations, by kernel version and architecture; the first one that exists is used
    pub places: &'static [FieldLocation],
}

/// A location of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldLocation {
    /// The structure's name
    pub structure: &'static str,
    /// Members down to the field, joined by dots; anonymous members are skipped
    pub path: &'static str,
    /// Bytes to add to what BTF says: an index into an array
    pub plus: u32,
}

/// How a field is read if the kernel allows both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMethod {
    /// Through a pointer that the verifier knows, with a plain load
    Direct,
    /// With `bpf_probe_read_kernel`, or since 6.2 with a plain load of any address: the pointer came from another such
    /// read
    Probe,
    /// Never read: its offset is used to find the structure around a member
    Offset,
}

/// What happens when a field can't be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing can be traced.
    Required,
    /// This is lost.
    Optional(&'static str),
}

/// The offset of a field that does not exist in this kernel; other fields have their offset in bytes. The largest
/// number that an instruction's immediate extends with zeros.
pub const ABSENT: u32 = i32::MAX as u32;

const EXE: Need = Need::Optional("the executable's path");
const NAMESPACES: Need = Need::Optional("namespaces that no process is in, and their destruction");
const PROCESS: Need = Need::Optional("the process's other namespaces");
const USER: Need = Need::Optional("users in their own namespaces");
const ARGS: Need = Need::Optional("the arguments of processes");
const CGROUP: Need = Need::Optional("the containers of processes");
const HOLDERS: Need =
    Need::Optional("the namespaces of mapped segments and of open /proc/sysvipc files");
const ACCESSES: Need = Need::Optional("some of the ways to other namespaces' objects");
const SETTINGS: Need = Need::Optional("writes of other namespaces' settings");

fields! {
    // Registers. x86: arch/x86/include/asm/ptrace.h; arm64: arch/arm64/include/asm/ptrace.h, where
    // regs[0] holds the result at the exit and orig_x0 the first argument. Of the number, 32 bits are read: `orig_ax`
    // is an unsigned long, `syscallno` an s32.
    RegNumber: Direct, Need::Required, [("pt_regs", "orig_ax", 0), ("pt_regs", "syscallno", 0)];
    RegArg0: Direct, Need::Required, [("pt_regs", "di", 0), ("pt_regs", "orig_x0", 0)];
    RegArg1: Direct, Need::Required, [("pt_regs", "si", 0), ("pt_regs", "regs", 8)];
    RegArg2: Direct, Need::Required, [("pt_regs", "dx", 0), ("pt_regs", "regs", 16)];
    RegArg3: Direct, Need::Required, [("pt_regs", "r10", 0), ("pt_regs", "regs", 24)];
    RegArg4: Direct, Need::Required, [("pt_regs", "r8", 0), ("pt_regs", "regs", 32)];
    RegCompatArg0: Direct, Need::Required, [("pt_regs", "bx", 0), ("pt_regs", "orig_x0", 0)];
    RegCompatArg1: Direct, Need::Required, [("pt_regs", "cx", 0), ("pt_regs", "regs", 8)];
    RegCompatArg2: Direct, Need::Required, [("pt_regs", "dx", 0), ("pt_regs", "regs", 16)];
    RegCompatArg3: Direct, Need::Required, [("pt_regs", "si", 0), ("pt_regs", "regs", 24)];
    RegCompatArg4: Direct, Need::Required, [("pt_regs", "di", 0), ("pt_regs", "regs", 32)];
    RegCompatArg5: Direct, Need::Required, [("pt_regs", "bp", 0), ("pt_regs", "regs", 40)];
    // x86: TS_COMPAT in `status`; arm64: TIF_32BIT in `flags`.
    TaskAbi: Direct, Need::Required, [("task_struct", "thread_info.status", 0), ("task_struct", "thread_info.flags", 0)];

    TaskNsproxy: Direct, Need::Required, [("task_struct", "nsproxy", 0)];
    TaskCred: Direct, Need::Required, [("task_struct", "cred", 0)];
    TaskComm: Direct, Need::Required, [("task_struct", "comm", 0)];
    TaskPid: Direct, Need::Required, [("task_struct", "pid", 0)];
    TaskTgid: Direct, Need::Required, [("task_struct", "tgid", 0)];
    TaskFiles: Probe, Need::Required, [("task_struct", "files", 0)];
    TaskGroupLeader: Probe, Need::Required, [("task_struct", "group_leader", 0)];
    TaskRealParent: Probe, Need::Required, [("task_struct", "real_parent", 0)];
    TaskStartBoottime: Probe, Need::Required, [("task_struct", "start_boottime", 0), ("task_struct", "real_start_time", 0)];
    TaskMm: Probe, EXE, [("task_struct", "mm", 0)];
    TaskThreadPid: Probe, PROCESS, [("task_struct", "thread_pid", 0)];
    TaskSignal: Probe, Need::Required, [("task_struct", "signal", 0)];
    SignalLive: Probe, Need::Required, [("signal_struct", "live.counter", 0)];
    TaskFlags: Probe, Need::Required, [("task_struct", "flags", 0)];
    TaskPtrace: Probe, Need::Required, [("task_struct", "ptrace", 0)];
    NsproxyIpc: Direct, Need::Required, [("nsproxy", "ipc_ns", 0)];
    NsproxyMnt: Probe, PROCESS, [("nsproxy", "mnt_ns", 0)];
    IpcNsInum: Direct, Need::Required, [("ipc_namespace", "ns.inum", 0)];
    IpcNsId: Probe, Need::Optional("the kernel's own number of a namespace (6.18+)"), [("ipc_namespace", "ns.ns_id", 0)];
    IpcNsMqMount: Probe, NAMESPACES, [("ipc_namespace", "mq_mnt", 0)];
    IpcNsMqQueues: Probe, Need::Optional("how many POSIX queues count for a namespace's limit"), [("ipc_namespace", "mq_queues_count", 0)];
    MntNsInum: Probe, PROCESS, [("mnt_namespace", "ns.inum", 0)];
    UserNsInum: Probe, PROCESS, [("user_namespace", "ns.inum", 0)];
    PidNsInum: Probe, PROCESS, [("pid_namespace", "ns.inum", 0)];
    PidLevel: Probe, PROCESS, [("pid", "level", 0)];
    PidNumbers: Probe, PROCESS, [("pid", "numbers", 0)];
    UpidNr: Probe, PROCESS, [("upid", "nr", 0)];
    UpidNs: Probe, PROCESS, [("upid", "ns", 0)];
    CredEuid: Direct, Need::Required, [("cred", "euid", 0)];
    CredEgid: Direct, Need::Required, [("cred", "egid", 0)];
    CredUserNs: Probe, PROCESS, [("cred", "user_ns", 0)];
    // 64 bits in all, as one number (6.3) or two (include/linux/capability.h).
    CredCapabilities: Probe, Need::Optional("the capabilities of processes"), [("cred", "cap_effective", 0)];
    UserNsMap: Probe, USER, [("user_namespace", "uid_map.extent", 0)];
    UserNsMapLen: Probe, USER, [("user_namespace", "uid_map.nr_extents", 0)];
    MmArgStart: Probe, ARGS, [("mm_struct", "arg_start", 0)];
    MmArgEnd: Probe, ARGS, [("mm_struct", "arg_end", 0)];

    // `id` is a 64-bit number since 5.5 (include/linux/kernfs.h).
    TaskCgroups: Probe, CGROUP, [("task_struct", "cgroups", 0)];
    CssSetDefault: Probe, CGROUP, [("css_set", "dfl_cgrp", 0)];
    CssSetSubsystems: Probe, CGROUP, [("css_set", "subsys", 0)];
    CssCgroup: Probe, CGROUP, [("cgroup_subsys_state", "cgroup", 0)];
    CgroupNode: Probe, CGROUP, [("cgroup", "kn", 0)];
    CgroupRoot: Probe, CGROUP, [("cgroup", "root", 0)];
    CgroupRootHierarchy: Probe, CGROUP, [("cgroup_root", "hierarchy_id", 0)];
    KernfsId: Probe, CGROUP, [("kernfs_node", "id", 0)];

    MmExeFile: Probe, EXE, [("mm_struct", "exe_file", 0)];
    FileMount: Probe, EXE, [("file", "f_path.mnt", 0), ("file", "__f_path.mnt", 0)];
    FileDentry: Probe, Need::Required, [("file", "f_path.dentry", 0), ("file", "__f_path.dentry", 0)];
    DentryParent: Probe, Need::Required, [("dentry", "d_parent", 0)];
    DentryName: Probe, EXE, [("dentry", "d_name.name", 0), ("dentry", "__d_name.name", 0)];
    DentryNameLen: Probe, EXE, [("dentry", "d_name.len", 0), ("dentry", "__d_name.len", 0)];
    DentryHashed: Probe, Need::Optional("the mark of a deleted executable"), [("dentry", "d_hash.pprev", 0)];
    VfsmountRoot: Probe, EXE, [("vfsmount", "mnt_root", 0)];
    MountVfsmount: Offset, EXE, [("mount", "mnt", 0)];
    MountParent: Probe, EXE, [("mount", "mnt_parent", 0)];
    MountMountpoint: Probe, EXE, [("mount", "mnt_mountpoint", 0)];

    FilesFdt: Probe, Need::Required, [("files_struct", "fdt", 0)];
    FdtableFd: Probe, Need::Required, [("fdtable", "fd", 0)];
    FdtableMax: Probe, Need::Required, [("fdtable", "max_fds", 0)];
    FileInode: Probe, Need::Required, [("file", "f_inode", 0)];
    InodeSb: Probe, Need::Required, [("inode", "i_sb", 0)];
    InodeNumber: Probe, Need::Required, [("inode", "i_ino", 0)];
    SbMagic: Probe, Need::Required, [("super_block", "s_magic", 0)];
    SbInfo: Probe, Need::Required, [("super_block", "s_fs_info", 0)];
    SbDev: Probe, Need::Required, [("super_block", "s_dev", 0)];
    VfsmountSb: Probe, NAMESPACES, [("vfsmount", "mnt_sb", 0)];
    SbType: Probe, NAMESPACES, [("super_block", "s_type", 0)];
    SbInstances: Probe, NAMESPACES, [("super_block", "s_instances", 0)];
    FsSupers: Probe, NAMESPACES, [("file_system_type", "fs_supers.first", 0)];

    // What a snapshot reads (`iter/task_file`, `iter/task_vma`).
    FilePrivate: Probe, HOLDERS, [("file", "private_data", 0)];
    SeqPrivate: Probe, HOLDERS, [("seq_file", "private", 0)];
    IpcProcIterNs: Probe, HOLDERS, [("ipc_proc_iter", "ns", 0)];
    ShmFileId: Probe, HOLDERS, [("shm_file_data", "id", 0)];
    ShmFileNs: Probe, HOLDERS, [("shm_file_data", "ns", 0)];
    VmaFile: Probe, HOLDERS, [("vm_area_struct", "vm_file", 0)];
    VmaStart: Probe, HOLDERS, [("vm_area_struct", "vm_start", 0)];
    VmaEnd: Probe, HOLDERS, [("vm_area_struct", "vm_end", 0)];
    // What the auxiliary probes read.
    FileMode: Probe, Need::Required, [("file", "f_mode", 0)];
    DentryInode: Probe, ACCESSES, [("dentry", "d_inode", 0)];
    DentrySb: Probe, ACCESSES, [("dentry", "d_sb", 0)];
    SeqFile: Probe, ACCESSES, [("seq_file", "file", 0)];
    FaultVma: Probe, ACCESSES, [("vm_fault", "vma", 0)];
    SegmentFile: Probe, ACCESSES, [("shmid_kernel", "shm_file", 0)];
    IocbFile: Probe, SETTINGS, [("kiocb", "ki_filp", 0)];
    ProcInode: Offset, SETTINGS, [("proc_inode", "vfs_inode", 0)];
    ProcSysctl: Probe, SETTINGS, [("proc_inode", "sysctl", 0)];
    SysctlSet: Probe, SETTINGS, [("ctl_table_header", "set", 0)];
    IpcNsSet: Offset, SETTINGS, [("ipc_namespace", "ipc_set", 0)];
    IpcNsMqSet: Offset, SETTINGS, [("ipc_namespace", "mq_set", 0)];
    IpcNsOps: Probe, SETTINGS, [("ipc_namespace", "ns.ops", 0)];
    InodeMode: Probe, Need::Optional("the mode of a new queue"), [("inode", "i_mode", 0)];
    InodeLinks: Probe, HOLDERS, [("inode", "i_nlink", 0)];
    TaskStack: Probe, Need::Optional("whether open(2) or mq_open made a queue"), [("task_struct", "stack", 0)];
}

/// How many fields there are.
pub const COUNT: usize = FIELDS.len();

const _: () = {
    let mut i = 0;
    while i < COUNT {
        assert!(FIELDS[i].field as usize == i, "FIELDS is in the order of Field");
        i += 1;
    }
};
