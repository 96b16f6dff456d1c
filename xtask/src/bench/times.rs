//! Start to first event, end to exit, and what a tracer costs that has nothing to do.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Result;

use super::{
    figure::{Figure, Unit, largest, median},
    tracer::{BenchPrograms, LiveLines},
};
use crate::workload::process::processor_time;

/// Calls something every millisecond while `work` is done, so that there is an event to see.
fn with_calls<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: without flags it makes nothing, and there are no pointers.
                unsafe { libc::semget(0x7bad_0000, 0, 0) };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn figure(name: &'static str, seconds: &[f64]) -> Figure {
    Figure {
        name: name.to_owned(),
        unit: Unit::Seconds,
        value: largest(seconds),
        limit: 1.0,
        details: format!(
            "the longest of {}; the median is {:.0} ms",
            seconds.len(),
            median(seconds) * 1e3
        ),
    }
}

/// From the start of the program to the first event on its output, and from the signal to its exit.
pub(super) fn measure(programs: &BenchPrograms, rounds: usize) -> Result<[Figure; 2]> {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (start, end) = with_calls(|| {
            let mut live = LiveLines::start(programs, &[])?;
            live.wait_for("ipc")?;
            Ok((live.started.elapsed(), live.end()?))
        })?;
        starts.push(start.as_secs_f64());
        ends.push(end.as_secs_f64());
    }
    Ok([figure("start to first event", &starts), figure("end to exit", &ends)])
}

/// Part of a processor that the tracer uses while nothing is called, as far as the host is quiet.
pub(super) fn idle(programs: &BenchPrograms, duration: Duration) -> Result<Figure> {
    let mut live = LiveLines::start(programs, &[])?;
    live.wait_for("start")?;
    // What it does at the start is another figure.
    std::thread::sleep(Duration::from_secs(1));
    let before = processor_time(live.pid())?;
    std::thread::sleep(duration);
    let used = processor_time(live.pid())?.saturating_sub(before);
    live.end()?;
    Ok(Figure {
        name: "idle, of one processor".to_owned(),
        unit: Unit::Percent,
        value: 100.0 * used.as_secs_f64() / duration.as_secs_f64(),
        limit: 0.5,
        details: format!("{:.1} ms in {} s", used.as_secs_f64() * 1e3, duration.as_secs()),
    })
}
