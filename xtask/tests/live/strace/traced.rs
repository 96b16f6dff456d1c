//! Turns a line of `live -o json` into a call: names become the numbers that the C library's headers
//! have for them; no code is shared with the tracer.

use serde_json::{Map, Value, json};

use super::{call::Traced, line::StraceOutcome};

/// Or'ed to a 32-bit caller's command; a command with a name is shown without it.
const IPC_64: u64 = 0x100;

/// The value of a name, if it is one of these of the C library.
macro_rules! of_libc {
    ($name:expr; $($known:ident)*) => {
        match $name {
            $(stringify!($known) => Some(libc::$known as u32),)*
            _ => None,
        }
    };
}

fn of_libc(name: &str) -> Option<u32> {
    of_libc! { name;
        IPC_CREAT IPC_EXCL IPC_NOWAIT IPC_RMID IPC_SET IPC_STAT IPC_INFO
        SHM_HUGETLB SHM_NORESERVE SHM_RDONLY SHM_RND SHM_REMAP SHM_EXEC SHM_LOCK SHM_UNLOCK
        SEM_UNDO GETPID GETVAL GETALL GETNCNT GETZCNT SETVAL SETALL SEM_STAT SEM_INFO
        MSG_NOERROR MSG_EXCEPT MSG_COPY MSG_STAT MSG_INFO
        SIGEV_SIGNAL SIGEV_NONE SIGEV_THREAD SIGEV_THREAD_ID
        O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_NOCTTY O_TRUNC O_APPEND O_NONBLOCK O_DSYNC
        O_SYNC O_DIRECT O_DIRECTORY O_TMPFILE O_NOFOLLOW O_NOATIME O_CLOEXEC O_PATH
    }
}

/// The value of a name that the library lacks, or has another value for than the kernel:
/// include/uapi/linux/{shm,sem,msg}.h, include/uapi/asm-generic/{fcntl,hugetlb_encode}.h.
fn of_kernel(name: &str) -> Option<u64> {
    let huge = |log2: u64| Some(log2 << 26);
    match name {
        "SHM_STAT" | "MSG_STAT_ANY" => Some(13),
        "SHM_INFO" => Some(14),
        "SHM_STAT_ANY" => Some(15),
        "SEM_STAT_ANY" => Some(20),
        "FASYNC" => Some(0o20000),
        "O_LARGEFILE" => Some(0o100_000),
        "SHM_HUGE_64KB" => huge(16),
        "SHM_HUGE_512KB" => huge(19),
        "SHM_HUGE_1MB" => huge(20),
        "SHM_HUGE_2MB" => huge(21),
        "SHM_HUGE_8MB" => huge(23),
        "SHM_HUGE_16MB" => huge(24),
        "SHM_HUGE_32MB" => huge(25),
        "SHM_HUGE_256MB" => huge(28),
        "SHM_HUGE_512MB" => huge(29),
        "SHM_HUGE_1GB" => huge(30),
        "SHM_HUGE_2GB" => huge(31),
        "SHM_HUGE_16GB" => huge(34),
        _ => None,
    }
}

/// The call of an `ipc` line.
///
/// # Panics
///
/// When the line has not the form that the schema promises.
pub(crate) fn call(line: &Value) -> Traced {
    let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("{name} of {line}"));
    let abi = text("abi");
    let args = line["args"].as_object().unwrap_or_else(|| panic!("{line} has no arguments"));
    let form = Form { narrow: abi == "i386" };
    let args = args.iter().map(|(name, value)| (name.clone(), form.arg(name, value))).collect();
    let ret = line["ret"].as_i64().unwrap_or_else(|| panic!("{line} has no result"));
    let outcome = match line["error"].as_str() {
        Some(error) => {
            assert!(ret < 0, "an error with a result: {line}");
            StraceOutcome::Error(error.to_owned())
        }
        None => StraceOutcome::Value(ret),
    };
    Traced { op: text("op").to_owned(), abi: abi.to_owned(), args, outcome }
}

#[derive(Clone, Copy)]
struct Form {
    /// The caller's registers and longs have 32 bits.
    narrow: bool,
}

impl Form {
    fn arg(self, name: &str, value: &Value) -> Value {
        match name {
            "shmflg" | "semflg" | "msgflg" | "oflag" | "sem_flg" | "mq_flags" => flags(value),
            "cmd" => json!(number(value) & if self.narrow { !IPC_64 } else { u64::MAX }),
            "key" | "shmaddr" | "buf" | "msgp" | "msg_ptr" | "arg" | "mode" | "sigev_notify" => {
                if value.is_null() {
                    Value::Null
                } else {
                    json!(number(value))
                }
            }
            // strace shows 32 bits of a 32-bit caller's.
            "tv_nsec" if self.narrow => json!(value.as_i64().unwrap() as u32),
            _ => self.inner(value),
        }
    }

    /// The members of structures, by their own names.
    fn inner(self, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let member =
                    |(name, value): (&String, &Value)| (name.clone(), self.arg(name, value));
                Value::Object(members.iter().map(member).collect::<Map<_, _>>())
            }
            Value::Array(all) => all.iter().map(|one| self.inner(one)).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }
}

fn flags(names: &Value) -> Value {
    let names = names.as_array().unwrap_or_else(|| panic!("{names} are no flags"));
    json!(names.iter().fold(0, |bits, name| bits | number(name)))
}

/// A name's value, or a number as `0x…` or in octal.
fn number(text: &Value) -> u64 {
    let text = text.as_str().unwrap_or_else(|| panic!("{text} is no name and no number"));
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => u64::from_str_radix(text, 8).ok(),
    };
    number
        .or_else(|| of_libc(text).map(u64::from))
        .or_else(|| of_kernel(text))
        .unwrap_or_else(|| panic!("{text:?} is no name and no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers() {
        let line = json!({
            "op": "shmget", "abi": "i386", "ret": -22, "error": "EINVAL",
            "args": {"key": "0xffdeadff", "size": 7, "shmflg": ["IPC_CREAT", "SHM_HUGE_1GB", "0x1a0"],
                     "mode": "0640", "cmd": "0x7d3d", "buf": null,
                     "sops": [{"sem_num": 1, "sem_flg": ["SEM_UNDO"]}],
                     "timeout": {"tv_sec": -1, "tv_nsec": -1}},
        });
        let call = call(&line);
        let expected = json!({
            "key": 0xffde_adff_u32, "size": 7, "shmflg": 0o1640 | 30 << 26, "mode": 0o640,
            "cmd": 0x7c3d, "buf": null, "sops": [{"sem_num": 1, "sem_flg": 0x1000}],
            "timeout": {"tv_sec": -1, "tv_nsec": u32::MAX},
        });
        assert_eq!(json!(call.args), expected);
        assert_eq!(call.outcome, StraceOutcome::Error("EINVAL".to_owned()));
        assert_eq!(flags(&json!([])), 0);
    }

    #[test]
    #[should_panic(expected = "IPC_NONSENSE")]
    fn unknown_name_is_an_error() {
        flags(&json!(["IPC_NONSENSE"]));
    }
}
