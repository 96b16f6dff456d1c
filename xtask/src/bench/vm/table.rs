//! From what the machines said to a table, and to figures with limits.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use anyhow::{Context as _, Result};

use super::{
    super::figure::{Figure, Unit},
    inside::{Lap, LoopOutcome},
    tracers::BenchTracer,
};

/// What a call may cost more than untraced, in instructions.
const LIMITS: [(&str, BenchTracer, &str, f64); 4] = [
    ("added to `semop` by `function`", BenchTracer::Function, "semop", 870.0),
    ("added to `semop` by `syscall`", BenchTracer::Syscall, "semop", 970.0),
    ("added to `getppid` by `function`", BenchTracer::Function, "getppid", 5.0),
    ("added to `getppid` by `syscall`", BenchTracer::Syscall, "getppid", 250.0),
];

/// ipc-trace, which may lose nothing.
const OURS: [(&str, BenchTracer); 2] = [
    ("events lost with `function`", BenchTracer::Function),
    ("events lost with `syscall`", BenchTracer::Syscall),
];

/// How much of what bpftrace adds with a line a call `function` may add.
const PERCENT_OF_STREAM: f64 = 9.0;

/// What the machines said.
#[derive(Debug)]
pub(super) struct Outcomes(pub(super) BTreeMap<BenchTracer, LoopOutcome>);

impl Outcomes {
    fn lap(&self, tracer: BenchTracer, name: &str) -> Result<&Lap> {
        let laps = self.0.get(&tracer).map(|outcome| outcome.laps.as_slice()).unwrap_or_default();
        let lap = laps.iter().find(|lap| lap.name == name);
        lap.with_context(|| format!("no figure of {name}, {}", tracer.title()))
    }

    /// What a call costs more than untraced.
    fn added(&self, tracer: BenchTracer, name: &str) -> Result<f64> {
        let untraced = self.lap(BenchTracer::Untraced, name)?.ns_per_call;
        Ok(self.lap(tracer, name)?.ns_per_call - untraced)
    }

    /// The figures that have limits, as far as what they are made of was measured.
    pub(super) fn figures(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (name, tracer, lap, limit) in LIMITS {
            if self.0.contains_key(&tracer) {
                let value = self.added(tracer, lap)?;
                let untraced = self.lap(BenchTracer::Untraced, lap)?.ns_per_call;
                let details = format!("to {untraced:.1} instructions");
                figures.push(Figure { name, unit: Unit::Count, value, limit, details });
            }
        }
        for (name, tracer) in OURS {
            if let Some(outcome) = self.0.get(&tracer) {
                let (made, seen) = outcome.laps.iter().fold((0, 0), |(made, seen), lap| {
                    (made + lap.made(), seen + lap.seen(&outcome.saw))
                });
                let value = made.abs_diff(seen).max(outcome.saw.lost) as f64;
                let details = format!("{seen} delivered of {made} made");
                figures.push(Figure { name, unit: Unit::Count, value, limit: 0.0, details });
            }
        }
        if [BenchTracer::Function, BenchTracer::Stream]
            .iter()
            .all(|tracer| self.0.contains_key(tracer))
        {
            let [ours, theirs] = [
                self.added(BenchTracer::Function, "semop")?,
                self.added(BenchTracer::Stream, "semop")?,
            ];
            figures.push(Figure {
                name: "added to `semop` by `function`, of what bpftrace adds with a line a call",
                unit: Unit::Percent,
                value: 100.0 * ours / theirs,
                limit: PERCENT_OF_STREAM,
                details: format!("bpftrace adds {:.1} times as much", theirs / ours),
            });
        }
        Ok(figures)
    }

    fn row(
        &self,
        f: &mut String,
        tracer: BenchTracer,
        outcome: &LoopOutcome,
        lap: &Lap,
    ) -> fmt::Result {
        let Lap { name, ns_per_call, .. } = lap;
        write!(f, "| {name} | {} | {ns_per_call:.0} |", tracer.title())?;
        match self.added(tracer, name) {
            Ok(added) if tracer != BenchTracer::Untraced => {
                write!(f, " {added:+.0} | {:.0} |", lap.tracer_ns_per_call)?;
            }
            Ok(_) | Err(_) => f.write_str(" | |")?,
        }
        match (lap.made(), lap.seen(&outcome.saw)) {
            (made, seen) if made > 0 && tracer != BenchTracer::Untraced => {
                writeln!(f, " {made} | {seen} | {} |", i128::from(made) - i128::from(seen))
            }
            _ => f.write_str(" | | |\n"),
        }
    }

    /// A row for each lap and tracer.
    pub(super) fn table(&self) -> Result<String> {
        let mut text = "| calls | traced by | instructions a call | added | by its process | made | seen | lost |\n\
                        | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
            .to_owned();
        let untraced = self.0.get(&BenchTracer::Untraced).context("nothing ran untraced")?;
        for Lap { name, .. } in &untraced.laps {
            for (tracer, outcome) in &self.0 {
                self.row(&mut text, *tracer, outcome, self.lap(*tracer, name)?)?;
            }
        }
        for (tracer, outcome) in &self.0 {
            if outcome.saw.lost > 0 {
                let lost = outcome.saw.lost;
                writeln!(text, "\n{} itself says that it lost {lost}.", tracer.title())?;
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tracers::Saw, *};

    fn outcome(semop: f64, getppid: f64, seen: u64) -> LoopOutcome {
        let lap = |name: &str, ns_per_call, made| Lap {
            name: name.to_owned(),
            ns_per_call,
            tracer_ns_per_call: 100.0,
            made,
        };
        let made = BTreeMap::from([("semop".to_owned(), 10)]);
        LoopOutcome {
            laps: vec![lap("semop", semop, made), lap("getppid", getppid, BTreeMap::new())],
            saw: Saw { calls: BTreeMap::from([("semop".to_owned(), seen)]), lost: 0 },
        }
    }

    fn outcomes() -> Outcomes {
        Outcomes(BTreeMap::from([
            (BenchTracer::Untraced, outcome(1000.0, 300.0, 0)),
            (BenchTracer::Function, outcome(1800.0, 302.0, 10)),
            (BenchTracer::Syscall, outcome(2100.0, 500.0, 9)),
            (BenchTracer::Stream, outcome(11_000.0, 800.0, 4)),
        ]))
    }

    #[test]
    fn limits_are_of_what_is_added() {
        let figures = outcomes().figures().unwrap();
        let over: Vec<_> =
            figures.iter().filter(|figure| !figure.is_within()).map(|figure| figure.name).collect();
        assert_eq!(over, ["added to `semop` by `syscall`", "events lost with `syscall`"]);
        let part = figures.last().unwrap();
        assert_eq!((part.value, part.details.as_str()), (8.0, "bpftrace adds 12.5 times as much"));
    }

    #[test]
    fn what_was_not_measured_has_no_limit() {
        let mut outcomes = outcomes();
        outcomes.0.retain(|tracer, _| *tracer != BenchTracer::Function);
        assert_eq!(outcomes.figures().unwrap().len(), 3);
    }

    #[test]
    fn a_row_has_what_was_lost() {
        let table = outcomes().table().unwrap();
        let expected = "| semop | bpftrace, a line a call | 11000 | +10000 | 100 | 10 | 4 | 6 |\n";
        assert!(table.contains(expected), "{table}");
        assert!(table.contains("| getppid | untraced | 300 | | | | | |\n"), "{table}");
    }
}
