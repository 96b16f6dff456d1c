use std::collections::BTreeMap;

use ipc_trace_common::{op::Family, state::HOST_INUM};
use unicode_width::UnicodeWidthStr as _;

use super::text as ls_text;
use crate::{
    event::{
        OtherNs, Sharing, VERSION,
        ls::{
            DescriptorOf, Holder, Limit, LimitName, Ls, MountOf, NamespaceLook, ProcessLook,
            Unseen, UnseenWhat,
        },
        objects::{Creator, LastUse, ObjectLook},
        value::{FamilyName, FileMode, Hex32},
    },
    sinks::text::samples::{HOSTILE, at, container, text},
    sinks::text::style::Palette,
};

fn show(ls: &Ls, full: bool, palette: Palette, width: usize) -> String {
    let shown = ls_text(ls, full, palette, width).to_string();
    if palette == Palette::PLAIN {
        for line in shown.lines() {
            assert!(line.width() <= width, "{line:?} has more than {width} cells");
            assert_eq!(line.trim_end(), line);
        }
        assert!(shown.chars().all(|char| !char.is_control() || char == '\n'), "{shown:?}");
    }
    shown
}

fn process(pid: u32, comm: &str, exe: Option<&str>) -> ProcessLook {
    ProcessLook {
        pid,
        ppid: Some(1),
        comm: text(comm),
        exe: exe.map(text),
        uid: Some(1000),
        gid: Some(1000),
        start_boot_ns: Some(7),
        ns: OtherNs { pid: Some(pid / 10), mnt: None, user: None },
        container: (pid == 43).then(|| container().into()),
        cgroup: None,
        threads: 2,
    }
}

fn object(kind: Family, id: i32) -> ObjectLook {
    ObjectLook {
        kind: FamilyName(kind),
        id: Some(id),
        key: Some(Hex32(0x8cd1_ab21)),
        name: None,
        mode: Some(FileMode(0o640)),
        uid: Some(1000),
        gid: Some(100),
        size: Some(16384),
        messages: None,
        max_messages: None,
        bytes: None,
        creator: None,
        last: None,
        attached: None,
        removed: false,
        ino: None,
    }
}

fn queue(name: &str, messages: u64) -> ObjectLook {
    let (id, key) = (None, None);
    let (messages, max_messages) = (Some(messages), Some(10));
    ObjectLook { id, key, name: Some(text(name)), messages, max_messages, ..object(Family::Mq, 0) }
}

fn limits() -> BTreeMap<LimitName, Limit> {
    let all = LimitName::ALL.map(|name| (name, Limit { limit: 32000, used: None }));
    let mut limits = BTreeMap::from(all);
    limits.extend([
        (LimitName::Shmmni, Limit { limit: 4096, used: Some(3300) }),
        (LimitName::Shmall, Limit { limit: u64::MAX - (1 << 24), used: Some(7) }),
        (LimitName::Shmmax, Limit { limit: u64::MAX - (1 << 24), used: None }),
        (LimitName::QueuesMax, Limit { limit: 256, used: Some(2) }),
    ]);
    limits
}

fn empty(inum: u32) -> NamespaceLook {
    NamespaceLook {
        inum,
        r#gen: 1,
        ns_id: Some(u64::from(inum % 1000)),
        host: inum == HOST_INUM,
        created: None,
        destroyed: None,
        containers: Vec::new(),
        sharing: None,
        processes: Vec::new(),
        holders: Vec::new(),
        objects: Vec::new(),
        limits: BTreeMap::new(),
        unseen: Vec::new(),
        mqueue_dev: None,
        listed: (0, 0),
    }
}

