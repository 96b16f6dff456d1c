//! How much slower a tight loop of calls gets while it is traced.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    figure::{Figure, Unit, largest, median, smallest},
    tracer::BenchPrograms,
};

/// A loop, and how much slower it may get.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeasuredLoop {
    pub(super) name: &'static str,
    pub(super) workload: &'static str,
    pub(super) limit: f64,
}

/// Calls that block: entry and return are traced, and the time between is measured.
pub(super) const SEMOP: MeasuredLoop =
    MeasuredLoop { name: "`semop` loop, traced / untraced", workload: "semop-loop", limit: 2.3 };
/// Calls that are no IPC, and pay for the tracepoints all the same.
pub(super) const GETPPID: MeasuredLoop = MeasuredLoop {
    name: "`getppid` loop, traced / untraced",
    workload: "getppid-loop",
    limit: 2.1,
};

/// What a call took, by the clock on the wall and by the time that its thread was on a processor.
fn ns_per_call(oracle: &Value) -> Result<[f64; 2]> {
    let time =
        |name| oracle[name].as_f64().context("the workload does not report what a call took");
    Ok([time("ns_per_call")?, time("processor_ns_per_call")?])
}

/// The medians of some runs, each of both clocks.
fn medians(runs: &[[f64; 2]]) -> [f64; 2] {
    [0, 1].map(|clock| median(&runs.iter().map(|run| run[clock]).collect::<Vec<_>>()))
}

/// Runs a loop untraced and under `report`, again and again in turns. What was lost meanwhile is
/// the second figure.
pub(super) fn measure(
    programs: &BenchPrograms,
    one: MeasuredLoop,
    rounds: usize,
    calls: u64,
) -> Result<Vec<Figure>> {
    let number = calls.to_string();
    let words = [one.workload, "--calls", &number];
    let (mut untraced, mut traced, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut delivered, mut lost) = (0, 0);
    // Once without counting: caches, and the frequency of the processor.
    programs.workload(&words)?;
    for _ in 0..rounds {
        let without = ns_per_call(&programs.workload(&words)?)?;
        let (oracle, report) = programs.reported(&words)?;
        let with = ns_per_call(&oracle)?;
        untraced.push(without);
        traced.push(with);
        pairs.push(with[0] / without[0]);
        let count = |name: &str| report["accounting"][name].as_u64().unwrap_or(0);
        delivered += count("delivered");
        lost += count("dropped") + count("missed");
    }
    let ([with, busy], [without, busy_without]) = (medians(&traced), medians(&untraced));
    let details = format!(
        "{with:.0} ns / {without:.0} ns, medians of {rounds} runs of {calls} calls in turns; pairs \
         from {:.2} to {:.2}; by processor time {:.2}",
        smallest(&pairs),
        largest(&pairs),
        busy / busy_without
    );
    let value = with / without;
    let mut figures = vec![Figure {
        name: one.name.to_owned(),
        unit: Unit::Ratio,
        value,
        limit: one.limit,
        details,
    }];
    // Of calls that are no IPC there is nothing to lose.
    if delivered + lost > 0 {
        figures.push(Figure {
            name: "events lost meanwhile".to_owned(),
            unit: Unit::Count,
            value: lost as f64,
            limit: 0.0,
            details: format!("{delivered} delivered"),
        });
    }
    Ok(figures)
}
