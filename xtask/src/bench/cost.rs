//! How much slower a tight loop of calls gets while it is traced.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    figure::{Figure, Unit, largest, median, smallest},
    tracer::Programs,
};

/// A loop, and how much slower it may get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loop {
    pub(super) name: &'static str,
    pub(super) workload: &'static str,
    pub(super) limit: f64,
}

/// Calls that block: entry and return are looked at, the time between is taken.
pub(super) const SEMOP: Loop =
    Loop { name: "`semop` loop, traced / untraced", workload: "semop-loop", limit: 2.3 };
/// Calls that are no IPC, and pay for the tracepoints all the same.
pub(super) const GETPPID: Loop =
    Loop { name: "`getppid` loop, traced / untraced", workload: "getppid-loop", limit: 2.1 };

fn ns_per_call(book: &Value) -> Result<f64> {
    book["ns_per_call"].as_f64().context("the workload says no ns_per_call")
}

/// Runs a loop untraced and under `report`, again and again in turns. What was lost meanwhile is
/// the second figure.
pub(super) fn measure(
    programs: &Programs,
    one: Loop,
    rounds: usize,
    calls: u64,
) -> Result<[Figure; 2]> {
    let number = calls.to_string();
    let words = [one.workload, "--calls", &number];
    let (mut untraced, mut traced, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut delivered, mut lost) = (0, 0);
    // Once without counting: caches, and the frequency of the processor.
    programs.workload(&words)?;
    for _ in 0..rounds {
        let without = ns_per_call(&programs.workload(&words)?)?;
        let (book, report) = programs.reported(&words)?;
        let with = ns_per_call(&book)?;
        untraced.push(without);
        traced.push(with);
        pairs.push(with / without);
        let count = |name: &str| report["accounting"][name].as_u64().unwrap_or(0);
        delivered += count("delivered");
        lost += count("dropped") + count("missed");
    }
    let details = format!(
        "{:.0} ns / {:.0} ns, medians of {rounds} runs of {calls} calls in turns; pairs from \
         {:.2} to {:.2}",
        median(&traced),
        median(&untraced),
        smallest(&pairs),
        largest(&pairs)
    );
    let value = median(&traced) / median(&untraced);
    Ok([
        Figure { name: one.name, unit: Unit::Ratio, value, limit: one.limit, details },
        Figure {
            name: "events lost meanwhile",
            unit: Unit::Count,
            value: lost as f64,
            limit: 0.0,
            details: format!("{delivered} delivered"),
        },
    ])
}
