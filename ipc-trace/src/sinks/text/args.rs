//! A call with its arguments, by the names of its man page: `semop(semid=3, nsops=1, sops=[0:-1])`.
//!
//! Each operation occurs once. Data behind a pointer is shown in its place if it is known; a pointer that may be
//! null, and of which nothing more is known, is omitted.

use std::{
    fmt::{self, Display, Write as _},
    time::UNIX_EPOCH,
};

use ipc_trace_common::record::GIVEN_NAME_LEN;

use super::units::Date;
use crate::event::{
    args::{Args, IpcSet, MqAttr, Sigevent, Sop, Timespec},
    value::{Address, FileMode, Flags, OsBytes, Timestamp},
};
use crate::event::{escape::quoted, tag::SysvKey};

/// The largest stored name, each byte of which may take four cells, in quotes.
const NAME_WIDTH: usize = GIVEN_NAME_LEN * 4 + 2;

/// A call as text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallText<'a>(pub &'a Args);

impl Display for CallText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Args::Shmget { key, size, shmflg, mode } => List::begin("shmget", f)
                .arg("key", SysvKey(*key))
                .arg("size", size)
                .arg("shmflg", GetFlags(*shmflg, *mode))
                .end(),
            Args::Shmat { shmid, shmaddr, shmflg } => List::begin("shmat", f)
                .arg("shmid", shmid)
                .arg("shmaddr", Pointer(*shmaddr))
                .arg("shmflg", FlagList(*shmflg))
                .end(),
            Args::Shmdt { shmaddr } => {
                List::begin("shmdt", f).arg("shmaddr", Pointer(*shmaddr)).end()
            }
            Args::Shmctl { shmid, cmd, buf, set } => List::begin("shmctl", f)
                .arg("shmid", shmid)
                .arg("cmd", cmd)
                .arg_or("buf", set.map(Set), Pointer(*buf))
                .end(),
            Args::Semget { key, nsems, semflg, mode } => List::begin("semget", f)
                .arg("key", SysvKey(*key))
                .arg("nsems", nsems)
                .arg("semflg", GetFlags(*semflg, *mode))
                .end(),
            Args::Semop { semid, nsops, sops, sops_truncated, timeout } => List::begin("semop", f)
                .arg("semid", semid)
                .arg("nsops", nsops)
                .arg_or("sops", sops.as_deref().map(|sops| Sops(sops, *sops_truncated)), '?')
                .some("timeout", timeout.map(Seconds))
                .end(),
            Args::Semctl { semid, semnum, cmd, arg, val, set } => {
                let list = List::begin("semctl", f)
                    .arg("semid", semid)
                    .arg("semnum", semnum)
                    .arg("cmd", cmd);
                match val {
                    Some(val) => list.arg("arg", val).end(),
                    None if set.is_some() => list.some("arg", set.map(Set)).end(),
                    None => list.arg_or("arg", arg.map(Pointer), '?').end(),
                }
            }
            Args::Msgget { key, msgflg, mode } => List::begin("msgget", f)
                .arg("key", SysvKey(*key))
                .arg("msgflg", GetFlags(*msgflg, *mode))
                .end(),
            Args::Msgsnd { msqid, msgp, msgsz, msgflg, mtype } => List::begin("msgsnd", f)
                .arg("msqid", msqid)
                .arg_or("msgp", mtype.map(MessageText), Pointer(*msgp))
                .arg("msgsz", msgsz)
                .arg("msgflg", FlagList(*msgflg))
                .end(),
            Args::Msgrcv { msqid, msgp, msgsz, msgtyp, msgflg, mtype } => List::begin("msgrcv", f)
                .arg("msqid", msqid)
                .arg_or("msgp", mtype.map(MessageText), Unless(msgp.map(Pointer)))
                .arg("msgsz", msgsz)
                .arg_or("msgtyp", msgtyp.as_ref(), '?')
                .arg("msgflg", FlagList(*msgflg))
                .end(),
            Args::Msgctl { msqid, cmd, buf, set } => List::begin("msgctl", f)
                .arg("msqid", msqid)
                .arg("cmd", cmd)
                .arg_or("buf", set.map(Set), Pointer(*buf))
                .end(),
            Args::MqOpen { name, name_truncated, oflag, mode, attr } => List::begin("mq_open", f)
                .arg_or("name", name.as_ref().map(|name| QueueNameText(name, *name_truncated)), '?')
                .arg("oflag", FlagList(*oflag))
                .some("mode", *mode)
                .some("attr", attr.map(Attr))
                .end(),
            Args::MqUnlink { name, name_truncated } => {
                let name = name.as_ref().map(|name| QueueNameText(name, *name_truncated));
                List::begin("mq_unlink", f).arg_or("name", name, '?').end()
            }
            Args::MqSend { mqdes, msg_ptr, msg_len, msg_prio, abs_timeout } => {
                List::begin("mq_send", f)
                    .arg("mqdes", mqdes)
                    .arg("msg_ptr", Pointer(*msg_ptr))
                    .arg("msg_len", msg_len)
                    .arg("msg_prio", msg_prio)
                    .some("abs_timeout", abs_timeout.map(DeadlineText))
                    .end()
            }
            Args::MqReceive { mqdes, msg_ptr, msg_len, msg_prio, abs_timeout } => {
                List::begin("mq_receive", f)
                    .arg("mqdes", mqdes)
                    .arg("msg_ptr", Pointer(*msg_ptr))
                    .arg("msg_len", msg_len)
                    .some("msg_prio", *msg_prio)
                    .some("abs_timeout", abs_timeout.map(DeadlineText))
                    .end()
            }
            Args::MqNotify { mqdes, sevp } => List::begin("mq_notify", f)
                .arg("mqdes", mqdes)
                .some("sevp", sevp.map(SigeventText))
                .end(),
            Args::MqGetsetattr { mqdes, newattr, oldattr } => List::begin("mq_getsetattr", f)
                .arg("mqdes", mqdes)
                .some("newattr", newattr.map(Attr))
                .some("oldattr", oldattr.map(Attr))
                .end(),
        }
    }
}