/// A namespace with one of everything, and names that would do harm.
fn everything() -> NamespaceLook {
    let name = |name: &str| Some(text(name));
    NamespaceLook {
        containers: vec![container().into()],
        sharing: Some(Sharing::Undeclared),
        processes: vec![
            process(7, "kworker/0:1", None),
            process(42, "worker", Some("/usr/bin/worker")),
            process(4_194_304, HOSTILE, Some(HOSTILE)),
            process(43, "a", Some("/a")),
            process(44, "b", Some("/b")),
        ],
        holders: vec![
            Holder::Process { pid: 42, threads: 2 },
            Holder::Descriptor {
                pid: 42,
                comm: name("worker"),
                fd: 3,
                of: DescriptorOf::Queue,
                name: name(HOSTILE),
                pins: false,
            },
            Holder::Mapping {
                pid: 42,
                comm: None,
                shmid: 3,
                mappings: 2,
                bytes: 8192,
                exact: false,
            },
        ],
        objects: vec![
            ObjectLook {
                attached: Some(2),
                removed: true,
                key: Some(Hex32(0)),
                creator: Some(Creator {
                    pid: Some(42),
                    uid: 0,
                    gid: 0,
                    comm: None,
                    exe: None,
                    start_boot_ns: None,
                    container: None,
                    exact: true,
                }),
                last: Some(LastUse { pid: Some(43), comm: None, time: Some(at(0)) }),
                ..object(Family::Shm, 3)
            },
            ObjectLook { size: Some(250), ..object(Family::Sem, 32768) },
            ObjectLook {
                bytes: Some(16000),
                messages: Some(1000),
                last: Some(LastUse { pid: None, comm: None, time: Some(at(61_000)) }),
                ..object(Family::Msg, 0)
            },
            ObjectLook { size: None, bytes: Some(1), messages: Some(1), ..object(Family::Msg, 1) },
            queue("jobs", 10),
            ObjectLook { removed: true, ..queue(HOSTILE, 0) },
        ],
        limits: limits(),
        ..empty(4_026_532_180)
    }
}

fn sample() -> Ls {
    let descriptor = |fd, of| Holder::Descriptor {
        pid: 812,
        comm: Some(text("containerd-shim")),
        fd,
        of,
        name: (of == DescriptorOf::Sysvipc).then(|| text("shm")),
        pins: true,
    };
    let mount = Holder::Mount {
        mnt_ns: 4_026_531_840,
        pid: 1,
        mount_point: text("/run/ipc ns/\x1b[2J"),
        of: MountOf::Namespace,
        pins: true,
    };
    let unseen = [UnseenWhat::Sysv, UnseenWhat::Queues, UnseenWhat::Limits];
    Ls {
        v: VERSION,
        host: "web1".to_owned(),
        kernel: "6.12.117".to_owned(),
        time: at(0),
        complete: true,
        unseen: Vec::new(),
        namespaces: vec![
            NamespaceLook {
                processes: vec![process(1, "systemd", Some("/sbin/init"))],
                ..empty(HOST_INUM)
            },
            everything(),
            NamespaceLook {
                holders: (3..8)
                    .map(|fd| descriptor(fd, DescriptorOf::Namespace))
                    .chain([descriptor(9, DescriptorOf::Sysvipc)])
                    .collect(),
                ..empty(4_026_532_181)
            },
            NamespaceLook { holders: vec![mount], ..empty(4_026_532_182) },
            NamespaceLook {
                unseen: unseen
                    .map(|what| Unseen { what, reason: "it can't be entered: EPERM".to_owned() })
                    .into(),
                ..empty(4_026_532_183)
            },
        ],
    }
}

#[test]
fn all_namespaces_have_a_line() {
    insta::assert_snapshot!("all_80", show(&sample(), false, Palette::PLAIN, 80));
    insta::assert_snapshot!("all_coloured", show(&sample(), false, Palette::COLOURED, 100));
}

#[test]
fn one_namespace_is_shown_in_full() {
    let one = |namespace| Ls { namespaces: vec![namespace], ..sample() };
    insta::assert_snapshot!("one_80", show(&one(everything()), true, Palette::PLAIN, 80));
    insta::assert_snapshot!("one_coloured", show(&one(everything()), true, Palette::COLOURED, 100));
    let unseen = sample().namespaces.pop().unwrap();
    insta::assert_snapshot!("unseen_80", show(&one(unseen), true, Palette::PLAIN, 80));
}

#[test]
fn what_may_be_missing_is_said() {
    let ls = Ls { complete: false, namespaces: vec![empty(HOST_INUM)], ..sample() };
    insta::assert_snapshot!("incomplete_80", show(&ls, false, Palette::PLAIN, 80));
}
