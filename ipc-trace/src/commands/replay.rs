//! Feeds an engine with recorded inputs of a run. The inputs are untrusted: before it reads the first byte, this
//! process gives up the right to open files and sockets.

use std::{
    collections::BTreeMap,
    io::{self, BufReader},
    process::ExitCode,
};

use ipc_trace_common::op::Abi;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::{
    error::{RunError, system},
    run::terminal,
};
use crate::{
    cli::ReplayArgs,
    engine::Engine,
    input::{Input, stream},
    signals::Signals,
    sinks::{Screen, Sink, output::Output, text::call::LineStyle, writer::SinkWriter},
};

/// Reads inputs from standard input, and writes the resulting output.
///
/// # Errors
/// The inputs are malformed, or output failed.
pub(crate) fn run(args: &ReplayArgs) -> Result<ExitCode, RunError> {
    let signals = Signals::handle().map_err(system("can't handle signals"))?;
    let policy = super::policy::load_engine(args.policy.as_deref())?;
    let (palette, width) = terminal();
    seal().map_err(system("can't give up the right to open files and sockets"))?;
    let failed = system("the inputs can't be read");
    let mut inputs = BufReader::with_capacity(1 << 16, io::stdin().lock());
    let begin = stream::read_begin(&mut inputs).map_err(&failed)?;
    let native = if begin.arch == "aarch64" { Abi::Aarch64 } else { Abi::X86_64 };
    let min_confidence = begin.min_confidence;
    let screen = Screen { style: LineStyle { palette, native }, width, min_confidence };
    let writer = SinkWriter::start(args.output, screen, Output::new(signals), None)
        .map_err(system("can't start a thread"))?;
    let mut sink = Sink::new(args.output, screen, writer);
    let mut engine = Engine::new(begin, policy);
    engine.start(&mut sink);
    let mut feed = |input: &Input<'_>| {
        engine.feed(input, &mut sink);
        // The recorded inputs contain the results of its requests.
        while engine.take_request().is_some() {}
        drop(engine.take_filter_decisions());
        if matches!(input, Input::Read { .. } | Input::Opened(..)) {
            sink.flush();
            // Nothing is lost here: the writer is waited for.
            sink.writer().wait();
        }
    };
    while stream::read(&mut inputs, &mut feed).map_err(&failed)?.is_some() {}
    sink.flush();
    sink.writer().finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Gives up the right to open anything: an attempt ends the process.
fn seal() -> io::Result<()> {
    let calls = [
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_bpf,
    ];
    let rules: BTreeMap<_, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let (others, these) = (SeccompAction::Allow, SeccompAction::KillProcess);
    let filter = SeccompFilter::new(rules, others, these, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}