/// What a call's text already says about its object, so that it isn't repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) id: Option<i32>,
    pub(super) key: bool,
    pub(super) name: bool,
}

impl Said {
    /// For a call that returned `ret`: a get call's result is the id.
    pub(super) fn by(args: &Args, ret: Option<i64>) -> Self {
        let nothing = Self { id: None, key: false, name: false };
        match args {
            Args::Shmget { .. } | Args::Semget { .. } | Args::Msgget { .. } => {
                let id = ret.and_then(|ret| i32::try_from(ret).ok());
                Self { id, key: true, ..nothing }
            }
            Args::Shmat { shmid: id, .. }
            | Args::Shmctl { shmid: id, .. }
            | Args::Semop { semid: id, .. }
            | Args::Semctl { semid: id, .. }
            | Args::Msgsnd { msqid: id, .. }
            | Args::Msgrcv { msqid: id, .. }
            | Args::Msgctl { msqid: id, .. } => Self { id: Some(*id), ..nothing },
            Args::MqOpen { name, .. } | Args::MqUnlink { name, .. } => {
                Self { name: name.is_some(), ..nothing }
            }
            Args::Shmdt { .. }
            | Args::MqSend { .. }
            | Args::MqReceive { .. }
            | Args::MqNotify { .. }
            | Args::MqGetsetattr { .. } => nothing,
        }
    }
}

/// Writes `op(a=1, b=2)`.
struct List<'f, 'b> {
    f: &'f mut fmt::Formatter<'b>,
    between: &'static str,
    result: fmt::Result,
}

impl<'f, 'b> List<'f, 'b> {
    fn begin(op: &str, f: &'f mut fmt::Formatter<'b>) -> Self {
        let result = f.write_str(op).and_then(|()| f.write_char('('));
        Self { f, between: "", result }
    }

    fn arg(mut self, name: &str, value: impl Display) -> Self {
        self.result = self.result.and_then(|()| write!(self.f, "{}{name}={value}", self.between));
        self.between = ", ";
        self
    }

    /// An argument that is omitted if there is none.
    fn some(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.arg(name, value),
            None => self,
        }
    }

    /// An argument that is known, or its replacement.
    fn arg_or(self, name: &str, value: Option<impl Display>, otherwise: impl Display) -> Self {
        match value {
            Some(value) => self.arg(name, value),
            None => self.arg(name, otherwise),
        }
    }

    fn end(self) -> fmt::Result {
        self.result?;
        self.f.write_char(')')
    }
}

/// An address, or `NULL`.
struct Pointer(Address);

impl Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address(0) => f.write_str("NULL"),
            address => write!(f, "{address}"),
        }
    }
}

/// `A|B|0x40`, or `0`.
struct FlagList(Flags);

impl Display for FlagList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !flags(f, self.0, 0)? {
            f.write_char('0')?;
        }
        Ok(())
    }
}

/// The flags of a get call with the permissions among them: `IPC_CREAT|0600`.
struct GetFlags(Flags, FileMode);

impl Display for GetFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(names, mode) = *self;
        let some = flags(f, names, u64::from(mode.0))?;
        match (some, mode.0) {
            (true, 0) => Ok(()),
            (true, _) => write!(f, "|{mode}"),
            (false, 0) => f.write_char('0'),
            (false, _) => write!(f, "{mode}"),
        }
    }
}

