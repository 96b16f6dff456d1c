//! `cargo xtask soak`: traces a busy host, which must lead to no finding.
//!
//! All at once: stress-ng's System V and POSIX queue stressors in containers, short containers one after
//! the other, the benign scenarios over and over with containers of their own, and a PostgreSQL cluster with
//! pgbench. Where a machine has no Docker, the stressors are in namespaces of their own; where it has no
//! stress-ng or no PostgreSQL, it does without. The last line names the load.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    apt,
    containers::{Docker, IMAGE},
    tracer::{self, BackgroundProcess},
};

/// Options of `cargo xtask soak`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SoakArgs {
    /// For how long
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// The tracer's backend
    #[arg(long, default_value = "auto")]
    backend: String,
}

/// stress-ng's stressors that make IPC calls.
const STRESSORS: [&str; 10] =
    ["--shm-sysv", "1", "--sem-sysv", "1", "--msg", "1", "--mq", "1", "--sem", "1"];
/// Where Debian has PostgreSQL's programs.
const POSTGRESQL: &str = "/usr/lib/postgresql/15/bin";
/// Severities that are allowed.
const ALLOWED: [&str; 2] = ["info", "low"];

/// Runs `cargo xtask soak`.
pub(crate) fn main(args: &SoakArgs) -> Result<ExitCode> {
    let tracer = tracer::given_or_built()?;
    let time = Duration::try_from_secs_f64(args.minutes * 60.0)?;
    let good = run(&tracer, time, &args.backend)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Traces a busy host for that long, and prints what was found: whether only allowed findings were.
///
/// # Errors
///
/// Something can't be run, or fails.
pub(crate) fn run(program: &Path, time: Duration, backend: &str) -> Result<bool> {
    let docker = match apt::find_on_path("dockerd") {
        Some(_) => Some(Docker::start("soak", &["stress-ng", "ipcmk"])?),
        None => None,
    };
    let socket = match &docker {
        Some(docker) => format!("docker={}", docker.socket().display()),
        None => "none".to_owned(),
    };
    let mut command = tracer::command(program, "report", Some(backend));
    command.args(["-o", "json", "--runtime-socket", &socket]);
    let mut tracer = BackgroundProcess::tracing(command)?;
    tracer.forward_messages();
    let done = load(program, docker.as_ref(), time);
    summarize(&tracer.report()?, time, &done?)
}

/// What kept the host busy.
#[derive(Debug)]
struct SoakLoad {
    /// Which programs
    programs: Vec<&'static str>,
    /// How often the benign scenarios were run
    rounds: u32,
    /// How many short containers there were
    containers: u32,
}

/// Makes the load for that long.
fn load(tracer: &Path, docker: Option<&Docker>, time: Duration) -> Result<SoakLoad> {
    let (begin, seconds) = (Instant::now(), time.as_secs().max(1).to_string());
    let mut programs = vec!["scenarios"];
    programs.extend(docker.map(|_| "Docker"));
    let mut beside = Vec::new();
    for _ in 0..2 {
        let mut stress = match docker {
            Some(docker) => docker.command(&[&RUN[..], &[IMAGE, "stress-ng"]].concat()),
            None => in_a_namespace("stress-ng"),
        };
        stress.args(STRESSORS).args(["--timeout", &seconds, "--quiet"]);
        beside.extend(start(stress)?);
    }
    if !beside.is_empty() {
        programs.push("stress-ng");
    }
    let cluster = Cluster::start()?;
    if let Some(cluster) = &cluster {
        programs.push("PostgreSQL");
        beside.extend(start(cluster.pgbench(&seconds))?);
    }
    let (rounds, containers) = thread::scope(|scope| {
        let short = docker.map(|docker| scope.spawn(move || churn(docker, begin + time)));
        let rounds = run_benign_scenarios(tracer, begin + time);
        let containers = short.map_or(Ok(0), |short| short.join().expect("it does not panic"));
        anyhow::Ok((rounds?, containers?))
    })?;
    for mut child in beside {
        // Its exit status does not matter.
        child.wait()?;
    }
    Ok(SoakLoad { programs, rounds, containers })
}

/// Words that run a container of [`IMAGE`].
const RUN: [&str; 4] = ["run", "--rm", "--network", "none"];

/// Runs a short container after the other until then: how many.
fn churn(docker: &Docker, until: Instant) -> Result<u32> {
    let mut containers = 0;
    while Instant::now() < until {
        docker.run(&[&RUN[..], &[IMAGE, "ipcmk", "--queue", "--semaphore", "1"]].concat())?;
        containers += 1;
    }
    Ok(containers)
}

/// Runs the benign scenarios over and over until then: how often.
fn run_benign_scenarios(tracer: &Path, until: Instant) -> Result<u32> {
    let mut rounds = 0;
    while Instant::now() < until {
        let mut scenarios = Command::new(env::current_exe()?);
        scenarios.args(["scenarios", "benign-", "--unseen"]).env("IPC_TRACE_BIN", tracer);
        let status = scenarios.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "the benign scenarios can't be run");
        rounds += 1;
    }
    Ok(rounds)
}

