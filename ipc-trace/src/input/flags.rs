//! The names of flags and commands, as the kernel's uapi headers (6.12) define them.
//!
//! A table of flags has rows of mask, value and name, for [`Flags`](crate::event::value::Flags).
//! Permission bits have no name.

use ipc_trace_common::op::Abi;

use crate::event::args::CommandName;

/// Rows of mask, value and name.
pub(crate) type FlagNames = &'static [(u64, u64, &'static str)];

/// Rows of number and name.
pub(crate) type CommandNames = &'static [(u32, &'static str)];

/// A row of one bit.
const fn bit(value: u64, name: &'static str) -> (u64, u64, &'static str) {
    (value, value, name)
}

/// A row of a huge page's size, as the logarithm in bits 26–31
/// (include/uapi/asm-generic/hugetlb_encode.h).
const fn huge(log2: u64, name: &'static str) -> (u64, u64, &'static str) {
    (0x3f << 26, log2 << 26, name)
}

/// Creates the object if it doesn't exist (`IPC_CREAT`, include/uapi/linux/ipc.h).
pub(crate) const CREAT: u32 = 0o1000;
/// With [`CREAT`]: fails if it exists (`IPC_EXCL`).
pub(crate) const EXCL: u32 = 0o2000;

const IPC_CREAT: (u64, u64, &str) = bit(CREAT as u64, "IPC_CREAT");
const IPC_EXCL: (u64, u64, &str) = bit(EXCL as u64, "IPC_EXCL");
const IPC_NOWAIT: (u64, u64, &str) = bit(0o4000, "IPC_NOWAIT");

/// shmget: include/uapi/linux/{ipc,shm}.h
pub(crate) const SHMGET: FlagNames = &[
    IPC_CREAT,
    IPC_EXCL,
    bit(0o4000, "SHM_HUGETLB"),
    bit(0o10000, "SHM_NORESERVE"),
    huge(16, "SHM_HUGE_64KB"),
    huge(19, "SHM_HUGE_512KB"),
    huge(20, "SHM_HUGE_1MB"),
    huge(21, "SHM_HUGE_2MB"),
    huge(23, "SHM_HUGE_8MB"),
    huge(24, "SHM_HUGE_16MB"),
    huge(25, "SHM_HUGE_32MB"),
    huge(28, "SHM_HUGE_256MB"),
    huge(29, "SHM_HUGE_512MB"),
    huge(30, "SHM_HUGE_1GB"),
    huge(31, "SHM_HUGE_2GB"),
    huge(34, "SHM_HUGE_16GB"),
];

/// shmat: include/uapi/linux/shm.h
pub(crate) const SHMAT: FlagNames = &[
    bit(0o10000, "SHM_RDONLY"),
    bit(0o20000, "SHM_RND"),
    bit(0o40000, "SHM_REMAP"),
    bit(0o100_000, "SHM_EXEC"),
];

/// semget: include/uapi/linux/ipc.h
pub(crate) const SEMGET: FlagNames = &[IPC_CREAT, IPC_EXCL];

/// `sem_flg` of semop: include/uapi/linux/{ipc,sem}.h
pub(crate) const SEMOP: FlagNames = &[IPC_NOWAIT, bit(0x1000, "SEM_UNDO")];

/// msgget: include/uapi/linux/ipc.h
pub(crate) const MSGGET: FlagNames = &[IPC_CREAT, IPC_EXCL];

/// msgsnd: include/uapi/linux/ipc.h
pub(crate) const MSGSND: FlagNames = &[IPC_NOWAIT];

/// msgrcv: include/uapi/linux/{ipc,msg}.h
pub(crate) const MSGRCV: FlagNames = &[
    IPC_NOWAIT,
    bit(0o10000, "MSG_NOERROR"),
    bit(0o20000, "MSG_EXCEPT"),
    bit(0o40000, "MSG_COPY"),
];

/// Without it, mq_open uses neither mode nor attributes.
pub(crate) const O_CREAT: u64 = 0o100;

