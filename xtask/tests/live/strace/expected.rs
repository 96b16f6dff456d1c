//! Turns a line of strace into the expected call: which argument is which, and what strace shows in its place.
//!
//! strace prints what a pointer leads to, where that can be read, and the pointer where it can't.
//! ipc-trace shows pointers of message texts and of results, and never what they lead to: strace shows
//! one or the other of such an argument.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    call::StraceCall,
    line::{Arg, StraceLine, StraceOutcome},
};

/// Arguments by name; `None`: unknown, as the line is unfinished.
type KnownArgs = BTreeMap<&'static str, Option<Value>>;

/// ipc(2) of i386 (arch/x86/entry/syscalls/syscall_32.tbl).
const IPC: u32 = 117;
/// Or'ed to a 32-bit caller's command; ipc-trace gives the command's name without it
/// (include/uapi/linux/ipc.h).
const IPC_64: u64 = 0x100;
const PERMISSIONS: u64 = 0o777;
/// The bytes of a queue's name that ipc-trace keeps: more than NAME_MAX. strace shows up to PATH_MAX.
const NAME_LEN: usize = 263;
/// The number of operations of a semop that ipc-trace keeps.
const SOPS: usize = 8;

/// By whose numbers a call was made: no number is one of IPC in both tables
/// (arch/x86/entry/syscalls/syscall_{32,64}.tbl, 6.12).
fn abi(number: u32) -> Result<&'static str, String> {
    match number {
        29..=31 | 64..=71 | 220 | 240..=245 => Ok("x86_64"),
        IPC | 277..=282 | 393..=402 | 418..=420 => Ok("i386"),
        _ => Err(format!("{number} is no IPC call of x86_64")),
    }
}

impl StraceLine {
    /// The call; `None` for an `ipc(2)` which stands for none, and is no operation.
    pub(crate) fn call(&self) -> Result<Option<StraceCall>, String> {
        if self.number == IPC && self.name == "ipc" {
            return Ok(None);
        }
        let abi = abi(self.number)?;
        let reader = ExpectedReader { line: self, narrow: abi == "i386" };
        let (op, args) = reader.args()?;
        let mut outcome = self.outcome.clone();
        // There strace shows where the segment is, which the kernel stores in memory; the call's
        // own result, which ipc-trace shows, is 0 (`ksys_ipc`, ipc/syscall.c, 6.12).
        if self.number == IPC && op == "shmat" && matches!(outcome, StraceOutcome::Value(_)) {
            outcome = StraceOutcome::Value(0);
        }
        Ok(Some(StraceCall { op, abi, args, outcome }))
    }
}

struct ExpectedReader<'a> {
    line: &'a StraceLine,
    /// The caller's registers and longs have 32 bits.
    narrow: bool,
}

