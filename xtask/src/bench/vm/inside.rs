//! What runs inside a machine: the bench loops, under its tracers by turns.

use std::{collections::BTreeMap, process::Output, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::tracers::{BenchTracer, Saw};

/// How long the machine is left alone before each run: what the kernel does on the side after it has booted is over
/// by then, and programs of the last run are detached. It costs nothing: the clock of a machine that does nothing leaps
/// ahead.
const IDLE: Duration = Duration::from_secs(60);

/// Options of `cargo xtask bench inside`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InsideArgs {
    /// How often
    #[arg(long)]
    turns: u32,
    /// How to trace
    #[arg(required = true)]
    tracers: Vec<BenchTracer>,
}

/// The cost of one kind of call, as the workload reports it (`workload::bench_loops`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LoopCost {
    /// Which
    pub(super) name: String,
    /// What a call took: instructions, where the clock counts those
    pub(super) ns_per_call: f64,
    /// The part of it that the tracer's process used
    pub(super) tracer_ns_per_call: f64,
    /// How many calls there were of each operation
    pub(super) made: BTreeMap<String, u64>,
}

impl LoopCost {
    /// How many calls there were that a tracer can see.
    pub(super) fn made(&self) -> u64 {
        self.made.values().sum()
    }

    /// How many of them a tracer saw.
    pub(super) fn seen(&self, saw: &Saw) -> u64 {
        self.made.keys().filter_map(|operation| saw.calls.get(operation)).sum()
    }
}

/// The loops, and what the tracer saw of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LoopOutcome {
    pub(super) loops: Vec<LoopCost>,
    pub(super) saw: Saw,
}

/// Runs the loops under each tracer, as often as wanted, and prints a pair of it and its [`LoopOutcome`] as one line of
/// JSON after each run.
pub(crate) fn run(args: &InsideArgs) -> Result<bool> {
    for _ in 0..args.turns {
        for tracer in &args.tracers {
            println!("{}", serde_json::to_string(&(tracer, run_loops(*tracer)?))?);
        }
    }
    Ok(true)
}

fn run_loops(tracer: BenchTracer) -> Result<LoopOutcome> {
    thread::sleep(IDLE);
    let calls = tracer.calls().to_string();
    let output = tracer
        .command(&["xtask", "workload", "bench-loops", "--calls", &calls])
        .output()
        .with_context(|| format!("cannot run {}", tracer.name()))?;
    let error = || {
        format!("{}: {}\n{}", tracer.name(), output.status, String::from_utf8_lossy(&output.stderr))
    };
    ensure!(output.status.success(), error());
    let loops = loop_costs(&output).with_context(error)?;
    Ok(LoopOutcome { loops, saw: tracer.saw(&output)? })
}

/// The workload's report. Under ipc-trace, whose output is JSON, it is on standard error.
fn loop_costs(output: &Output) -> Result<Vec<LoopCost>> {
    #[derive(Deserialize)]
    struct LoopCounts {
        loops: Vec<LoopCost>,
    }
    let lines = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let oracle = lines
        .iter()
        .flat_map(|text| text.lines())
        .find_map(|line| serde_json::from_str::<LoopCounts>(line).ok());
    Ok(oracle.context("the workload did not report what its calls took")?.loops)
}