/// `mq_flags`: include/uapi/asm-generic/fcntl.h
pub(crate) const MQ_FLAGS: FlagNames = &[bit(0o4000, "O_NONBLOCK")];

/// `oflag` of mq_open: include/uapi/asm-generic/fcntl.h, where the architecture defines the given
/// four for itself.
macro_rules! open_flags {
    ($direct:literal, $largefile:literal, $directory:literal, $nofollow:literal) => {
        &[
            (0o3, 0o0, "O_RDONLY"),
            (0o3, 0o1, "O_WRONLY"),
            (0o3, 0o2, "O_RDWR"),
            bit(O_CREAT, "O_CREAT"),
            bit(0o200, "O_EXCL"),
            bit(0o400, "O_NOCTTY"),
            bit(0o1000, "O_TRUNC"),
            bit(0o2000, "O_APPEND"),
            bit(0o4000, "O_NONBLOCK"),
            // O_SYNC contains O_DSYNC, and O_TMPFILE contains O_DIRECTORY.
            (0o4_010_000, 0o10000, "O_DSYNC"),
            bit(0o4_010_000, "O_SYNC"),
            bit(0o20000, "FASYNC"),
            bit($direct, "O_DIRECT"),
            bit($largefile, "O_LARGEFILE"),
            (0o20_000_000 | $directory, $directory, "O_DIRECTORY"),
            bit(0o20_000_000 | $directory, "O_TMPFILE"),
            bit($nofollow, "O_NOFOLLOW"),
            bit(0o1_000_000, "O_NOATIME"),
            bit(0o2_000_000, "O_CLOEXEC"),
            bit(0o10_000_000, "O_PATH"),
        ]
    };
}

const OPEN_X86: FlagNames = open_flags!(0o40000, 0o100_000, 0o200_000, 0o400_000);
/// arch/{arm,arm64}/include/uapi/asm/fcntl.h
const OPEN_ARM: FlagNames = open_flags!(0o200_000, 0o400_000, 0o40000, 0o100_000);

/// `oflag` of mq_open.
#[must_use]
pub(crate) const fn mq_open(abi: Abi) -> FlagNames {
    match abi {
        Abi::X86_64 | Abi::I386 | Abi::X32 => OPEN_X86,
        Abi::Aarch64 | Abi::Arm => OPEN_ARM,
    }
}

/// Or'ed to a command of shmctl, semctl or msgctl (include/uapi/linux/ipc.h): the structures are not those of
/// Linux 2.2.
pub(crate) const IPC_64: u32 = 0x100;

/// Sets owner and permissions.
pub(crate) const IPC_SET: u32 = 1;
/// Returns the limits; uses no object.
pub(crate) const IPC_INFO: u32 = 3;
/// Sets one semaphore.
pub(crate) const SETVAL: u32 = 16;

/// The commands of shmctl, semctl or msgctl.
#[derive(Debug)]
pub(crate) struct CtlCommands {
    /// The commands besides those that every operation has.
    own: CommandNames,
    /// The commands whose first argument is an index, and whose result is an id.
    pub stat: [u32; 2],
    /// The command whose first argument is unused, besides [`IPC_INFO`].
    pub info: u32,
}

/// include/uapi/linux/ipc.h
const IPC: CommandNames =
    &[(0, "IPC_RMID"), (IPC_SET, "IPC_SET"), (2, "IPC_STAT"), (IPC_INFO, "IPC_INFO")];

/// shmctl: include/uapi/linux/shm.h
pub(crate) const SHMCTL: CtlCommands = CtlCommands {
    own: &[
        (11, "SHM_LOCK"),
        (12, "SHM_UNLOCK"),
        (13, "SHM_STAT"),
        (14, "SHM_INFO"),
        (15, "SHM_STAT_ANY"),
    ],
    stat: [13, 15],
    info: 14,
};

