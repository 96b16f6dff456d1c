//! The arguments of every operation by every route, against the caller's log.
//!
//! The expected line is computed here from the numbers in the log, with the names in the C library's
//! headers; no code is shared with the tracer.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use crate::tracer::{calls_of, lines, list, number, of_type, scaled};

type ArgNames = &'static [(i32, &'static str)];

const GET: ArgNames = &[
    (libc::IPC_CREAT, "IPC_CREAT"),
    (libc::IPC_EXCL, "IPC_EXCL"),
    (libc::SHM_NORESERVE, "SHM_NORESERVE"),
];
const SHMAT: ArgNames =
    &[(libc::SHM_RDONLY, "SHM_RDONLY"), (libc::SHM_RND, "SHM_RND"), (libc::SHM_REMAP, "SHM_REMAP")];
const MSG: ArgNames = &[
    (libc::IPC_NOWAIT, "IPC_NOWAIT"),
    (libc::MSG_NOERROR, "MSG_NOERROR"),
    (libc::MSG_EXCEPT, "MSG_EXCEPT"),
];
const SEM: ArgNames = &[(libc::IPC_NOWAIT, "IPC_NOWAIT"), (libc::SEM_UNDO, "SEM_UNDO")];
const QUEUE: ArgNames = &[(libc::O_NONBLOCK, "O_NONBLOCK")];
const OPEN: ArgNames = &[
    (libc::O_WRONLY, "O_WRONLY"),
    (libc::O_RDWR, "O_RDWR"),
    (libc::O_CREAT, "O_CREAT"),
    (libc::O_EXCL, "O_EXCL"),
    (libc::O_NONBLOCK, "O_NONBLOCK"),
    (libc::O_CLOEXEC, "O_CLOEXEC"),
];

const SHMCTL: ArgNames = &[
    (libc::IPC_RMID, "IPC_RMID"),
    (libc::IPC_SET, "IPC_SET"),
    (libc::IPC_STAT, "IPC_STAT"),
    (libc::IPC_INFO, "IPC_INFO"),
    (libc::SHM_LOCK, "SHM_LOCK"),
    (libc::SHM_UNLOCK, "SHM_UNLOCK"),
];
const SEMCTL: ArgNames = &[
    (libc::IPC_RMID, "IPC_RMID"),
    (libc::IPC_SET, "IPC_SET"),
    (libc::IPC_STAT, "IPC_STAT"),
    (libc::GETVAL, "GETVAL"),
    (libc::GETPID, "GETPID"),
    (libc::GETNCNT, "GETNCNT"),
    (libc::GETZCNT, "GETZCNT"),
    (libc::SETVAL, "SETVAL"),
    (libc::GETALL, "GETALL"),
    (libc::SETALL, "SETALL"),
];
const MSGCTL: ArgNames = &[
    (libc::IPC_RMID, "IPC_RMID"),
    (libc::IPC_SET, "IPC_SET"),
    (libc::IPC_STAT, "IPC_STAT"),
    (libc::MSG_INFO, "MSG_INFO"),
];

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no integer"))
}

/// The names of the bits, then what has none; in any order, so sorted.
fn flags(value: &Value, names: ArgNames) -> Value {
    let mut rest = int(value) as u32;
    let mut found: Vec<String> = Vec::new();
    for (bit, name) in names {
        if rest & *bit as u32 == *bit as u32 {
            rest &= !(*bit as u32);
            found.push((*name).to_owned());
        }
    }
    if rest != 0 {
        found.push(format!("{rest:#x}"));
    }
    found.sort();
    json!(found)
}

/// As [`flags`], of open(2): no bit for reading only.
fn open_flags(value: &Value) -> Value {
    let mut names = flags(value, OPEN);
    if int(value) & i64::from(libc::O_ACCMODE) == i64::from(libc::O_RDONLY) {
        let names = names.as_array_mut().unwrap();
        names.push(json!("O_RDONLY"));
        names.sort_by_key(|name| name.as_str().map(str::to_owned));
    }
    names
}

fn command(call: &Value, names: ArgNames) -> Value {
    let (plain, raw) = (int(&call["args"]["cmd"]), int(&call["args"]["raw_cmd"]));
    match names.iter().find(|(number, _)| i64::from(*number) == plain) {
        Some((_, name)) => json!(name),
        None => json!(format!("{raw:#x}")),
    }
}

fn key(value: &Value) -> Value {
    json!(format!("{:#010x}", int(value) as u32))
}

fn mode(value: &Value, mask: i64) -> Value {
    json!(format!("{:04o}", int(value) & mask))
}

/// What a register shows of a number: all of it, or with a 32-bit caller the low half.
fn register(call: &Value, value: &Value) -> Value {
    let value = value.as_u64().unwrap_or_else(|| int(value).cast_unsigned());
    let value = if call["abi"] == "i386" { value & 0xffff_ffff } else { value };
    json!(format!("{value:#x}"))
}

