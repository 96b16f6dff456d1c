use ipc_trace_common::{
    op::{Abi, Op, SyscallCode, Timeout},
    record::{GIVEN_NAME_LEN, RecordKind, VERSION, flag},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use zerocopy::IntoBytes as _;

use super::NamedObject;
use crate::{
    event::{
        ReadFrom,
        value::{Hex32, OsBytes},
    },
    input::Call,
    sources::kernel::decode,
    sources::kernel::decode::Record,
};

/// A handmade call: words as in the ring, so that they are aligned.
struct HandmadeCall(Vec<u64>);

impl HandmadeCall {
    const PART: usize = 120;
    /// Of `QueuePart`
    const INPUT: usize = Self::PART + 24;
    const OUTPUT: usize = Self::INPUT + 32;
    /// Of `NamePart`
    const ATTR: usize = Self::PART + 24;
    const NAME_LEN: usize = Self::ATTR + 32;
    const NAME: usize = Self::NAME_LEN + 8;

    fn new(abi: Abi, op: Op, args: &[u64]) -> Self {
        // Unspecified memory has stale content.
        let mut made = Self(vec![0xa5a5_a5a5_a5a5_a5a5; 60]);
        made.0[3] = 0;
        made.0[10..10 + args.len()].copy_from_slice(args);
        made.put(0, &[VERSION, RecordKind::Call as u8, abi as u8, op as u8]).flags(0)
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn flags(self, flags: u32) -> Self {
        self.put(4, &flags.to_le_bytes())
    }

    fn timeout(self, timeout: Timeout) -> Self {
        let op = Op::from_number(self.0.as_bytes()[3]).unwrap();
        self.put(3, &[SyscallCode::new(op, timeout).0])
    }

    fn ret(mut self, ret: i64) -> Self {
        self.0[3] = ret.cast_unsigned();
        self
    }

    fn words(self, at: usize, words: &[u32]) -> Self {
        self.put(at, words.as_bytes())
    }

    fn longs(self, at: usize, longs: &[i64]) -> Self {
        self.put(at, longs.as_bytes())
    }

    fn named_queue(self, name: &[u8]) -> Self {
        self.words(Self::NAME_LEN, &[name.len() as u32, 0]).put(Self::NAME, name)
    }

    fn call(&self) -> Call<'_> {
        match decode::record(self.0.as_bytes()) {
            Ok(Record::Call(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.call().args()).unwrap()
    }
}

/// All ABIs, with what an `int` of -1 looks like in their registers.
const ABIS: [(Abi, u64); 5] = [
    (Abi::X86_64, u64::MAX),
    (Abi::I386, 0xffff_ffff),
    (Abi::X32, 0xffff_ffff),
    (Abi::Aarch64, 0xdead_0000_ffff_ffff),
    (Abi::Arm, 0xffff_ffff),
];

#[test]
fn registers_are_narrowed_to_their_types() {
    for (abi, minus) in ABIS {
        let json = |op, args: &[u64]| HandmadeCall::new(abi, op, args).json();
        assert_eq!(
            json(Op::Shmget, &[minus, 4096, 0o1600]),
            json!({"key": "0xffffffff", "size": 4096, "shmflg": ["IPC_CREAT", "0x180"], "mode": "0600"})
        );
        assert_eq!(
            json(Op::Shmat, &[minus, 0x7000, 0o10000]),
            json!({"shmid": -1, "shmaddr": "0x7000", "shmflg": ["SHM_RDONLY"]})
        );
        assert_eq!(json(Op::Shmdt, &[0x7000]), json!({"shmaddr": "0x7000"}));
        assert_eq!(
            json(Op::Semget, &[0, minus, 0o3000]),
            json!({"key": "0x00000000", "nsems": -1, "semflg": ["IPC_CREAT", "IPC_EXCL"], "mode": "0000"})
        );
        assert_eq!(
            json(Op::Msgget, &[0x8cd1_ab21, 0o644]),
            json!({"key": "0x8cd1ab21", "msgflg": ["0x1a4"], "mode": "0644"})
        );
        assert_eq!(
            json(Op::Semctl, &[3, 1, 16, minus]),
            json!({"semid": 3, "semnum": 1, "cmd": "SETVAL", "arg": format!("{minus:#x}"), "val": -1, "set": null})
        );
        assert_eq!(json(Op::MqUnlink, &[0x7000]), json!({"name": null, "name_truncated": false}));
    }
}

#[test]
fn messages_have_longs_of_the_callers_size() {
    for (abi, minus) in ABIS {
        let long = if abi.is_32_bit() { minus } else { u64::MAX };
        let made = HandmadeCall::new(abi, Op::Msgrcv, &[7, 0x7000, 64, long, 0o74000]);
        let mut expected = json!({
            "msqid": 7, "msgp": "0x7000", "msgsz": 64, "msgtyp": -1, "mtype": null,
            "msgflg": ["IPC_NOWAIT", "MSG_NOERROR", "MSG_EXCEPT", "MSG_COPY"],
        });
        assert_eq!(made.json(), expected, "{}", abi.name());
        expected["mtype"] = json!(-5);
        assert_eq!(made.flags(flag::DETAIL).longs(HandmadeCall::PART, &[-5]).json(), expected);

        let made = HandmadeCall::new(abi, Op::Msgsnd, &[7, 0x7000, 64, 0o4000]);
        assert_eq!(
            made.flags(flag::DETAIL).longs(HandmadeCall::PART, &[9]).json(),
            json!({"msqid": 7, "msgp": "0x7000", "msgsz": 64, "msgflg": ["IPC_NOWAIT"], "mtype": 9})
        );
    }
}

#[test]
fn semop_shows_the_operations_read() {
    let made = |nsops| HandmadeCall::new(Abi::X86_64, Op::Semop, &[3, 0x7000, nsops, 0]);
    assert_eq!(
        made(1).flags(flag::FAULT).json(),
        json!({"semid": 3, "nsops": 1, "sops": null, "sops_truncated": false, "timeout": null})
    );
    let one =
        made(1).flags(flag::DETAIL).put(HandmadeCall::PART, &[2, 0, 0xff, 0xff, 0, 0x18]).json();
    assert_eq!(
        one["sops"],
        json!([{"sem_num": 2, "sem_op": -1, "sem_flg": ["IPC_NOWAIT", "SEM_UNDO"]}])
    );
    // The upper half of an unsigned int's register is undefined.
    for (nsops, shown, truncated) in
        [(0, 0, false), (8, 8, false), (9, 8, true), (7 << 32, 0, false)]
    {
        let json = made(nsops).flags(flag::DETAIL).json();
        let sops = json["sops"].as_array().unwrap();
        assert_eq!((sops.len(), &json["sops_truncated"]), (shown, &json!(truncated)), "{nsops}");
    }
}

#[test]
fn time_limits_have_the_layout_of_the_entry() {
    const NOISY: i64 = 0x55 << 32 | 500;
    let rows = [
        (Abi::X86_64, Timeout::Time64, json!({"tv_sec": -1, "tv_nsec": NOISY})),
        (Abi::Aarch64, Timeout::Time64, json!({"tv_sec": -1, "tv_nsec": NOISY})),
        (Abi::X32, Timeout::Time64, json!({"tv_sec": -1, "tv_nsec": 500})),
        (Abi::I386, Timeout::Time64, json!({"tv_sec": -1, "tv_nsec": 500})),
        (Abi::Arm, Timeout::Time32, json!({"tv_sec": -1, "tv_nsec": -1})),
        (Abi::I386, Timeout::Time32, json!({"tv_sec": -1, "tv_nsec": -1})),
        (Abi::X86_64, Timeout::None, json!(null)),
    ];
    for (abi, timeout, expected) in rows {
        for (op, at, member) in [
            (Op::Semop, HandmadeCall::PART + 48, "timeout"),
            (Op::MqSend, HandmadeCall::INPUT, "abs_timeout"),
            (Op::MqReceive, HandmadeCall::INPUT, "abs_timeout"),
        ] {
            let made = |flags| {
                HandmadeCall::new(abi, op, &[3, 0x7000, 1, 0x7100, 0x7200])
                    .timeout(timeout)
                    .flags(flags)
                    .longs(at, &[-1, NOISY])
            };
            assert_eq!(made(flag::TIMEOUT).json()[member], expected, "{} {timeout:?}", abi.name());
            assert_eq!(made(flag::FAULT).json()[member], Value::Null);
        }
    }
}

#[test]
fn commands_with_ipc_64_have_names() {
    let rows = [
        (Abi::X86_64, Op::Shmctl, 13, "SHM_STAT"),
        (Abi::X86_64, Op::Shmctl, 0x10d, "0x10d"),
        (Abi::X32, Op::Msgctl, 0x100, "0x100"),
        (Abi::I386, Op::Shmctl, 0x10f, "SHM_STAT_ANY"),
        (Abi::I386, Op::Semctl, 0x10d, "GETALL"),
        (Abi::Arm, Op::Msgctl, 0x10c, "MSG_INFO"),
        (Abi::Arm, Op::Msgctl, 0x163, "0x163"),
    ];
    for (abi, op, cmd, name) in rows {
        let args = if op == Op::Semctl { [3, 0, cmd, 0] } else { [3, cmd, 0, 0] };
        assert_eq!(
            HandmadeCall::new(abi, op, &args).json()["cmd"],
            name,
            "{} {cmd:#x}",
            abi.name()
        );
    }
}

#[test]
fn ipc_set_has_the_layout_of_the_entry() {
    let native = |made: HandmadeCall| {
        made.words(HandmadeCall::PART, &[1, 1000, 100, 2, 3, 0o100_640])
            .longs(HandmadeCall::PART + 88, &[1 << 33])
    };
    let compat = |made: HandmadeCall| {
        made.words(HandmadeCall::PART, &[1, 1000, 100, 2, 3, 0xffff_0000 | 0o640])
            .words(HandmadeCall::PART + 68, &[16384])
    };
    let old = |made: HandmadeCall| {
        made.words(HandmadeCall::PART, &[1, 100 << 16 | 1000, 0xffff_ffff, 0xffff_0000 | 0o640])
            .words(HandmadeCall::PART + 48, &[0xffff_4000])
    };
    type Fill = fn(HandmadeCall) -> HandmadeCall;
    let rows: [(Abi, u32, u64, Fill, u64); 9] = [
        (Abi::X86_64, 0, 1, native, 1 << 33),
        (Abi::X32, 0, 1, native, 1 << 33),
        (Abi::Aarch64, 0, 1, native, 1 << 33),
        (Abi::I386, 0, 1, compat, 16384),
        (Abi::I386, 0, 0x101, compat, 16384),
        (Abi::I386, flag::MULTIPLEXED, 0x101, compat, 16384),
        (Abi::I386, flag::MULTIPLEXED, 1, old, 16384),
        (Abi::Arm, 0, 0x101, compat, 16384),
        (Abi::Arm, 0, 1, old, 16384),
    ];
    for (abi, flags, cmd, fill, qbytes) in rows {
        for op in [Op::Shmctl, Op::Semctl, Op::Msgctl] {
            let args = if op == Op::Semctl { [3, 0, cmd, 0x7000] } else { [3, cmd, 0x7000, 0] };
            let made = |flags| fill(HandmadeCall::new(abi, op, &args).flags(flags));
            let msg_qbytes = (op == Op::Msgctl).then_some(qbytes);
            assert_eq!(
                made(flags | flag::DETAIL).json()["set"],
                json!({"uid": 1000, "gid": 100, "mode": "0640", "msg_qbytes": msg_qbytes}),
                "{} {} {cmd:#x} {flags}",
                abi.name(),
                op.name()
            );
            assert_eq!(made(flags | flag::FAULT).json()["set"], Value::Null);
        }
    }
    let stat = HandmadeCall::new(Abi::X86_64, Op::Shmctl, &[3, 2, 0x7000]).flags(flag::DETAIL);
    assert_eq!(stat.json()["set"], Value::Null);
    // A native call rejects such a command.
    let odd = HandmadeCall::new(Abi::X86_64, Op::Shmctl, &[3, 0x101, 0x7000]).flags(flag::DETAIL);
    assert_eq!(odd.json()["set"], Value::Null);
}

/// `struct mq_attr` in the caller's form.
fn attr(made: HandmadeCall, abi: Abi, at: usize) -> HandmadeCall {
    if abi.is_32_bit() {
        made.words(at, &[0o4000, 10, 8192, u32::MAX])
    } else {
        made.longs(at, &[0o4000, 10, 8192, -1])
    }
}

fn attr_json() -> Value {
    json!({"mq_flags": ["O_NONBLOCK"], "mq_maxmsg": 10, "mq_msgsize": 8192, "mq_curmsgs": -1})
}

#[test]
fn mq_open_shows_mode_and_attributes_of_a_new_queue() {
    for (abi, _) in ABIS {
        let made = |oflag, flags| {
            let made = HandmadeCall::new(abi, Op::MqOpen, &[0x7000, oflag, 0o177_640, 0x7100]);
            attr(made.flags(flags).named_queue(b"q\xff"), abi, HandmadeCall::ATTR).json()
        };
        assert_eq!(
            made(0o102, flag::DETAIL | flag::EXTRA),
            json!({"name": "q\\xff", "name_truncated": false, "oflag": ["O_RDWR", "O_CREAT"], "mode": "7640", "attr": attr_json()})
        );
        assert_eq!(
            made(0o102, flag::DETAIL),
            json!({"name": "q\\xff", "name_truncated": false, "oflag": ["O_RDWR", "O_CREAT"], "mode": "7640", "attr": null})
        );
        assert_eq!(
            made(0, flag::FAULT | flag::EXTRA),
            json!({"name": null, "name_truncated": false, "oflag": ["O_RDONLY"], "mode": null, "attr": null})
        );
    }
}

#[test]
fn queue_calls_show_the_structures_read() {
    for (abi, minus) in ABIS {
        let made = |op, args: &[u64], flags| HandmadeCall::new(abi, op, args).flags(flags);
        assert_eq!(
            made(Op::MqSend, &[minus, 0x7000, 5, minus, 0], 0).json(),
            json!({"mqdes": -1, "msg_ptr": "0x7000", "msg_len": 5, "msg_prio": u32::MAX, "abs_timeout": null})
        );
        let receive = |flags| {
            made(Op::MqReceive, &[4, 0x7000, 5, 0x7100, 0], flags).words(HandmadeCall::OUTPUT, &[9])
        };
        assert_eq!(
            receive(flag::EXTRA).json(),
            json!({"mqdes": 4, "msg_ptr": "0x7000", "msg_len": 5, "msg_prio": 9, "abs_timeout": null})
        );
        assert_eq!(receive(flag::FAULT).json()["msg_prio"], Value::Null);

        let notify = |flags| {
            let made = made(Op::MqNotify, &[4, 0x7000], flags);
            match abi {
                Abi::X86_64 | Abi::Aarch64 => made.words(HandmadeCall::INPUT, &[1, 1, 10, 2]),
                Abi::I386 | Abi::X32 | Abi::Arm => made.words(HandmadeCall::INPUT, &[1, 10, 2, 3]),
            }
        };
        assert_eq!(
            notify(flag::DETAIL).json(),
            json!({"mqdes": 4, "sevp": {"sigev_notify": "SIGEV_THREAD", "sigev_signo": 10}})
        );
        assert_eq!(notify(0).json(), json!({"mqdes": 4, "sevp": null}));

        let getsetattr = |flags| {
            let made = made(Op::MqGetsetattr, &[4, 0x7000, 0x7100], flags);
            attr(attr(made, abi, HandmadeCall::INPUT), abi, HandmadeCall::OUTPUT).json()
        };
        let null = Value::Null;
        for (flags, new, old) in [
            (0, null.clone(), null.clone()),
            (flag::DETAIL, attr_json(), null.clone()),
            (flag::OLD, null, attr_json()),
        ] {
            assert_eq!(getsetattr(flags), json!({"mqdes": 4, "newattr": new, "oldattr": old}));
        }
    }
}

#[test]
fn a_call_names_its_object() {
    let id = |id| NamedObject { id, ..NamedObject::default() };
    let key = |key, id| NamedObject { id, key: Some(Hex32(key)), name: None };
    let x86 = Abi::X86_64;
    let rows: [(Abi, Op, &[u64], i64, NamedObject<'_>); 18] = [
        (x86, Op::Shmget, &[0x1234, 1, 0], 5, key(0x1234, Some(5))),
        (x86, Op::Semget, &[0, 1, 0], -2, key(0, None)),
        (Abi::I386, Op::Msgget, &[0xffff_ffff, 0], 0, key(u32::MAX, Some(0))),
        (x86, Op::Shmat, &[5, 0, 0], 0x7f00_0000_0000, id(Some(5))),
        (x86, Op::Shmdt, &[0x7000], 0, id(None)),
        (x86, Op::Semop, &[5, 0x7000, 1, 0], -11, id(Some(5))),
        (x86, Op::Msgsnd, &[0xffff_ffff, 0, 0, 0], -22, id(Some(-1))),
        (x86, Op::Shmctl, &[5, 0, 0], 0, id(Some(5))),
        // A command with an index returns an id; failed ones, and those for limits, have none.
        (x86, Op::Shmctl, &[5, 13, 0], 32773, id(Some(32773))),
        (x86, Op::Shmctl, &[5, 15, 0], -22, id(None)),
        (x86, Op::Shmctl, &[5, 14, 0], 9, id(None)),
        (x86, Op::Msgctl, &[5, 3, 0], 9, id(None)),
        (Abi::I386, Op::Msgctl, &[5, 0x10d, 0], 32773, id(Some(32773))),
        (Abi::Arm, Op::Semctl, &[5, 0, 0x112, 0], 32773, id(Some(32773))),
        (x86, Op::Semctl, &[5, 0, 13, 0], 0, id(Some(5))),
        (x86, Op::MqSend, &[4, 0, 0, 0, 0], 0, id(None)),
        (
            x86,
            Op::MqUnlink,
            &[0x7000],
            0,
            NamedObject { name: Some(OsBytes(b"q".into())), ..id(None) },
        ),
        (
            x86,
            Op::MqOpen,
            &[0x7000, 0],
            3,
            NamedObject { name: Some(OsBytes(b"q".into())), ..id(None) },
        ),
    ];
    for (abi, op, args, ret, expected) in rows {
        let made = HandmadeCall::new(abi, op, args).ret(ret);
        let made = if op.object_kind() == ipc_trace_common::op::ObjectKind::Mq {
            made.flags(flag::DETAIL).named_queue(b"q")
        } else {
            made
        };
        assert_eq!(made.call().named(), expected, "{} {args:?}", op.name());
    }
}

/// Decodes any bytes and shows the result.
fn decode_and_show(words: &[u64]) {
    crate::fuzzing::records(words.as_bytes());
    let Ok(record) = decode::record(words.as_bytes()) else { return };
    if let Record::Call(call) = record {
        let json = serde_json::to_string(&call.args()).unwrap();
        serde_json::from_str::<Value>(&json).unwrap();
        if let Some(name) = call.named().name {
            serde_json::from_str::<Value>(&serde_json::to_string(&name).unwrap()).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_to_parts_within_their_record(
        words in prop::collection::vec(any::<u64>(), 0..200),
        kind in 0..11_u8,
        abi in 0..6_u8,
        code in any::<u8>(),
    ) {
        decode_and_show(&words);
        let Some(first) = words.first() else { return Ok(()) };
        let mut likely = words.clone();
        likely[0] = first & !0xffff_ffff
            | u64::from(u32::from_le_bytes([VERSION, kind, abi, code]));
        decode_and_show(&likely);
    }

    #[test]
    fn any_call_can_be_shown(
        words in prop::collection::vec(any::<u64>(), 60),
        abi in 0..5_usize,
        op in 0..17_usize,
        cmd in 0..0x120_u64,
        name_len in 0..300_u32,
    ) {
        let op = Op::ALL[op];
        let mut made = HandmadeCall::new(Abi::ALL[abi], op, &words[..5]).longs(HandmadeCall::PART, words[15..].iter().map(|w| w.cast_signed()).collect::<Vec<_>>().as_slice());
        made.0[3] = words[6];
        made.0[11] = cmd;
        made.0[12] = cmd;
        made = made.flags(words[7] as u32);
        if matches!(op, Op::MqOpen | Op::MqUnlink) {
            made = made.words(HandmadeCall::NAME_LEN, &[name_len]);
        }
        decode_and_show(&made.0);
    }

    #[test]
    fn a_namespace_list_of_any_bytes_is_split_without_panic(
        records in prop::collection::vec((7..11_u8, any::<u8>(), any::<u64>()), 0..20),
        rest in prop::collection::vec(any::<u64>(), 0..4),
    ) {
        let mut words = Vec::new();
        for (kind, code, fill) in records {
            let len = match kind { 7 => 11, 8 => 4, 9 => 3, _ => 1 };
            words.push(u64::from(u32::from_le_bytes([VERSION, kind, 0, code])));
            words.extend(std::iter::repeat_n(fill, len - 1));
        }
        words.extend(rest);
        let mut seen = 0;
        let _ = decode::iterated(words.as_bytes(), |_| seen += 1);
        prop_assert!(seen <= words.len());
    }
}

#[test]
fn a_call_states_the_source_of_its_arguments() {
    let from = |op, args: &[u64], flags| {
        HandmadeCall::new(Abi::X86_64, op, args).flags(flags).call().args_from()
    };
    // Register arguments can't be changed by other threads.
    assert_eq!(from(Op::Shmget, &[1, 2, 3], 0), ReadFrom::Kernel);
    assert_eq!(from(Op::Msgrcv, &[1, 0x7000, 3, 4, 5], 0), ReadFrom::Kernel);
    assert_eq!(from(Op::MqSend, &[3, 0x7000, 5, 0, 0], 0), ReadFrom::Kernel);
    assert_eq!(from(Op::Semctl, &[3, 0, 16, 5], 0), ReadFrom::Kernel);
    for (op, args) in [
        (Op::Semop, &[3, 0x7000, 1, 0, 0][..]),
        (Op::Msgsnd, &[3, 0x7000, 8, 0]),
        (Op::MqOpen, &[0x7000, 0]),
        (Op::MqUnlink, &[0x7000]),
        (Op::MqReceive, &[3, 0x7000, 8, 0, 0x7100]),
        (Op::MqNotify, &[3, 0x7000]),
        (Op::MqGetsetattr, &[3, 0x7000, 0]),
        (Op::Shmctl, &[3, 1, 0x7000]),
        (Op::Semctl, &[3, 0, 1, 0x7000]),
        (Op::Msgctl, &[3, 1, 0x7000]),
    ] {
        assert_eq!(from(op, args, flag::DETAIL | flag::AT_ENTRY), ReadFrom::Entry);
        assert_eq!(from(op, args, flag::DETAIL), ReadFrom::Return);
    }
    let by_ipc = HandmadeCall::new(Abi::I386, Op::Msgrcv, &[1, 0x7000, 3, 4, 5]);
    let flags = flag::MULTIPLEXED | flag::INDIRECT;
    assert_eq!(by_ipc.flags(flags).call().args_from(), ReadFrom::Return);
}

#[test]
fn a_skipped_call_has_no_object_and_no_effect() {
    let made = |flags, ret| {
        HandmadeCall::new(Abi::X86_64, Op::Shmget, &[0, 4096, 0]).flags(flags).ret(ret)
    };
    let never = made(flag::NOT_MADE, 7);
    assert_eq!((never.call().made(), never.call().ret()), (Some(false), Some(7)));
    assert_eq!((never.call().named().id, never.call().effect()), (None, None));
    let trapped = made(flag::NOT_MADE | flag::RET_UNKNOWN, 29);
    assert_eq!(trapped.call().ret(), None);
    let unseen = made(flag::ENTRY_UNSEEN, 7);
    assert_eq!((unseen.call().made(), unseen.call().named().id), (None, Some(7)));
    assert_eq!(made(0, 7).call().made(), Some(true));
}

#[test]
fn a_name_that_is_too_long_is_cut_visibly() {
    let name = [b'n'; GIVEN_NAME_LEN - 1];
    let made = |flags| {
        let made = HandmadeCall::new(Abi::X86_64, Op::MqUnlink, &[0x7000]);
        made.flags(flags).named_queue(&name).json()["name_truncated"].clone()
    };
    assert_eq!(made(flag::DETAIL), json!(false));
    assert_eq!(made(flag::DETAIL | flag::TRUNCATED), json!(true));
}
