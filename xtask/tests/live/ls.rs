//! `ls`: what exists, compared with the workloads' view from inside, and with lsns and ipcs.

mod untrusted;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    invariants::assert_valid,
    tracer::{
        TestProcess, as_user, eventually, ipc_ns_of, list, number, program, scaled, text, workload,
    },
};

/// What `ls -o json` prints.
fn ls_json(arguments: &[&str]) -> Value {
    let output = program().args(["ls", "-o", "json"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    if kernel_lists_mappings() {
        assert_eq!(text(&output.stderr), "");
    }
    let ls = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("ls", &[&ls]);
    ls
}

/// The workload `ns-holders`, and its report.
fn start_ns_holders() -> (TestProcess, Value) {
    let mut ns_holders = TestProcess::start(workload(&["ns-holders"]));
    let report = serde_json::from_str(&ns_holders.line()).unwrap();
    (ns_holders, report)
}

#[track_caller]
fn namespace<'a>(ls: &'a Value, inum: &Value) -> &'a Value {
    let found = list(&ls["namespaces"]).iter().find(|namespace| namespace["inum"] == *inum);
    found.unwrap_or_else(|| panic!("no namespace {inum} in {ls:#}"))
}

/// A namespace that the workload holds.
#[track_caller]
fn held<'a>(report: &'a Value, label: &str) -> &'a Value {
    list(&report["held"]).iter().find(|held| held["label"] == label).unwrap()
}

/// Holders without what differs between runs.
fn holders<'a>(namespace: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(&namespace["holders"]).iter().filter(|holder| holder["kind"] == kind).collect()
}

/// Whether the kernel has iterators over mappings: Linux 5.12 and later.
pub(crate) fn kernel_lists_mappings() -> bool {
    !release().starts_with("5.10.")
}

fn release() -> String {
    nix::sys::utsname::uname().unwrap().release().to_str().unwrap().to_owned()
}

/// `value` has these members.
#[track_caller]
fn assert_has(value: &Value, members: &Value) {
    for (name, member) in members.as_object().unwrap() {
        assert_eq!(value[name], *member, "{name} of {value:#}");
    }
}

/// Whether the kernel has a way into namespaces that nothing in `/proc` names: 6.18 does. Later ones
/// have it for those that are in use (`nsfs_fh_to_dentry`, fs/nsfs.c).
pub(crate) fn kernel_enters_by_number() -> bool {
    release().starts_with("6.18.")
}

/// The rows of a table of `/proc/sysvipc`, by its columns' names.
fn rows(table: &Value) -> Vec<BTreeMap<String, i64>> {
    let mut lines = table.as_str().unwrap().lines();
    let names: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let row = |line: &str| {
        let values = line.split_whitespace().map(|value| value.parse().unwrap());
        names.iter().map(|name| (*name).to_owned()).zip(values).collect()
    };
    lines.map(row).collect()
}

/// An object as a table has it.
fn expected(kind: &str, row: &BTreeMap<String, i64>) -> Value {
    let octal = row["perms"];
    let mode = octal % 10 + octal / 10 % 10 * 8 + octal / 100 % 10 * 64;
    let mut object = json!({
        "kind": kind,
        "key": format!("{:#010x}", row["key"] as u32),
        "mode": format!("{mode:04o}"),
        "uid": row["uid"], "gid": row["gid"],
        "removed": octal / 1000 % 2 == 1,
    });
    let (id, more): (_, &[(&str, &str)]) = match kind {
        "shm" => ("shmid", &[("size", "size"), ("attached", "nattch")]),
        "sem" => ("semid", &[("size", "nsems")]),
        _ => ("msqid", &[("bytes", "cbytes"), ("messages", "qnum")]),
    };
    object["id"] = json!(row[id]);
    for (name, column) in more {
        object[*name] = json!(row[*column]);
    }
    object
}

/// The objects of `found` are those in the view from inside.
fn assert_same_objects(found: &Value, seen: &Value) {
    for kind in ["shm", "sem", "msg"] {
        let expected: Vec<_> = rows(&seen[kind]).iter().map(|row| expected(kind, row)).collect();
        let objects: Vec<_> =
            list(&found["objects"]).iter().filter(|object| object["kind"] == kind).collect();
        assert_eq!(objects.len(), expected.len(), "{found:#}\n{seen:#}");
        for (object, expected) in objects.iter().zip(&expected) {
            assert_has(object, expected);
        }
    }
}