/// A time limit. Of a 64-bit one from a 32-bit caller the kernel ignores the upper half of the
/// nanoseconds, which is padding there (get_timespec64, kernel/time/time.c).
fn timeout(call: &Value, name: &str) -> Value {
    let mut time = call["args"][name].clone();
    if time.is_object() && call["route"] == "direct" {
        time["tv_nsec"] = json!(int(&time["tv_nsec"]) & 0xffff_ffff);
    }
    time
}

/// State of earlier calls of the log: permissions by kind and id, sizes by descriptor.
#[derive(Default)]
struct CreatedBefore {
    modes: BTreeMap<(&'static str, i64), Value>,
    sizes: BTreeMap<i64, Value>,
}

/// The arguments that a line must have for a call of the log. What lies behind an unmapped address
/// is unknown.
fn expected(call: &Value, made: &mut CreatedBefore) -> Value {
    let (args, ret) = (&call["args"], int(&call["ret"]));
    let readable = call["bad_pointer"] == false;
    let behind = |value: Value| if readable { value } else { Value::Null };
    let name = || behind(args["name"].clone());
    let set = |kind, id: &Value, command: &Value| {
        let mode = made.modes.get(&(kind, int(id)));
        if command == "IPC_SET" { json!({"uid": 0, "gid": 0, "mode": mode}) } else { Value::Null }
    };
    match call["op"].as_str().unwrap() {
        "shmget" => {
            made.modes.insert(("shm", ret), mode(&args["shmflg"], 0o777));
            json!({"key": key(&args["key"]), "size": args["size"],
                   "shmflg": flags(&args["shmflg"], GET), "mode": mode(&args["shmflg"], 0o777)})
        }
        "shmat" => json!({"shmid": args["shmid"], "shmaddr": register(call, &args["shmaddr"]),
                          "shmflg": flags(&args["shmflg"], SHMAT)}),
        "shmdt" => json!({"shmaddr": register(call, &args["shmaddr"])}),
        "shmctl" => {
            let command = command(call, SHMCTL);
            let set = set("shm", &args["shmid"], &command);
            json!({"shmid": args["shmid"], "cmd": command, "buf": register(call, &args["buf"]),
                   "set": set})
        }
        "semget" => {
            made.modes.insert(("sem", ret), mode(&args["semflg"], 0o777));
            json!({"key": key(&args["key"]), "nsems": args["nsems"],
                   "semflg": flags(&args["semflg"], GET), "mode": mode(&args["semflg"], 0o777)})
        }
        "semop" => {
            let steps = list(&args["sops"]).iter().take(8).map(|step| {
                json!({"sem_num": step["sem_num"], "sem_op": step["sem_op"],
                       "sem_flg": flags(&step["sem_flg"], SEM)})
            });
            json!({"semid": args["semid"], "nsops": args["nsops"],
                   "sops": behind(steps.collect()),
                   "sops_truncated": int(&args["nsops"]) > 8, "timeout": timeout(call, "timeout")})
        }
        "semctl" => {
            let command = command(call, SEMCTL);
            let set = set("sem", &args["semid"], &command);
            let value = if args["buf"].is_null() { &args["val"] } else { &args["buf"] };
            let val = if command == "SETVAL" { args["val"].clone() } else { Value::Null };
            json!({"semid": args["semid"], "semnum": args["semnum"], "cmd": command,
                   "arg": register(call, value), "val": val, "set": set})
        }
        "msgget" => {
            made.modes.insert(("msg", ret), mode(&args["msgflg"], 0o777));
            json!({"key": key(&args["key"]), "msgflg": flags(&args["msgflg"], GET),
                   "mode": mode(&args["msgflg"], 0o777)})
        }
        "msgsnd" => json!({"msqid": args["msqid"], "msgsz": args["msgsz"],
                           "msgflg": flags(&args["msgflg"], MSG),
                           "mtype": behind(args["mtype"].clone())}),
        "msgrcv" => json!({"msqid": args["msqid"], "msgsz": args["msgsz"],
                           "msgtyp": args["msgtyp"], "msgflg": flags(&args["msgflg"], MSG)}),
        "msgctl" => {
            let command = command(call, MSGCTL);
            let set = set("msg", &args["msqid"], &command);
            json!({"msqid": args["msqid"], "cmd": command, "buf": register(call, &args["buf"]),
                   "set": set})
        }
        "mq_open" => {
            let create = int(&args["oflag"]) & i64::from(libc::O_CREAT) != 0;
            if ret >= 0 {
                made.sizes.insert(ret, args["attr"]["mq_msgsize"].clone());
            }
            let mut attr = args["attr"].clone();
            if attr.is_object() {
                attr["mq_flags"] = flags(&attr["mq_flags"], QUEUE);
            }
            json!({"name": name(), "name_truncated": false, "oflag": open_flags(&args["oflag"]),
                   "mode": if create { mode(&args["mode"], 0o7777) } else { Value::Null },
                   "attr": attr})
        }
        "mq_unlink" => json!({"name": name(), "name_truncated": false}),
        "mq_send" => json!({"mqdes": args["mqdes"], "msg_len": args["msg_len"],
                            "msg_prio": args["msg_prio"], "abs_timeout": timeout(call, "abs_timeout")}),
        // The workload does not ask for the priority.
        "mq_receive" => json!({"mqdes": args["mqdes"], "msg_len": args["msg_len"],
                               "msg_prio": null, "abs_timeout": timeout(call, "abs_timeout")}),
        "mq_notify" => {
            let sevp = &args["sevp"];
            let how = match sevp["sigev_notify"].as_i64().map(|how| how as i32) {
                Some(libc::SIGEV_NONE) => "SIGEV_NONE",
                Some(libc::SIGEV_SIGNAL) => "SIGEV_SIGNAL",
                _ => "",
            };
            let shown = json!({"sigev_notify": how, "sigev_signo": sevp["sigev_signo"]});
            json!({"mqdes": args["mqdes"], "sevp": if sevp.is_null() { sevp } else { &shown }})
        }
        "mq_getsetattr" => {
            let new = &args["newattr"];
            let flags = if new.is_null() {
                Value::Null
            } else {
                json!({"mq_flags": flags(&new["mq_flags"], QUEUE), "mq_maxmsg": 0,
                       "mq_msgsize": 0, "mq_curmsgs": 0})
            };
            let old = made.sizes.get(&int(&args["mqdes"]));
            let old = if ret == 0 { json!({"mq_msgsize": old}) } else { Value::Null };
            json!({"mqdes": args["mqdes"], "newattr": flags, "oldattr": old})
        }
        other => panic!("{other} is no operation"),
    }
}

/// Whether `shown` has all that `expected` has, with lists of names in any order.
fn shows(shown: &Value, expected: &Value) -> bool {
    match (shown, expected) {
        (Value::Object(shown), Value::Object(expected)) => expected
            .iter()
            .all(|(name, value)| shown.get(name).is_some_and(|shown| shows(shown, value))),
        (Value::Array(a), Value::Array(b)) if a.iter().all(Value::is_string) => {
            let mut a: Vec<_> = a.iter().map(Value::as_str).collect();
            a.sort();
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| *a == b.as_str())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| shows(a, b))
        }
        _ => shown == expected,
    }
}