impl ExpectedReader<'_> {
    /// The operation and its arguments.
    fn args(&self) -> Result<(&'static str, KnownArgs), String> {
        let name = self.line.name.as_str();
        let name = name.strip_suffix("_time64").unwrap_or(name);
        let (op, args) = match name {
            "shmget" => (
                "shmget",
                vec![
                    ("key", self.uint(0)),
                    ("size", self.word(1)),
                    ("shmflg", self.uint(2)),
                    ("mode", self.permissions(2)),
                ],
            ),
            "shmat" => (
                "shmat",
                vec![("shmid", self.int(0)), ("shmaddr", self.word(1)), ("shmflg", self.uint(2))],
            ),
            "shmdt" => ("shmdt", vec![("shmaddr", self.word(0))]),
            "shmctl" => (
                "shmctl",
                vec![
                    ("shmid", self.int(0)),
                    ("cmd", self.command(1)),
                    ("buf", self.pointer(2)),
                    ("set", self.set(1, 2, "shm_perm")),
                ],
            ),
            "semget" => (
                "semget",
                vec![
                    ("key", self.uint(0)),
                    ("nsems", self.int(1)),
                    ("semflg", self.uint(2)),
                    ("mode", self.permissions(2)),
                ],
            ),
            "semop" | "semtimedop" => (
                "semop",
                vec![
                    ("semid", self.int(0)),
                    ("nsops", self.uint(2)),
                    ("sops", self.sops()),
                    ("sops_truncated", self.number(2).map(|n| json!(n as u32 as usize > SOPS))),
                    ("timeout", if name == "semop" { Some(Value::Null) } else { self.time(3) }),
                ],
            ),
            "semctl" => (
                "semctl",
                vec![
                    ("semid", self.int(0)),
                    ("semnum", self.int(1)),
                    ("cmd", self.command(2)),
                    ("arg", self.semctl_arg()),
                    ("val", self.semctl_val()),
                    ("set", self.set(2, 3, "sem_perm")),
                ],
            ),
            "msgget" => (
                "msgget",
                vec![
                    ("key", self.uint(0)),
                    ("msgflg", self.uint(1)),
                    ("mode", self.permissions(1)),
                ],
            ),
            "msgsnd" => (
                "msgsnd",
                vec![
                    ("msqid", self.int(0)),
                    ("msgp", self.pointer(1)),
                    ("msgsz", self.word(2)),
                    ("msgflg", self.uint(3)),
                    ("mtype", self.member(1, "mtype")),
                ],
            ),
            "msgrcv" => ("msgrcv", self.msgrcv()),
            "msgctl" => (
                "msgctl",
                vec![
                    ("msqid", self.int(0)),
                    ("cmd", self.command(1)),
                    ("buf", self.pointer(2)),
                    ("set", self.set(1, 2, "msg_perm")),
                ],
            ),
            "mq_open" => ("mq_open", self.mq_open()),
            "mq_unlink" => {
                ("mq_unlink", vec![("name", self.name(0)), ("name_truncated", self.is_cut(0))])
            }
            "mq_timedsend" => (
                "mq_send",
                vec![
                    ("mqdes", self.int(0)),
                    ("msg_ptr", self.pointer(1)),
                    ("msg_len", self.word(2)),
                    ("msg_prio", self.uint(3)),
                    ("abs_timeout", self.time(4)),
                ],
            ),
            "mq_timedreceive" => (
                "mq_receive",
                vec![
                    ("mqdes", self.int(0)),
                    ("msg_ptr", self.pointer(1)),
                    ("msg_len", self.word(2)),
                    ("msg_prio", self.priority(3)),
                    ("abs_timeout", self.time(4)),
                ],
            ),
            "mq_notify" => ("mq_notify", vec![("mqdes", self.int(0)), ("sevp", self.sigevent(1))]),
            "mq_getsetattr" => (
                "mq_getsetattr",
                vec![("mqdes", self.int(0)), ("newattr", self.attr(1)), ("oldattr", self.attr(2))],
            ),
            other => return Err(format!("{other} is no IPC call")),
        };
        Ok((op, BTreeMap::from_iter(args)))
    }

    /// An argument; none where the line was cut off before it.
    fn arg(&self, at: usize) -> Option<&Arg> {
        self.line.args.get(at)
    }

    fn number(&self, at: usize) -> Option<u64> {
        number(self.arg(at)?)
    }

    /// What is one register wide.
    fn word(&self, at: usize) -> Option<Value> {
        self.number(at).map(|n| json!(if self.narrow { n & 0xffff_ffff } else { n }))
    }

    fn uint(&self, at: usize) -> Option<Value> {
        self.number(at).map(|n| json!(n as u32))
    }

    fn int(&self, at: usize) -> Option<Value> {
        self.number(at).map(|n| json!(n as u32 as i32))
    }

    /// A pointer, where strace does not show what it leads to.
    fn pointer(&self, at: usize) -> Option<Value> {
        self.word(at)
    }

    fn permissions(&self, at: usize) -> Option<Value> {
        self.number(at).map(|n| json!(n & PERMISSIONS))
    }

    fn plain_command(&self, at: usize) -> Option<u64> {
        let command = self.number(at)? & 0xffff_ffff;
        Some(if self.narrow { command & !IPC_64 } else { command })
    }

    fn command(&self, at: usize) -> Option<Value> {
        self.plain_command(at).map(|command| json!(command))
    }

    /// A member of a structure, or null where that could not be read.
    fn member(&self, at: usize, name: &str) -> Option<Value> {
        Some(signed(self.arg(at)?.member(name)))
    }

    /// What `IPC_SET` was given; null with other commands.
    fn set(&self, cmd: usize, buf: usize, perm: &str) -> Option<Value> {
        let buf = self.arg(buf)?;
        let Some(perm) = buf.member(perm) else { return Some(Value::Null) };
        if self.plain_command(cmd)? != libc::IPC_SET as u64 {
            return Some(Value::Null);
        }
        let of = |name: &str| unsigned(perm.member(name)).map(|n| n as u32);
        let mode = of("mode").map(|mode| u64::from(mode) & PERMISSIONS);
        let qbytes = unsigned(buf.member("msg_qbytes"));
        Some(json!({"uid": of("uid"), "gid": of("gid"), "mode": mode, "msg_qbytes": qbytes}))
    }

    /// The first operations, or null where not all of them could be read.
    fn sops(&self) -> Option<Value> {
        let nsops = self.number(2)? as u32 as usize;
        let wanted = nsops.min(SOPS);
        let all = if let Arg::List(all) = self.arg(1)? { all.as_slice() } else { &[] };
        let one = |sop: &Arg| {
            let flags = unsigned(sop.member("sem_flg"))? as u16;
            let of = |name: &str| signed(sop.member(name));
            Some(json!({"sem_num": of("sem_num"), "sem_op": of("sem_op"), "sem_flg": flags}))
        };
        let read: Vec<Value> = all.iter().take(wanted).map_while(one).collect();
        Some(if read.len() == wanted { json!(read) } else { Value::Null })
    }

    /// The fourth argument; through ipc(2), which has it in memory, in brackets, or null where it
    /// could not be read.
    fn semctl_arg(&self) -> Option<Value> {
        if self.line.number != IPC {
            return self.pointer(3);
        }
        match self.arg(3)? {
            Arg::List(inner) => number(inner.first()?).map(|arg| json!(arg as u32)),
            Arg::Number(_) | Arg::Null => Some(Value::Null),
            Arg::Text(_) | Arg::Struct(_) | Arg::Cut => None,
        }
    }

    fn semctl_val(&self) -> Option<Value> {
        if self.plain_command(2)? != libc::SETVAL as u64 {
            return Some(Value::Null);
        }
        let arg = self.semctl_arg()?;
        Some(arg.as_u64().map_or(Value::Null, |arg| json!(arg as u32 as i32)))
    }

    /// Version 0 through ipc(2) has pointer and type in memory; when it fails, strace shows where,
    /// and goes on with the flags.
    fn msgrcv(&self) -> Vec<(&'static str, Option<Value>)> {
        let in_memory = self.line.number == IPC && self.line.args.len() == 4;
        let (msgp, msgtyp, flags) = if in_memory {
            (None, None, 3)
        } else {
            (self.pointer(1), self.arg(3).map(|arg| signed(Some(arg))), 4)
        };
        vec![
            ("msqid", self.int(0)),
            ("msgp", msgp),
            ("msgsz", self.word(2)),
            ("msgtyp", msgtyp),
            ("msgflg", self.uint(flags)),
            ("mtype", self.member(1, "mtype")),
        ]
    }

    fn mq_open(&self) -> Vec<(&'static str, Option<Value>)> {
        let creates = self.number(1).map(|oflag| oflag & libc::O_CREAT as u64 != 0);
        let with = |value: Option<Value>| if creates? { value } else { Some(Value::Null) };
        let mode = self.number(2).map(|mode| json!(mode & 0o7777));
        vec![
            ("name", self.name(0)),
            ("name_truncated", self.is_cut(0)),
            ("oflag", self.uint(1)),
            ("mode", with(mode)),
            ("attr", with(self.attr(3))),
        ]
    }

    /// A queue's name, or null where it could not be read. Bytes that are no UTF-8 are `\xNN`.
    fn name(&self, at: usize) -> Option<Value> {
        let Arg::Text(bytes) = self.arg(at)? else { return Some(Value::Null) };
        let mut name = String::new();
        for chunk in bytes.get(..NAME_LEN).unwrap_or(bytes).utf8_chunks() {
            name.push_str(chunk.valid());
            name.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        }
        Some(json!(name))
    }

    /// Whether a queue's name is longer than what is kept of it.
    fn is_cut(&self, at: usize) -> Option<Value> {
        let length = if let Arg::Text(bytes) = self.arg(at)? { bytes.len() } else { 0 };
        Some(json!(length > NAME_LEN))
    }

    /// A time, or null where none was given or could be read.
    fn time(&self, at: usize) -> Option<Value> {
        let time = self.arg(at)?;
        let Some(nsec) = unsigned(time.member("tv_nsec")) else { return Some(Value::Null) };
        Some(json!({"tv_sec": signed(time.member("tv_sec")), "tv_nsec": self.nsec(nsec)}))
    }

    /// strace prints it unsigned, and of a 32-bit caller it shows 32 bits.
    fn nsec(&self, nsec: u64) -> i64 {
        if self.narrow { i64::from(nsec as u32) } else { nsec.cast_signed() }
    }

    fn attr(&self, at: usize) -> Option<Value> {
        let attr = self.arg(at)?;
        let Some(flags) = unsigned(attr.member("mq_flags")) else { return Some(Value::Null) };
        let of = |name: &str| signed(attr.member(name));
        Some(json!({
            "mq_flags": if self.narrow { flags & 0xffff_ffff } else { flags },
            "mq_maxmsg": of("mq_maxmsg"), "mq_msgsize": of("mq_msgsize"),
            "mq_curmsgs": of("mq_curmsgs"),
        }))
    }

    /// In brackets where a message came, else the pointer.
    fn priority(&self, at: usize) -> Option<Value> {
        let Arg::List(inner) = self.arg(at)? else { return Some(Value::Null) };
        Some(inner.first().map_or(Value::Null, |priority| signed(Some(priority))))
    }

    fn sigevent(&self, at: usize) -> Option<Value> {
        let event = self.arg(at)?;
        let Some(notify) = unsigned(event.member("sigev_notify")) else { return Some(Value::Null) };
        let signo = signed(event.member("sigev_signo"));
        Some(json!({"sigev_notify": notify as u32, "sigev_signo": signo}))
    }
}

/// The bits of a number or a pointer.
fn number(arg: &Arg) -> Option<u64> {
    match arg {
        Arg::Number(number) => Some(*number as u64),
        Arg::Null => Some(0),
        Arg::Text(_) | Arg::Struct(_) | Arg::List(_) | Arg::Cut => None,
    }
}

/// A number as it was printed, or null.
fn signed(arg: Option<&Arg>) -> Value {
    let Some(Arg::Number(number)) = arg else { return Value::Null };
    json!(*number as i64)
}

/// The bits of a number.
fn unsigned(arg: Option<&Arg>) -> Option<u64> {
    let Arg::Number(number) = arg? else { return None };
    Some(*number as u64)
}

#[cfg(test)]
mod tests;
