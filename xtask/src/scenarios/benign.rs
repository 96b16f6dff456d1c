//! Legitimate behaviour of host processes, which must lead to no finding.

use std::{
    fs,
    io::Read as _,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{Uid, setuid},
};

use super::{
    actions::{self, attach, made, open_queue, segment, semaphore, touch, unshare_ipc, up},
    fixture::ScenarioFixture,
    kind::Scenario,
    own::database,
    pipe::HandoffPipe,
};
use crate::{
    containers::TestCgroup,
    tracer,
    workload::{calls::CountingCaller, mq, process},
};

/// One that must stay silent.
pub(super) const fn benign(
    name: &'static str,
    what: &'static str,
    run: fn(&mut ScenarioFixture) -> Result<()>,
) -> Scenario {
    Scenario { name, what, run, expected: &[], also: &[] }
}

const fn but(scenario: Scenario, also: &'static [&'static str]) -> Scenario {
    Scenario { also, ..scenario }
}

/// These scenarios.
pub(super) const ALL: &[Scenario] = &[
    benign(
        "benign-memory-before-exec",
        "A parent with attached memory clones a child into a new namespace, which calls exec.",
        memory_before_exec,
    ),
    benign(
        "benign-sandbox",
        "A sandbox gives a program new namespaces of every kind, as bubblewrap does.",
        sandbox,
    ),
    benign(
        "benign-private-service",
        "A service with a private IPC namespace forks workers that use its memory and queues.",
        private_service,
    ),
    but(
        benign("benign-lsns", "Tools that list namespaces and objects read all of them.", lsns),
        &[],
    ),
    but(
        benign("benign-second-tracer", "Another ipc-trace enters all namespaces.", second_tracer),
        &["namespace-mismatch"],
    ),
    but(
        benign(
            "benign-own-free-keys",
            "A program searches for a free key, and creates an object with the first one.",
            own_free_keys,
        ),
        &["probe-key"],
    ),
    benign(
        "benign-own-errors",
        "A program is denied, finds what exists already, and uses what was removed.",
        own_errors,
    ),
    benign(
        "benign-shared-within",
        "Queues and memory are handed on, by fork and over a socket, within one namespace.",
        shared_within,
    ),
    benign(
        "benign-put-away",
        "A process detaches memory and closes queues before it makes itself a new namespace.",
        put_away,
    ),
    benign(
        "benign-way-back",
        "A supervisor makes a namespace, goes home, and enters its own namespace again.",
        way_back,
    ),
    benign(
        "benign-own-view",
        "A process reads its own lists, and its own queues by their paths.",
        own_view,
    ),
    benign(
        "benign-other-namespaces",
        "A process enters network and UTS namespaces of others, but none of IPC.",
        other_namespaces,
    ),
    benign(
        "benign-left-behind",
        "A namespace dies with objects in it, which the kernel takes down.",
        left_behind,
    ),
    benign(
        "benign-numbers-reused",
        "Namespaces come and go, with the same keys, ids and numbers again and again.",
        numbers_reused,
    ),
    benign(
        "benign-debugger",
        "A debugger reads the memory of a process in another IPC namespace.",
        debugger,
    ),
];

fn memory_before_exec(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("parent", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        touch(attach(&mut caller, id)?);
        me.clone_and_wait(libc::CLONE_NEWIPC, "child", |_| {
            Err(Command::new("sleep").arg("0.1").exec().into())
        })?;
        me.stay()
    })
}

fn sandbox(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("bwrap", |me| {
        unshare(
            CloneFlags::CLONE_NEWUSER
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWNET,
        )?;
        me.fork_and_wait("program", |me| {
            let mut caller = CountingCaller::new("sandbox")?;
            let id = segment(&mut caller, key)?;
            touch(attach(&mut caller, id)?);
            me.stay()
        })
    })
}