/// A queue's name as JSON has it.
fn shown(name: &Value) -> String {
    let bytes: Vec<u8> = list(name).iter().map(|byte| number(byte) as u8).collect();
    let chunks = bytes.utf8_chunks().map(|chunk| {
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        [chunk.valid(), &invalid].concat()
    });
    chunks.collect()
}

#[test]
fn ls_matches_the_view_from_inside() {
    let (ns_holders, report) = start_ns_holders();
    let ls = ls_json(&[]);
    assert_eq!(ls["complete"], true, "{ls:#}");
    for label in ["descriptor", "mount", "member", "thread"] {
        let seen = held(&report, label);
        let found = namespace(&ls, &seen["inum"]);
        assert_eq!(found["unseen"], json!([]), "{found:#}");
        assert_same_objects(found, seen);
    }
    let member = held(&report, "member");
    let found = namespace(&ls, &member["inum"]);
    let queues = list(&found["objects"]).iter().filter(|object| object["kind"] == "mq");
    let (gone, there): (Vec<&Value>, Vec<_>) =
        queues.partition(|queue| queue["removed"].as_bool().unwrap());
    let names: BTreeSet<_> = there.iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    let expected: BTreeSet<_> = list(&member["queues"]).iter().map(shown).collect();
    assert_eq!(names, expected.iter().map(String::as_str).collect());
    assert!(names.contains("\u{1b}[2Jforged\nline\\xff"), "{names:?}");
    assert_eq!(gone.len(), 1, "{found:#}");
    assert_eq!(gone[0]["name"], "gone");
    let jobs = there.iter().find(|queue| queue["name"] == "jobs").unwrap();
    assert_has(jobs, &json!({"messages": 1, "max_messages": 4, "size": 64}));

    // What counts against a limit, an unlinked queue too.
    let used = |name: &str| {
        let limit = &found["limits"][name];
        (number(&limit["used"]), number(&limit["limit"]))
    };
    assert_eq!(used("queues_max"), (3, 3));
    assert_eq!([used("shmmni").0, used("shmall").0, used("semmni").0], [1, 1, 1]);
    assert_eq!([used("semmns").0, used("msgmni").0], [7, 1]);
    let queue = list(&found["objects"]).iter().find(|object| object["kind"] == "msg").unwrap();
    assert_eq!(queue["size"], found["limits"]["msgmnb"]["limit"]);

    // The member alone, by each of its names.
    let by_pid = format!("pid:{}", report["member"]);
    for name in [member["inum"].to_string(), by_pid] {
        let one = ls_json(&[&name]);
        assert_eq!(list(&one["namespaces"]).len(), 1);
        assert_eq!(one["namespaces"][0]["objects"], found["objects"]);
        let full = program().args(["ls", &name]).output().unwrap();
        let full = text(&full.stdout);
        assert!(full.contains(r#""\x1b[2Jforged\nline\xff""#), "{full}");
        assert!(full.contains("! queues_max: 3 of 3 (100 %)"), "{full}");
        assert!(!full.contains('\u{1b}'), "{full}");
    }
    end(ns_holders);
}

fn end(process: TestProcess) {
    let (status, _, stderr) = process.join();
    assert!(status.success(), "{status}: {stderr}");
}

#[test]
fn ls_lists_holders_of_a_namespace_without_processes() {
    let (ns_holders, report) = start_ns_holders();
    let ls = ls_json(&[]);
    let of = |label: &str| namespace(&ls, &held(&report, label)["inum"]);
    let pid = &report["pid"];
    for label in ["descriptor", "mount", "mapping", "sysvipc"] {
        let found = of(label);
        assert_eq!(found["processes"], json!([]), "{label}: {found:#}");
        assert_eq!(found["host"], false);
    }

    let by = |found, kind| -> Vec<Value> {
        let mine = holders(found, kind).into_iter().filter(|holder| holder["pid"] == *pid);
        mine.cloned().collect()
    };
    let [descriptor] = &by(of("descriptor"), "descriptor")[..] else { panic!("{ls:#}") };
    assert_has(descriptor, &json!({"fd": report["fds"]["namespace"], "of": "namespace"}));
    assert_has(descriptor, &json!({"pins": true, "comm": "xtask"}));

    let [mount] = holders(of("mount"), "mount")[..] else { panic!("{ls:#}") };
    assert_has(
        mount,
        &json!({"mount_point": report["mount_point"], "of": "namespace", "pins": true}),
    );

    let [sysvipc] = &by(of("sysvipc"), "descriptor")[..] else { panic!("{ls:#}") };
    assert_has(sysvipc, &json!({"fd": report["fds"]["sysvipc"], "of": "sysvipc", "name": "sem"}));

    // Where the kernel can't list mappings, and not all objects are visible, their namespace is
    // unknown.
    let mapping = of("mapping");
    let mappings = by(mapping, "mapping");
    for mapping in &mappings {
        assert_has(mapping, &json!({"shmid": 0, "mappings": 2, "bytes": 16384}));
        assert_eq!(mapping["exact"], true);
    }
    assert_eq!(mappings.len(), usize::from(kernel_lists_mappings()), "{mapping:#}");

    for label in ["mapping", "sysvipc"] {
        let found = of(label);
        if kernel_enters_by_number() {
            assert_eq!(found["unseen"], json!([]));
            assert_same_objects(found, held(&report, label));
        } else {
            // It exists, and `ls` lists what it can't see of it.
            let unseen = list(&found["unseen"]).iter().map(|one| one["what"].as_str().unwrap());
            let unseen: BTreeSet<_> = unseen.collect();
            assert_eq!(unseen, BTreeSet::from(["limits", "queues", "sysv"]), "{found:#}");
        }
    }

    let member = of("member");
    let [process] = list(&member["processes"]) else { panic!("{member:#}") };
    assert_has(process, &json!({"pid": report["member"], "comm": "member"}));
    let queues = holders(member, "descriptor");
    let queues: BTreeSet<_> =
        queues.iter().map(|holder| holder["name"].as_str().unwrap()).collect();
    assert_eq!(queues, BTreeSet::from(["gone", "jobs", "\u{1b}[2Jforged\nline\\xff"]));
    let [mqueue] = holders(member, "mount")[..] else { panic!("{member:#}") };
    assert_has(
        mqueue,
        &json!({"mount_point": held(&report, "member")["mqueue"], "of": "mqueue", "pins": false}),
    );

    // A process is in each namespace that one of its threads is in.
    let [process] = list(&of("thread")["processes"]) else { panic!("{ls:#}") };
    assert_has(process, &json!({"pid": pid, "threads": 1}));
    end(ns_holders);
}

/// Lines of a program's output as words.
fn words(command: &mut Command) -> Vec<Vec<String>> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    let text = text(&output.stdout);
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn ls_agrees_with_lsns_and_ipcs() {
    let (ns_holders, report) = start_ns_holders();
    let lsns = || -> BTreeMap<u64, u64> {
        let lines = words(Command::new("lsns").args(["-n", "-t", "ipc", "-o", "NS,NPROCS"]));
        let number = |text: &String| text.parse().unwrap();
        lines.iter().map(|line| (number(&line[0]), number(&line[1]))).collect()
    };
    let before = lsns();
    let ls = ls_json(&[]);
    let after = lsns();
    // Others' namespaces may come and go, and so may processes.
    let found: BTreeMap<u64, u64> = list(&ls["namespaces"])
        .iter()
        .map(|ns| (number(&ns["inum"]), list(&ns["processes"]).len() as u64))
        .collect();
    for inum in before.keys().filter(|inum| after.contains_key(inum)) {
        assert!(found.contains_key(inum), "{inum} is missing: {found:?}");
    }
    let member = held(&report, "member");
    let inum = number(&member["inum"]);
    assert_eq!((before[&inum], found[&inum]), (1, 1));
    for label in ["descriptor", "mount", "mapping", "sysvipc"] {
        assert!(found.contains_key(&number(&held(&report, label)["inum"])), "{label}");
    }
    let hosts: Vec<_> = list(&ls["namespaces"]).iter().filter(|ns| ns["host"] == true).collect();
    assert_eq!(hosts.len(), 1);
    // PROC_IPC_INIT_INO, include/linux/proc_ns.h
    assert_eq!(hosts[0]["inum"], 0xefff_ffff_u32);

    // ipcs knows the namespace that it is run in.
    let ipcs = |kind: &str| {
        let mut ipcs = Command::new("ipcs");
        let namespace = std::fs::File::open(format!("/proc/{}/ns/ipc", report["member"])).unwrap();
        // SAFETY: setns is a system call alone.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut ipcs, move || {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWIPC)?;
                Ok(())
            });
        }
        words(ipcs.arg(kind))
    };
    let objects = list(&namespace(&ls, &member["inum"])["objects"]);
    for (option, kind) in [("-m", "shm"), ("-s", "sem"), ("-q", "msg")] {
        let lines = ipcs(option);
        let rows: Vec<_> = lines
            .iter()
            .filter(|line| line[0..].first().is_some_and(|word| word.starts_with("0x")))
            .collect();
        let objects: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
        assert_eq!(rows.len(), objects.len(), "{lines:?}");
        for (row, object) in rows.iter().zip(objects) {
            // key, id, owner, perms, bytes or nsems or used-bytes, …
            assert_eq!(object["key"], *row[0]);
            assert_eq!(object["id"].to_string(), row[1]);
            assert_eq!(object["mode"].as_str().unwrap(), format!("0{}", row[3]));
            let amount = if kind == "msg" { &object["bytes"] } else { &object["size"] };
            assert_eq!(amount.to_string(), row[4]);
        }
    }
    end(ns_holders);
}

