//! Whether the tracer's memory grows with the events.

use anyhow::{Context as _, Result, ensure};

use super::{
    figure::{Figure, Unit},
    tracer::{BenchPrograms, resident_kib},
};

/// Makes at least so many events in all: how many there have been.
fn flood(programs: &BenchPrograms, mut made: u64, until: u64) -> Result<u64> {
    while made < until {
        // As long as most of what is left may take, so that the first stop is near its mark.
        let seconds = ((until - made) as f64 / 4e6).clamp(0.02, 5.0).to_string();
        let oracle = programs.workload(&[
            "semop-flood",
            "--threads",
            "1",
            "--fresh",
            "--seconds",
            &seconds,
        ])?;
        made += oracle["calls"].as_u64().context("the workload reports no calls")?;
    }
    Ok(made)
}

/// Resident memory of `report` after many events against that after few.
pub(super) fn measure(programs: &BenchPrograms, few: u64, many: u64) -> Result<[Figure; 2]> {
    let tracer = programs.report()?;
    let first = flood(programs, 0, few)?;
    let before = resident_kib(tracer.pid())?;
    let last = flood(programs, first, many)?;
    let after = resident_kib(tracer.pid())?;
    let report = tracer.report()?;
    let count = |name: &str| report["accounting"][name].as_u64().unwrap_or(0);
    let (delivered, lost) = (count("delivered"), count("dropped") + count("missed"));
    ensure!(delivered + lost >= last, "{delivered} events came of {last}");
    Ok([
        Figure {
            name: "resident memory, growth".to_owned(),
            unit: Unit::Percent,
            value: 100.0 * (after as f64 / before as f64 - 1.0),
            limit: 10.0,
            details: format!(
                "{before} KiB after {first} events, {after} KiB after {last} (`semop-flood`)"
            ),
        },
        Figure {
            name: "events lost meanwhile".to_owned(),
            unit: Unit::Count,
            value: lost as f64,
            limit: 0.0,
            details: format!("{delivered} delivered"),
        },
    ])
}