fn private_service(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, name) = (fixture.key(1), fixture.queue());
    let unit = format!("system.slice/scenario-{}.service", std::process::id());
    let cgroup = TestCgroup::make(&unit)?;
    fixture.spawn_in(&cgroup, "service", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        let at = attach(&mut caller, id)?;
        let fd = open_queue(&mut caller, &name)?;
        for _ in 0..3 {
            me.fork_and_wait("worker", |_| {
                let mut caller = CountingCaller::new("worker")?;
                touch(at);
                caller.mq_send(fd, b"done", 1, None);
                Ok(())
            })?;
        }
        caller.mq_receive(fd, 64, None);
        me.stay()
    })?;
    fixture.wait_ready()?;
    fixture.keep_cgroup(cgroup);
    Ok(())
}

/// Runs a program to its end, and discards its output. Returns whether the program is installed.
fn run_silently(name: &std::ffi::OsStr, words: &[&str]) -> Result<bool> {
    let done = Command::new(name)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        done => Ok(done.map(|_| true)?),
    }
}

fn lsns(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("owner", |me| {
        segment(&mut unshare_ipc()?, key)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    fixture.spawn("admin", |me| {
        run_silently("lsns".as_ref(), &["-t", "ipc"])?;
        run_silently("ipcs".as_ref(), &["-a"])?;
        for process in fs::read_dir("/proc")?.flatten() {
            // Processes end meanwhile.
            let _ = fs::metadata(process.path().join("ns/ipc"));
            let _ = fs::read_to_string(process.path().join("maps"));
        }
        me.stay()
    })
}

fn second_tracer(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("owner", |me| {
        segment(&mut unshare_ipc()?, key)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let tracer = tracer::given().context("IPC_TRACE_BIN")?;
    fixture.spawn("admin", |me| {
        run_silently(tracer.as_os_str(), &["ls", "--runtime-socket", "none"])?;
        me.stay()
    })
}

fn own_free_keys(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    database(fixture, key, 0, 0)?;
    fixture.spawn("service", |me| {
        let mut caller = unshare_ipc()?;
        // Check that the key is free here.
        let ret = caller.semget(key, 1, 0);
        ensure!(ret == -i64::from(libc::ENOENT), "unexpected result {ret}");
        semaphore(&mut caller, key, 0o600 | libc::IPC_EXCL)?;
        me.stay()
    })
}

fn own_errors(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("program", |me| {
        let mut caller = unshare_ipc()?;
        let id = semaphore(&mut caller, key, 0o600)?;
        let exists = caller.semget(key, 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
        me.fork_and_wait("other-user", |_| {
            let mut caller = CountingCaller::new("other")?;
            setuid(Uid::from_raw(4242))?;
            caller.semget(key, 1, 0o600);
            up(&mut caller, id);
            Ok(())
        })?;
        caller.semctl(id, 0, libc::IPC_RMID, 0);
        let gone = up(&mut caller, id);
        ensure!(exists < 0 && gone < 0, "{exists} {gone}");
        me.stay()
    })
}

fn shared_within(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, name, pipe) = (fixture.key(1), fixture.queue(), HandoffPipe::new()?);
    fixture.spawn("parent", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        let at = attach(&mut caller, id)?;
        pipe.send_fd(open_queue(&mut caller, &name)?)?;
        me.fork_and_wait("child", |_| {
            let mut caller = CountingCaller::new("child")?;
            let fd = pipe.receive_fd()?;
            touch(at);
            caller.mq_send(fd.as_raw_fd(), b"at home", 1, None);
            Ok(())
        })?;
        me.stay()
    })
}

fn put_away(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, name) = (fixture.key(1), fixture.queue());
    fixture.spawn("mover", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        let at = attach(&mut caller, id)?;
        let fd = open_queue(&mut caller, &name)?;
        caller.shmdt(at);
        mq::close(i64::from(fd));
        caller.unshare("y")?;
        semaphore(&mut caller, key, 0o600)?;
        me.stay()
    })
}

fn way_back(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    fixture.spawn("supervisor", |me| {
        let mut caller = CountingCaller::new("home")?;
        let home = process::open_namespace()?;
        caller.unshare("own")?;
        let own = process::open_namespace()?;
        for ns in [&home, &own, &home, &own] {
            setns(ns, CloneFlags::CLONE_NEWIPC)?;
        }
        caller.moved("own")?;
        semaphore(&mut caller, key, 0o600)?;
        me.stay()
    })
}

fn own_view(fixture: &mut ScenarioFixture) -> Result<()> {
    let (name, folder) = (fixture.queue(), fixture.folder().to_owned());
    fixture.spawn("program", |me| {
        let mut caller = unshare_ipc()?;
        open_queue(&mut caller, &name)?;
        let queues = actions::mount_queues(&folder, "queues")?;
        fs::read_to_string(actions::file_of(&queues, &name))?;
        for kind in ["shm", "sem", "msg"] {
            actions::read(&mut actions::sysvipc(kind)?)?;
        }
        fs::write("/proc/sys/kernel/msgmax", "8192")?;
        fs::remove_file(actions::file_of(&queues, &name))?;
        me.stay()
    })
}

fn other_namespaces(fixture: &mut ScenarioFixture) -> Result<()> {
    fixture.spawn("owner", |me| {
        unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let owner = fixture.pid_of("owner")?;
    let key = fixture.key(1);
    fixture.spawn("agent", |me| {
        super::fixture::enter(owner, "uts")?;
        super::fixture::enter(owner, "net")?;
        semaphore(&mut unshare_ipc()?, key, 0o600)?;
        me.stay()
    })
}

fn left_behind(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, name) = (fixture.key(1), fixture.queue());
    fixture.spawn("program", |me| {
        me.clone_and_wait(libc::CLONE_NEWIPC, "short", |_| {
            let mut caller = CountingCaller::new("short")?;
            let id = segment(&mut caller, key)?;
            touch(attach(&mut caller, id)?);
            semaphore(&mut caller, key, 0o600)?;
            open_queue(&mut caller, &name)?;
            Ok(())
        })?;
        thread::sleep(Duration::from_millis(50));
        me.stay()
    })
}

/// How many namespaces.
const REUSED: u32 = 40;

fn numbers_reused(fixture: &mut ScenarioFixture) -> Result<()> {
    let (key, name) = (fixture.key(1), fixture.queue());
    fixture.spawn("program", |me| {
        for _ in 0..REUSED {
            me.clone_and_wait(libc::CLONE_NEWIPC, "short", |_| {
                let mut caller = CountingCaller::new("short")?;
                let id = segment(&mut caller, key)?;
                let at = attach(&mut caller, id)?;
                let fd = open_queue(&mut caller, &name)?;
                caller.mq_send(fd, b"text", 1, None);
                touch(at);
                caller.shmdt(at);
                up(&mut caller, made("semget", caller_semget(key))?);
                Ok(())
            })?;
        }
        me.stay()
    })
}

fn caller_semget(key: i32) -> i64 {
    CountingCaller::new("short")
        .map_or(-1, |mut caller| caller.semget(key, 1, libc::IPC_CREAT | 0o600))
}

fn debugger(fixture: &mut ScenarioFixture) -> Result<()> {
    let key = fixture.key(1);
    let none: Option<&str> = None;
    fixture.spawn("program", |me| {
        let mut caller = unshare_ipc()?;
        let id = segment(&mut caller, key)?;
        attach(&mut caller, id)?;
        me.stay()
    })?;
    fixture.wait_ready()?;
    let program = fixture.pid_of("program")?;
    fixture.spawn("gdb", |me| {
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let maps = fs::read_to_string(format!("/proc/{program}/maps"))?;
        ensure!(maps.contains("SYSV"), "{maps}");
        let mut start = [0; 16];
        let mut memory = fs::File::open(format!("/proc/{program}/mem"))?;
        let text = maps.lines().find(|line| line.contains("r-xp")).context("no text is mapped")?;
        let at = u64::from_str_radix(text.split('-').next().unwrap_or_default(), 16)?;
        std::io::Seek::seek(&mut memory, std::io::SeekFrom::Start(at))?;
        memory.read_exact(&mut start)?;
        fs::read_dir(format!("/proc/{program}/fd"))?.for_each(drop);
        me.stay()
    })
}