/// Checks what the log can't know: addresses of messages, and types of received ones.
fn assert_rest(call: &Value, line: &Value) {
    let args = &line["args"];
    for name in ["msgp", "msg_ptr"] {
        if let Some(address) = args.get(name) {
            assert!(address.as_str().is_some_and(|a| a.starts_with("0x")), "{line}");
        }
    }
    if line["op"] == "msgrcv" {
        let asked = int(&call["args"]["msgtyp"]);
        match int(&call["ret"]) {
            ..0 => assert_eq!(args["mtype"], Value::Null, "{line}"),
            _ if asked > 0 && int(&call["args"]["msgflg"]) & i64::from(libc::MSG_EXCEPT) == 0 => {
                assert_eq!(args["mtype"], asked, "{line}");
            }
            _ => assert!(int(&args["mtype"]) > 0, "{line}"),
        }
    }
    if line["op"] == "msgctl" && args["cmd"] == "IPC_SET" {
        assert!(number(&args["set"]["msg_qbytes"]) > 0, "{line}");
    }
}

#[test]
fn overwritten_arguments_are_shown_as_the_kernel_read_them() {
    let (lines, oracle) = lines(&["--only-command"], &["overwritten"]);
    let log = list(&oracle["calls"]);
    assert_eq!(log.len(), 3 * 6, "each kind by each route");
    for call in log {
        let calls = calls_of(&lines, &call["tid"]);
        let [line] = calls[..] else { panic!("{call} is not one line: {calls:?}") };
        for name in ["op", "abi", "ret"] {
            assert_eq!(line[name], call[name], "{name} of {line} is not that of {call}");
        }
        let expected = expected(call, &mut CreatedBefore::default());
        assert!(shows(&line["args"], &expected), "{call}:\n{}\nis not\n{expected}", line["args"]);
        assert_rest(call, line);
        assert_ne!(line["args_from"], "return", "{line}");
        assert!(number(&line["duration_ns"]) > 0, "{line}");
    }
}

