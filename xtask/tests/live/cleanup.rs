//! A run leaves nothing behind: no programs, maps, links, mounts or files.

use std::{collections::BTreeSet, fs, io, os::fd::AsRawFd as _, path::Path, time::Instant};

use nix::sys::signal::Signal;

use serde_json::Value;

use crate::tracer::{ReportTracer, TestProcess, eventually, number, tracer, workload};

/// Kinds of objects that the kernel numbers: the line in a descriptor's fdinfo, and the command of
/// bpf(2) that gives the next number (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const KINDS: [(&str, i32); 4] =
    [("prog_id:", 11), ("map_id:", 12), ("btf_id:", 23), ("link_id:", 31)];

type LeftObject = (&'static str, u32);

/// The kernel's objects that a process has descriptors of.
fn objects_of(pid: u32) -> BTreeSet<LeftObject> {
    let mut objects = BTreeSet::new();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
    for descriptor in descriptors.map_while(Result::ok) {
        let Ok(info) = fs::read_to_string(descriptor.path()) else { continue };
        for (kind, _) in KINDS {
            let ids = info.lines().filter_map(|line| line.strip_prefix(kind));
            objects.extend(ids.map(|id| (kind, id.trim().parse::<u32>().unwrap())));
        }
    }
    objects
}

/// The attributes of bpf(2), as much of them as any kernel knows here.
#[repr(C, align(8))]
struct BpfAttr([u32; 28]);

fn bpf(command: i32, attributes: &mut BpfAttr) -> io::Result<i32> {
    // SAFETY: the attributes are as long as is said, and hold no pointers.
    let ret = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<BpfAttr>())
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as i32) }
}

/// Whether the kernel still has it. IDs are not reused until all have been used.
///
/// This requests the next ID, and no descriptor: when the last descriptor of a program array is closed, the kernel
/// empties the array later, and closing another descriptor until then leaves it a reference too many forever
/// (`prog_array_map_clear`, kernel/bpf/arraymap.c, 6.12: `bpf_map_inc` whether or not the work is queued already).
fn exists((kind, id): LeftObject) -> bool {
    let (_, next) = KINDS.into_iter().find(|(name, _)| *name == kind).unwrap();
    let mut attributes = BpfAttr([0; 28]);
    attributes.0[0] = id - 1;
    match bpf(next, &mut attributes) {
        Ok(_) => std::hint::black_box(&mut attributes).0[1] == id,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{kind} {id}: {error}");
            false
        }
    }
}

/// The processes with a descriptor of an object, and what they are doing in the kernel.
fn holders(object: LeftObject) -> String {
    let numbers = fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holders = pids.filter(|pid| objects_of(*pid).contains(&object));
    let doing = |pid: u32| {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        format!("{pid} {} {}", read("comm").trim(), read("stack").replace('\n', " "))
    };
    holders.map(doing).collect::<Vec<_>>().join("; ")
}

/// A readable description of an object: for a map its name, as `struct bpf_map_info` has it
/// (include/uapi/linux/bpf.h).
fn described((kind, id): LeftObject) -> String {
    const BPF_MAP_GET_FD_BY_ID: i32 = 14;
    const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
    const NAME: usize = 24;
    let mut attributes = BpfAttr([0; 28]);
    attributes.0[0] = id;
    if kind != "map_id:" {
        return format!("{kind} {id}");
    }
    let fd = match bpf(BPF_MAP_GET_FD_BY_ID, &mut attributes) {
        // SAFETY: the descriptor is new and nobody else's.
        Ok(fd) => unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) },
        Err(error) => return format!("{kind} {id} ({error})"),
    };
    let mut info = [0_u8; NAME + 16];
    let at = info.as_mut_ptr() as u64;
    let words = [fd.as_raw_fd() as u32, info.len() as u32, at as u32, (at >> 32) as u32];
    attributes.0[..4].copy_from_slice(&words);
    let _ = bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes);
    // The kernel has written to it.
    let name = std::hint::black_box(&mut info)[NAME..].split(|byte| *byte == 0).next();
    format!("{kind} {id} {}", String::from_utf8_lossy(name.unwrap_or_default()))
}

/// What lies in a directory, if there is one.
fn names_in(path: &Path) -> BTreeSet<std::ffi::OsString> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.map_while(Result::ok).map(|entry| entry.file_name()).collect()
}

fn mounts() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_gone(objects: &BTreeSet<LeftObject>) {
    let count = |kind| objects.iter().filter(|object| object.0 == kind).count();
    assert!(count("prog_id:") > 3 && count("map_id:") > 5 && count("link_id:") > 0, "{objects:?}");
    // The kernel frees them some grace periods later.
    let end = Instant::now();
    assert!(
        eventually(|| !objects.iter().any(|object| exists(*object))),
        "left: {:?}",
        objects
            .iter()
            .filter(|object| exists(**object))
            .map(|one| format!("{}, held by {}", described(*one), holders(*one)))
            .collect::<Vec<_>>()
    );
    println!("gone after {:.1} s", end.elapsed().as_secs_f64());
}

#[test]
fn run_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path();
    let (bpffs, before) = (Path::new("/sys/fs/bpf"), mounts());
    let pinned = names_in(bpffs);

    let mut command = tracer("report");
    command.args(["-o", "json"]).current_dir(scratch).env("TMPDIR", scratch);
    let mut report = TestProcess::tracing(command);
    TestProcess::start(workload(&["churn-namespaces", "--count", "50"])).read_oracle();
    let objects = objects_of(report.pid());
    assert!(objects.iter().all(|object| exists(*object)), "{objects:?}");
    report.go();
    let (status, ..) = report.join();
    assert!(status.success());

    assert_gone(&objects);
    assert_eq!(names_in(scratch), BTreeSet::new());
    assert_eq!(names_in(bpffs), pinned);
    assert_eq!(mounts(), before);
}

/// Two threads make calls all the time and others sleep in theirs while the tracer ends: none is
/// disturbed.
#[track_caller]
fn assert_goes_unnoticed(end: impl FnOnce(ReportTracer)) {
    let report = ReportTracer::start(&[]);
    let objects = objects_of(report.pid());
    let mut sleepers = ["semop", "msgrcv", "mq_receive"].map(|op| {
        TestProcess::start(workload(&["blocked", "--fresh", "--op", op, "--until-fd", "0"]))
    });
    for sleeper in &mut sleepers {
        let asleep: Value = serde_json::from_str(&sleeper.line()).unwrap();
        assert_eq!(asleep["blocked"], true);
    }
    let flood = TestProcess::start(workload(&["semop-flood", "--fresh", "--seconds", "2"]));
    end(report);
    assert_gone(&objects);
    for mut sleeper in sleepers {
        sleeper.go();
        let oracle = sleeper.read_oracle();
        assert!(number(&oracle["ret"]) < 64, "{oracle}");
    }
    assert!(number(&flood.read_oracle()["calls"]) > 1000);
}

#[test]
fn run_ends_under_load_and_with_sleeping_calls() {
    assert_goes_unnoticed(|report| drop(report.end()));
}

#[test]
fn killed_tracer_leaves_nothing_behind() {
    assert_goes_unnoticed(|report| {
        let pid = nix::unistd::Pid::from_raw(report.pid() as i32);
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        drop(report);
    });
}