/// Writes the names, and the unnamed bits except those in `apart`; returns whether there were any.
fn flags(f: &mut fmt::Formatter<'_>, flags: Flags, apart: u64) -> Result<bool, fmt::Error> {
    let mut some = false;
    for name in flags.iter() {
        if some {
            f.write_char('|')?;
        }
        f.write_str(name)?;
        some = true;
    }
    let rest = flags.unknown() & !apart;
    if rest != 0 {
        if some {
            f.write_char('|')?;
        }
        write!(f, "{rest:#x}")?;
        some = true;
    }
    Ok(some)
}

/// `[0:-1 IPC_NOWAIT, 1:+1, …]`: each semaphore with its operation.
struct Sops<'a>(&'a [Sop], bool);

impl Display for Sops<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (index, sop) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let Sop { sem_num, sem_op, sem_flg } = *sop;
            // 0 waits for zero: it has no sign.
            if sem_op == 0 {
                write!(f, "{sem_num}:0")?;
            } else {
                write!(f, "{sem_num}:{sem_op:+}")?;
            }
            if sem_flg.bits != 0 {
                write!(f, " {}", FlagList(sem_flg))?;
            }
        }
        f.write_str(if self.1 { ", …]" } else { "]" })
    }
}

/// A time limit in seconds: `0.5 s`, without trailing zeros.
struct Seconds(Timespec);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timespec { tv_sec, tv_nsec } = self.0;
        // The kernel rejects other values with EINVAL, which is easier to see in the raw ones.
        if !(0..1_000_000_000).contains(&tv_nsec) || tv_sec < 0 {
            return raw(f, self.0);
        }
        let (mut digits, mut fraction) = (9, tv_nsec);
        while digits > 0 && fraction % 10 == 0 {
            (digits, fraction) = (digits - 1, fraction / 10);
        }
        match digits {
            0 => write!(f, "{tv_sec} s"),
            digits => write!(f, "{tv_sec}.{fraction:0digits$} s"),
        }
    }
}

/// A moment of `CLOCK_REALTIME`, UTC.
struct DeadlineText(Timespec);

impl Display for DeadlineText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timespec { tv_sec, tv_nsec } = self.0;
        // Times after the year 9999 mean "never" rather than a date; invalid ones are as for durations.
        const YEAR_10000: u64 = 253_402_300_800;
        match (u64::try_from(tv_sec), u32::try_from(tv_nsec)) {
            (Ok(seconds @ ..YEAR_10000), Ok(nanos @ ..1_000_000_000)) => {
                let since = std::time::Duration::new(seconds, nanos);
                write!(f, "{}", Date(Timestamp(UNIX_EPOCH + since)))
            }
            _ => raw(f, self.0),
        }
    }
}

/// The raw values.
fn raw(f: &mut fmt::Formatter<'_>, Timespec { tv_sec, tv_nsec }: Timespec) -> fmt::Result {
    write!(f, "{{tv_sec={tv_sec}, tv_nsec={tv_nsec}}}")
}

/// A message, of which only the type is known.
struct MessageText(i64);

impl Display for MessageText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{mtype={}}}", self.0)
    }
}

/// What `IPC_SET` sets.
struct Set(IpcSet);

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IpcSet { uid, gid, mode, msg_qbytes } = self.0;
        write!(f, "{{uid={uid}, gid={gid}, mode={mode}")?;
        if let Some(bytes) = msg_qbytes {
            write!(f, ", msg_qbytes={bytes}")?;
        }
        f.write_char('}')
    }
}

/// A queue's attributes. The number of messages is not part of what is set, so 0 is omitted.
struct Attr(MqAttr);

impl Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MqAttr { mq_flags, mq_maxmsg, mq_msgsize, mq_curmsgs } = self.0;
        write!(f, "{{")?;
        if mq_flags.bits != 0 {
            write!(f, "mq_flags={}, ", FlagList(mq_flags))?;
        }
        write!(f, "mq_maxmsg={mq_maxmsg}, mq_msgsize={mq_msgsize}")?;
        if mq_curmsgs != 0 {
            write!(f, ", mq_curmsgs={mq_curmsgs}")?;
        }
        f.write_char('}')
    }
}

/// How a process is notified of a message.
struct SigeventText(Sigevent);

impl Display for SigeventText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sigevent { sigev_notify, sigev_signo } = self.0;
        write!(f, "{{sigev_notify={sigev_notify}, sigev_signo={sigev_signo}}}")
    }
}

/// A queue's name, in quotes, and whether it is longer.
struct QueueNameText<'a>(&'a OsBytes<'a>, bool);

impl Display for QueueNameText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", quoted(&self.0.0, NAME_WIDTH))?;
        if self.1 { f.write_str("…") } else { Ok(()) }
    }
}

/// A value, or `?`.
struct Unless<T>(Option<T>);

impl<T: Display> Display for Unless<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_char('?'),
        }
    }
}
