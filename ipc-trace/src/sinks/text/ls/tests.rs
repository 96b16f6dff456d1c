use std::collections::BTreeMap;

use ipc_trace_common::{op::ObjectKind, state::HOST_INUM};
use unicode_width::UnicodeWidthStr as _;

use super::text as ls_text;
use crate::{
    event::{
        NsInodes, Sharing, VERSION,
        ls::{
            DescriptorOf, Holder, Limit, LimitName, Ls, MountOf, NamespaceSnapshot, ProcessInfo,
            Unseen, UnseenWhat,
        },
        objects::{Creator, LastUse, ObjectInfo},
        value::{FileMode, Hex32, KindName},
    },
    sinks::text::fixtures::{HOSTILE, at, container, text},
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

fn process(pid: u32, comm: &str, exe: Option<&str>) -> ProcessInfo {
    ProcessInfo {
        pid,
        ppid: Some(1),
        comm: text(comm),
        exe: exe.map(text),
        uid: Some(1000),
        gid: Some(1000),
        start_boot_ns: Some(7),
        ns: NsInodes { pid: Some(pid / 10), mnt: None, user: None },
        container: (pid == 43).then(|| container().into()),
        cgroup: None,
        threads: 2,
    }
}

fn object(kind: ObjectKind, id: i32) -> ObjectInfo {
    ObjectInfo {
        kind: KindName(kind),
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

fn queue(name: &str, messages: u64) -> ObjectInfo {
    let (id, key) = (None, None);
    let (messages, max_messages) = (Some(messages), Some(10));
    ObjectInfo {
        id,
        key,
        name: Some(text(name)),
        messages,
        max_messages,
        ..object(ObjectKind::Mq, 0)
    }
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

fn empty(inum: u32) -> NamespaceSnapshot {
    NamespaceSnapshot {
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

/// A namespace with one of everything, and hostile names.
fn everything() -> NamespaceSnapshot {
    let name = |name: &str| Some(text(name));
    NamespaceSnapshot {
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
            ObjectInfo {
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
                ..object(ObjectKind::Shm, 3)
            },
            ObjectInfo { size: Some(250), ..object(ObjectKind::Sem, 32768) },
            ObjectInfo {
                bytes: Some(16000),
                messages: Some(1000),
                last: Some(LastUse { pid: None, comm: None, time: Some(at(61_000)) }),
                ..object(ObjectKind::Msg, 0)
            },
            ObjectInfo {
                size: None,
                bytes: Some(1),
                messages: Some(1),
                ..object(ObjectKind::Msg, 1)
            },
            queue("jobs", 10),
            ObjectInfo { removed: true, ..queue(HOSTILE, 0) },
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
            NamespaceSnapshot {
                processes: vec![process(1, "systemd", Some("/sbin/init"))],
                ..empty(HOST_INUM)
            },
            everything(),
            NamespaceSnapshot {
                holders: (3..8)
                    .map(|fd| descriptor(fd, DescriptorOf::Namespace))
                    .chain([descriptor(9, DescriptorOf::Sysvipc)])
                    .collect(),
                ..empty(4_026_532_181)
            },
            NamespaceSnapshot { holders: vec![mount], ..empty(4_026_532_182) },
            NamespaceSnapshot {
                unseen: unseen
                    .map(|what| Unseen { what, reason: "it can't be entered: EPERM".to_owned() })
                    .into(),
                ..empty(4_026_532_183)
            },
        ],
    }
}

#[test]
fn every_namespace_has_line() {
    insta::assert_snapshot!("all_80", show(&sample(), false, Palette::PLAIN, 80));
    insta::assert_snapshot!("all_coloured", show(&sample(), false, Palette::COLOURED, 100));
}

#[test]
fn named_namespace_is_shown_in_full() {
    let one = |namespace| Ls { namespaces: vec![namespace], ..sample() };
    insta::assert_snapshot!("one_80", show(&one(everything()), true, Palette::PLAIN, 80));
    insta::assert_snapshot!("one_coloured", show(&one(everything()), true, Palette::COLOURED, 100));
    let unseen = sample().namespaces.pop().unwrap();
    insta::assert_snapshot!("unseen_80", show(&one(unseen), true, Palette::PLAIN, 80));
}

#[test]
fn missing_parts_are_reported() {
    let ls = Ls { complete: false, namespaces: vec![empty(HOST_INUM)], ..sample() };
    insta::assert_snapshot!("incomplete_80", show(&ls, false, Palette::PLAIN, 80));
}