#[test]
fn ls_keeps_nothing_alive() {
    let (ns_holders, report) = start_ns_holders();
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for kind in ["shm", "sem"] {
        for held in list(&report["held"]) {
            let keyed = rows(&held[kind]).into_iter().filter(|row| row["key"] != 0);
            keys.extend(keyed.map(|row| format!("{:#010x}", row["key"] as u32)));
        }
    }
    assert!(keys.len() >= 5, "{keys:?}");
    let ls = ls_json(&[]);
    let there = |ls: &Value| {
        let objects = list(&ls["namespaces"]).iter().flat_map(|ns| list(&ns["objects"]));
        objects.filter(|object| keys.contains(object["key"].as_str().unwrap_or(""))).count()
    };
    assert!(there(&ls) >= 3, "{ls:#}");
    end(ns_holders);
    // Inode numbers are reused, keys are not; a kernel worker destroys a namespace.
    let numbers: BTreeSet<u64> =
        list(&report["held"]).iter().map(|held| number(&held["inum"])).collect();
    assert!(eventually(|| {
        let ls = ls_json(&[]);
        let alive = list(&ls["namespaces"]).iter();
        let left = alive
            .filter(|ns| numbers.contains(&number(&ns["inum"])) && ns["processes"] == json!([]));
        there(&ls) == 0 && left.count() == 0
    }));
}