/// A program in an IPC namespace of its own.
fn in_a_namespace(program: &str) -> Command {
    let mut command = Command::new(program);
    // SAFETY: unshare is async-signal-safe, and takes a number.
    unsafe {
        command.pre_exec(|| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC)?));
    }
    command
}

/// Starts a program without its output, if the machine has it.
fn start(mut command: Command) -> Result<Option<Child>> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        child => Ok(Some(child?)),
    }
}

/// A PostgreSQL cluster of its own, gone with it.
#[derive(Debug)]
struct Cluster {
    folder: tempfile::TempDir,
    server: Child,
}

impl Cluster {
    /// Starts it, with pgbench's tables. `None`: the machine has no PostgreSQL.
    fn start() -> Result<Option<Self>> {
        let Some(user) = nix::unistd::User::from_name("postgres")? else { return Ok(None) };
        if !Path::new(POSTGRESQL).join("initdb").exists() {
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("cluster").tempdir()?;
        nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid))?;
        let data = folder.path().join("data");
        let made = program("initdb", &user).args(["-N", "-D"]).arg(&data).output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut server = program("postgres", &user);
        server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-c", "listen_addresses="]);
        // System V memory, which is what there is to see of it.
        server.args(["-c", "shared_memory_type=sysv", "-c", "dynamic_shared_memory_type=sysv"]);
        let server = start(server)?.context("postgres was there just now")?;
        let cluster = Self { folder, server };
        let begin = Instant::now();
        loop {
            let mut fill = program("pgbench", &user);
            fill.args(["-i", "-q", "-h"]).arg(cluster.folder.path()).arg("postgres");
            if fill.output()?.status.success() {
                return Ok(Some(cluster));
            }
            ensure!(begin.elapsed() < Duration::from_secs(60), "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn pgbench(&self, seconds: &str) -> Command {
        let mut command = Command::new(Path::new(POSTGRESQL).join("pgbench"));
        command.args(["-c", "4", "-T", seconds, "-U", "postgres", "-h"]);
        command.arg(self.folder.path()).arg("postgres");
        command
    }
}

fn program(name: &str, user: &nix::unistd::User) -> Command {
    let mut command = Command::new(Path::new(POSTGRESQL).join(name));
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").stdin(Stdio::null());
    command
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGINT: a fast shutdown, which removes its shared memory.
        let pid = nix::unistd::Pid::from_raw(self.server.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.server.wait();
    }
}

/// Prints what was found, and returns whether it is allowed.
fn summarize(report: &Value, time: Duration, load: &SoakLoad) -> Result<bool> {
    let findings = report["findings"].as_array().context("a report has findings")?;
    let mild = |finding: &&Value| ALLOWED.iter().any(|mild| finding["severity"] == *mild);
    let (mild, bad): (Vec<_>, Vec<_>) = findings.iter().partition(mild);
    println!(
        "{} s of {}, {} times all benign scenarios, {} containers one after the other: {} calls, {} findings \
         of info or low, {} of medium or above",
        time.as_secs(),
        load.programs.join(", "),
        load.rounds,
        load.containers,
        report["accounting"]["seen"],
        mild.len(),
        bad.len()
    );
    for finding in &bad {
        println!("    {} {}: {}", finding["severity"], finding["class"], finding["title"]);
    }
    Ok(bad.is_empty())
}