/// semctl: include/uapi/linux/sem.h
pub(crate) const SEMCTL: CtlCommands = CtlCommands {
    own: &[
        (11, "GETPID"),
        (12, "GETVAL"),
        (13, "GETALL"),
        (14, "GETNCNT"),
        (15, "GETZCNT"),
        (SETVAL, "SETVAL"),
        (17, "SETALL"),
        (18, "SEM_STAT"),
        (19, "SEM_INFO"),
        (20, "SEM_STAT_ANY"),
    ],
    stat: [18, 20],
    info: 19,
};

/// msgctl: include/uapi/linux/msg.h
pub(crate) const MSGCTL: CtlCommands = CtlCommands {
    own: &[(11, "MSG_STAT"), (12, "MSG_INFO"), (13, "MSG_STAT_ANY")],
    stat: [11, 13],
    info: 12,
};

impl CtlCommands {
    /// The name of a command without [`IPC_64`].
    #[must_use]
    pub(crate) fn name(&self, command: u32) -> Option<&'static str> {
        find(IPC, command).or_else(|| find(self.own, command))
    }
}

/// `sigev_notify`: include/uapi/asm-generic/siginfo.h
#[must_use]
pub(crate) fn sigev_notify(number: u32) -> CommandName {
    const NAMES: CommandNames =
        &[(0, "SIGEV_SIGNAL"), (1, "SIGEV_NONE"), (2, "SIGEV_THREAD"), (4, "SIGEV_THREAD_ID")];
    CommandName { number, name: find(NAMES, number) }
}

fn find(names: CommandNames, number: u32) -> Option<&'static str> {
    names.iter().find(|row| row.0 == number).map(|row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::value::Flags;

    fn shown(names: FlagNames, bits: u64) -> String {
        serde_json::to_string(&Flags { bits, names }).unwrap()
    }

    #[test]
    fn a_multi_bit_field_has_one_name() {
        assert_eq!(
            shown(SHMGET, 0x5400_0000 | 0o7600),
            r#"["IPC_CREAT","IPC_EXCL","SHM_HUGETLB","SHM_HUGE_2MB","0x180"]"#
        );
        assert_eq!(shown(SHMGET, 34 << 26), r#"["SHM_HUGE_16GB"]"#);
        assert_eq!(shown(SHMGET, 14 << 26), r#"["0x38000000"]"#);
    }

    #[test]
    fn open_flags_depend_on_the_architecture() {
        let rows: [(Abi, u64, &str); 8] = [
            (Abi::X86_64, 0o102, r#"["O_RDWR","O_CREAT"]"#),
            (Abi::X86_64, 0o3, r#"["0x3"]"#),
            (
                Abi::I386,
                0o2_104_301,
                r#"["O_WRONLY","O_CREAT","O_EXCL","O_NONBLOCK","O_LARGEFILE","O_CLOEXEC"]"#,
            ),
            (Abi::Arm, 0o400_000, r#"["O_RDONLY","O_LARGEFILE"]"#),
            (Abi::Aarch64, 0o100_000, r#"["O_RDONLY","O_NOFOLLOW"]"#),
            (Abi::X32, 0o4_010_000, r#"["O_RDONLY","O_SYNC"]"#),
            (Abi::X32, 0o10000, r#"["O_RDONLY","O_DSYNC"]"#),
            (Abi::Aarch64, 0o20_040_000, r#"["O_RDONLY","O_TMPFILE"]"#),
        ];
        for (abi, bits, expected) in rows {
            assert_eq!(shown(mq_open(abi), bits), expected, "{} {bits:o}", abi.name());
        }
    }

    #[test]
    fn command_numbers_depend_on_the_operation() {
        let names = [&SHMCTL, &SEMCTL, &MSGCTL].map(|control| control.name(11));
        assert_eq!(names, [Some("SHM_LOCK"), Some("GETPID"), Some("MSG_STAT")]);
        assert_eq!(SHMCTL.name(0), Some("IPC_RMID"));
        assert_eq!(MSGCTL.name(14), None);
        assert_eq!(sigev_notify(3).to_string(), "0x3");
    }
}