#[test]
fn ls_is_complete_with_many_namespaces() {
    let (namespaces, processes, objects) = (scaled(500), 10, 25);
    let words = [
        "many-namespaces".to_owned(),
        format!("--namespaces={namespaces}"),
        format!("--processes={processes}"),
        format!("--objects={objects}"),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut process = TestProcess::start(workload(&words));
    let report: Value = serde_json::from_str(&process.line()).unwrap();
    let inums: BTreeSet<u64> =
        list(&report["founders"]).iter().map(|pid| ipc_ns_of(number(pid) as u32)).collect();
    assert_eq!(inums.len() as u64, namespaces);
    let ls = ls_json(&[]);
    let ours = list(&ls["namespaces"]).iter().filter(|ns| inums.contains(&number(&ns["inum"])));
    let mut found = 0;
    for namespace in ours {
        found += 1;
        // Another tracer may be inspecting it, too.
        let founders = list(&namespace["processes"]).iter().filter(|one| one["comm"] == "founder");
        assert_eq!(founders.count(), processes, "{namespace:#}");
        assert_eq!(list(&namespace["objects"]).len(), 4 * objects, "{namespace:#}");
        assert_eq!(namespace["limits"]["queues_max"]["used"], json!(objects));
        let distinct: BTreeSet<_> = list(&namespace["objects"])
            .iter()
            .map(|object| {
                (
                    object["kind"].to_string(),
                    object["key"].to_string() + &object["name"].to_string(),
                )
            })
            .collect();
        assert_eq!(distinct.len(), 4 * objects);
    }
    assert_eq!(found, namespaces);
    let shown = program().arg("ls").output().unwrap();
    let shown = text(&shown.stdout);
    assert!(inums.iter().all(|inum| shown.contains(&inum.to_string())), "{shown}");
    end(process);
}

#[test]
fn ls_without_privileges_reports_what_is_missing() {
    let (ns_holders, report) = start_ns_holders();
    let mut nobody = as_user(program().get_program(), 65_534);
    let output = nobody.args(["ls", "-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("CAP_BPF"), "{stderr}");
    let ls: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("ls", &[&ls]);
    assert_eq!(ls["complete"], false);
    assert!(!list(&ls["unseen"]).is_empty(), "{ls:#}");
    // Its own namespace is this test's.
    let own = namespace(&ls, &json!(ipc_ns_of(std::process::id())));
    let unseen: Vec<_> = list(&own["unseen"]).iter().map(|one| &one["what"]).collect();
    assert_eq!(unseen, ["queues"], "{own:#}");
    assert!(own["limits"]["shmmni"]["used"].is_u64(), "{own:#}");
    assert!(own["limits"]["queues_max"]["used"].is_null(), "{own:#}");

    let inum = held(&report, "member")["inum"].to_string();
    let output = as_user(program().get_program(), 65_534).args(["ls", &inum]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("can't be seen by this user"));
    end(ns_holders);
}

#[test]
fn ls_reports_bad_arguments() {
    let run = |argument: &str| {
        let output = program().args(["ls", argument]).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (status, stderr) = run("1");
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("no IPC namespace has the number 1;"), "{stderr}");
    for bad in ["nonsense", "-1", "pid:", "99999999999"] {
        assert_eq!(run(bad).0, Some(2), "{bad}");
    }
}

#[test]
fn ls_reads_proc_without_ebpf_programs() {
    let (ns_holders, report) = start_ns_holders();
    let output = program().args(["ls", "-o", "json", "--btf", "/dev/null"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("/dev/null"), "{}", text(&output.stderr));
    let ls: &Value = &serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("ls", &[ls]);
    assert_eq!(ls["complete"], false);
    for label in ["descriptor", "mount", "member", "thread"] {
        let seen = held(&report, label);
        let found = namespace(ls, &seen["inum"]);
        assert_eq!(found["unseen"], json!([]), "{found:#}");
        assert_same_objects(found, seen);
    }
    let [mount] = holders(namespace(ls, &held(&report, "mount")["inum"]), "mount")[..] else {
        panic!("{ls:#}")
    };
    assert_has(mount, &json!({"mount_point": report["mount_point"], "of": "namespace"}));
    let member = namespace(ls, &held(&report, "member")["inum"]);
    let [process] = list(&member["processes"]) else { panic!("{member:#}") };
    assert_has(process, &json!({"pid": report["member"], "comm": "member", "uid": 0}));
    let names: BTreeSet<_> = holders(member, "descriptor")
        .iter()
        .map(|holder| holder["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["gone", "jobs", "\u{1b}[2Jforged\nline\\xff"]));
    let [mapping] = holders(member, "mapping")[..] else { panic!("{member:#}") };
    assert_has(mapping, &json!({"pid": report["member"], "shmid": 0, "exact": false}));
    assert_eq!(member["limits"]["queues_max"]["used"], 3);
    let [process] = list(&namespace(ls, &held(&report, "thread")["inum"])["processes"]) else {
        panic!("{ls:#}")
    };
    assert_has(process, &json!({"pid": report["pid"], "threads": 1}));
    end(ns_holders);
}