/// A name as lines show it: bytes that are no UTF-8 as `\\xff`.
fn shown_name(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").unwrap();
        }
    }
    text
}

#[test]
fn queue_names_are_shown_unchanged_and_truncation_is_marked() {
    /// More bytes than any queue's name can have.
    const MAX_NAME_BYTES: usize = 263;
    let (lines, oracle) = lines(&["--only-command"], &["queue-names"]);
    let (calls, log) = (calls_of(&lines, &oracle["tid"]), list(&oracle["calls"]));
    assert_eq!(calls.len(), log.len(), "each call is one line");
    for (line, call) in calls.iter().zip(log) {
        for name in ["op", "abi", "ret"] {
            assert_eq!(line[name], call[name], "{name} of {line} is not that of {call}");
        }
        let bytes: Vec<u8> =
            list(&call["args"]["name_bytes"]).iter().map(|byte| number(byte) as u8).collect();
        let cut = bytes.len() > MAX_NAME_BYTES;
        let name = shown_name(bytes.get(..MAX_NAME_BYTES).unwrap_or(&bytes));
        let (name, cut, from) = if call["bad_pointer"] == true {
            (Value::Null, false, "return")
        } else {
            (json!(name), cut, "entry")
        };
        assert_eq!(line["args"]["name"], name, "{line}");
        assert_eq!(line["args"]["name_truncated"], cut, "{line}");
        assert_eq!(line["args_from"], from, "{line}");
        let by_kernel = line["object"]["name_from"] == "kernel";
        assert!(line["object"]["name"] == name || by_kernel, "{line}");
    }
    let created = of_type(&lines, "object").into_iter().filter(|line| line["event"] == "created");
    let created = created.filter(|line| line["process"]["tid"] == oracle["tid"]);
    let opened = log.iter().filter(|call| call["op"] == "mq_open" && int(&call["ret"]) >= 0);
    let name = |call: &Value| {
        let bytes = list(&call["args"]["name_bytes"]).iter().map(|byte| number(byte) as u8);
        shown_name(&bytes.collect::<Vec<_>>())
    };
    let created: Vec<_> = created.map(|line| line["object"]["name"].as_str().unwrap()).collect();
    assert_eq!(created, opened.map(name).collect::<Vec<_>>());
}

/// Almost all lines have arguments that were read before the kernel read them, and none is unknown.
#[test]
fn at_most_one_per_thousand_calls_is_read_at_return() {
    let calls = scaled(100_000).to_string();
    let words = ["count", "--fresh", "--threads", "4", "--int80-percent", "30", "--calls", &calls];
    let (lines, _) = lines(&["--only-command", "--ring-bytes", "67108864"], &words);
    let calls = of_type(&lines, "ipc");
    // Unreadable memory can't be read at the entry either.
    let late = calls.iter().filter(|line| line["error"] != "EFAULT");
    let late: Vec<_> = late.filter(|line| line["args_from"] == "return").collect();
    assert!(
        late.len() * 1000 <= calls.len(),
        "{} of {}: {:?}",
        late.len(),
        calls.len(),
        late.first()
    );
    let unread = calls.iter().filter(|line| {
        let args = &line["args"];
        let taken: &[&str] = match line["op"].as_str().unwrap() {
            "semop" => &["sops"],
            "msgsnd" => &["mtype"],
            "mq_open" | "mq_unlink" => &["name"],
            _ => &[],
        };
        line["error"] != "EFAULT" && taken.iter().any(|name| args[*name].is_null())
    });
    let unread: Vec<_> = unread.collect();
    assert!(
        unread.len() * 1000 <= calls.len(),
        "{} of {}: {:?}",
        unread.len(),
        calls.len(),
        unread.first()
    );
}

#[test]
fn every_operation_by_every_route_is_one_line_with_arguments() {
    let (lines, oracle) = lines(&["--only-command"], &["all-args"]);
    let (calls, log) = (calls_of(&lines, &oracle["tid"]), list(&oracle["calls"]));
    let mut made = CreatedBefore::default();
    for (line, call) in calls.iter().zip(log) {
        for name in ["op", "abi", "ret"] {
            assert_eq!(line[name], call[name], "{name} of {line} is not that of {call}");
        }
        assert_eq!(line["process"]["tid"], call["tid"], "{line}");
        assert_eq!(line["ipc_ns"]["inum"], call["caller_inum"], "{line}");
        let expected = expected(call, &mut made);
        assert!(shows(&line["args"], &expected), "{call}:\n{}\nis not\n{expected}", line["args"]);
        assert_rest(call, line);
        // All memory of the caller is mapped when a call begins, except for bad pointers.
        if call["bad_pointer"] == false {
            assert_ne!(line["args_from"], "return", "{line}");
        }
    }
    assert_eq!(calls.len(), log.len(), "each call is one line");
}
