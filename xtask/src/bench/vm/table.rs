//! Turns what the machines reported into a table, and into figures with limits.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use anyhow::{Context as _, Result};

use super::{
    super::figure::{Figure, Unit},
    inside::{LoopCost, LoopOutcome},
    tracers::BenchTracer,
};

/// What tracing may cost.
#[derive(Clone, Copy, Debug)]
enum CostLimit {
    /// More than untraced: so many instructions
    Total(f64),
    /// More than empty programs on the same hooks: so many instructions
    OverFloor(f64),
    /// More than empty programs on the same hooks: that part of what it costs untraced, in percent
    Part(f64),
}

/// What a call may cost, by loop and backend. Those in percent allow for what differs from machine to machine: each
/// tracer has one of its own, with other addresses.
const LIMITS: [(&str, BenchTracer, CostLimit); 24] = {
    use BenchTracer::{Function, FunctionCounts, Syscall, SyscallCounts};
    use CostLimit::{OverFloor, Part, Total};
    [
        ("semop", Function, Total(700.0)),
        ("semop", Function, OverFloor(380.0)),
        ("semop", Syscall, OverFloor(450.0)),
        ("semop", FunctionCounts, Total(285.0)),
        ("semop", FunctionCounts, OverFloor(90.0)),
        ("semop", SyscallCounts, OverFloor(215.0)),
        ("mq_send, mq_receive", Function, OverFloor(700.0)),
        ("mq_send, mq_receive", Syscall, OverFloor(800.0)),
        ("shmget, ENOENT", Function, OverFloor(400.0)),
        ("shmget, ENOENT", Syscall, OverFloor(550.0)),
        ("open and close", Function, OverFloor(70.0)),
        ("open and close", Syscall, OverFloor(350.0)),
        ("getppid", Function, OverFloor(5.0)),
        ("getppid", Syscall, OverFloor(20.0)),
        ("read", Function, OverFloor(5.0)),
        ("read", Syscall, OverFloor(25.0)),
        ("mmap and munmap", Function, Part(3.0)),
        ("mmap and munmap", Syscall, Part(3.0)),
        ("first touch of a shm page", Function, OverFloor(130.0)),
        ("first touch of a shm page", Syscall, Part(1.0)),
        ("fork, exit, wait", Function, Part(1.0)),
        ("fork, exit, wait", Syscall, Part(1.0)),
        ("fork, exec, exit, wait", Function, Part(3.0)),
        ("fork, exec, exit, wait", Syscall, Part(4.0)),
    ]
};

/// ipc-trace, which may lose nothing.
const OURS: [(&str, BenchTracer); 4] = [
    ("events lost with `function`", BenchTracer::Function),
    ("calls lost with `function`, `--counts`", BenchTracer::FunctionCounts),
    ("events lost with `syscall`", BenchTracer::Syscall),
    ("calls lost with `syscall`, `--counts`", BenchTracer::SyscallCounts),
];

/// How much of what bpftrace adds with a line a call `function` may add.
const PERCENT_OF_STREAM: f64 = 7.6;

/// What the machines said.
#[derive(Debug)]
pub(super) struct Outcomes(pub(super) BTreeMap<BenchTracer, LoopOutcome>);

impl Outcomes {
    fn cost(&self, tracer: BenchTracer, name: &str) -> Result<&LoopCost> {
        let loops = self.0.get(&tracer).map(|outcome| outcome.loops.as_slice()).unwrap_or_default();
        let cost = loops.iter().find(|cost| cost.name == name);
        cost.with_context(|| format!("no figure of {name}, {}", tracer.title()))
    }

    /// What a call costs more than untraced.
    fn added(&self, tracer: BenchTracer, name: &str) -> Result<f64> {
        let untraced = self.cost(BenchTracer::Untraced, name)?.ns_per_call;
        Ok(self.cost(tracer, name)?.ns_per_call - untraced)
    }

    /// A figure with its limit, if what it is made of was measured.
    fn limited(&self, name: &str, tracer: BenchTracer, limit: CostLimit) -> Result<Option<Figure>> {
        let backend = tracer.name();
        let floor = tracer.floor().context("it has no floor")?;
        let needs_floor = !matches!(limit, CostLimit::Total(_));
        if !self.0.contains_key(&tracer) || needs_floor && !self.0.contains_key(&floor) {
            return Ok(None);
        }
        let untraced = self.cost(BenchTracer::Untraced, name)?.ns_per_call;
        let added = self.added(tracer, name)?;
        let over_floor = || Ok::<_, anyhow::Error>(added - self.added(floor, name)?);
        let (unit, value, limit, over) = match limit {
            CostLimit::Total(most) => (Unit::Count, added, most, ""),
            CostLimit::OverFloor(most) => (Unit::Count, over_floor()?, most, ", over the floor"),
            CostLimit::Part(most) => {
                (Unit::Percent, 100.0 * over_floor()? / untraced, most, ", over the floor")
            }
        };
        let name = format!("added to `{name}` by `{backend}`{over}");
        let details = format!("to {untraced:.1} instructions");
        Ok(Some(Figure { name, unit, value, limit, details }))
    }

    /// The figures that have limits, as far as what they are made of was measured.
    pub(super) fn figures(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (name, tracer, limit) in LIMITS {
            figures.extend(self.limited(name, tracer, limit)?);
        }
        for (name, tracer) in OURS {
            if let Some(outcome) = self.0.get(&tracer) {
                let (made, seen) = outcome.loops.iter().fold((0, 0), |(made, seen), cost| {
                    (made + cost.made(), seen + cost.seen(&outcome.saw))
                });
                let value = made.abs_diff(seen).max(outcome.saw.lost) as f64;
                let details = format!("{seen} delivered of {made} made");
                figures.push(Figure {
                    name: name.to_owned(),
                    unit: Unit::Count,
                    value,
                    limit: 0.0,
                    details,
                });
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
                name: "added to `semop` by `function`, of what bpftrace adds with a line a call"
                    .to_owned(),
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
        cost: &LoopCost,
    ) -> fmt::Result {
        let LoopCost { name, ns_per_call, .. } = cost;
        write!(f, "| {name} | {} | {ns_per_call:.0} |", tracer.title())?;
        match self.added(tracer, name) {
            Ok(added) if tracer != BenchTracer::Untraced => {
                write!(f, " {added:+.0} | {:.0} |", cost.tracer_ns_per_call)?;
            }
            Ok(_) | Err(_) => f.write_str(" | |")?,
        }
        match (cost.made(), cost.seen(&outcome.saw)) {
            (made, seen) if made > 0 && tracer != BenchTracer::Untraced => {
                writeln!(f, " {made} | {seen} | {} |", i128::from(made) - i128::from(seen))
            }
            _ => f.write_str(" | | |\n"),
        }
    }

    /// A row for each loop and tracer.
    pub(super) fn table(&self) -> Result<String> {
        let mut text = "| calls | traced by | instructions a call | added | by its process | made | seen | lost |\n\
                        | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
            .to_owned();
        let untraced = self.0.get(&BenchTracer::Untraced).context("nothing ran untraced")?;
        for LoopCost { name, .. } in &untraced.loops {
            for (tracer, outcome) in &self.0 {
                self.row(&mut text, *tracer, outcome, self.cost(*tracer, name)?)?;
            }
        }
        for (tracer, outcome) in &self.0 {
            if outcome.saw.lost > 0 {
                let lost = outcome.saw.lost;
                writeln!(text, "\n`{}`: the tracer itself reports {lost} lost.", tracer.title())?;
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::tracers::Saw, *};

    fn outcome(semop: f64, getppid: f64, seen: u64) -> LoopOutcome {
        let names: BTreeSet<_> = LIMITS.iter().map(|(name, ..)| *name).collect();
        let cost = |name: &str| {
            let (ns_per_call, made) = match name {
                "semop" => (semop, BTreeMap::from([("semop".to_owned(), 10)])),
                "getppid" => (getppid, BTreeMap::new()),
                _ => (1000.0, BTreeMap::new()),
            };
            LoopCost { name: name.to_owned(), ns_per_call, tracer_ns_per_call: 100.0, made }
        };
        LoopOutcome {
            loops: names.into_iter().map(cost).collect(),
            saw: Saw { calls: BTreeMap::from([("semop".to_owned(), seen)]), lost: 0 },
        }
    }

    fn outcomes() -> Outcomes {
        Outcomes(BTreeMap::from([
            (BenchTracer::Untraced, outcome(1000.0, 300.0, 0)),
            (BenchTracer::FunctionFloor, outcome(1600.0, 300.0, 0)),
            (BenchTracer::SyscallFloor, outcome(1600.0, 490.0, 0)),
            (BenchTracer::Function, outcome(1750.0, 302.0, 10)),
            (BenchTracer::Syscall, outcome(2100.0, 500.0, 9)),
            (BenchTracer::Stream, outcome(11_000.0, 800.0, 4)),
        ]))
    }

    #[test]
    fn limits_are_of_what_is_added() {
        let figures = outcomes().figures().unwrap();
        let over: Vec<_> = figures
            .iter()
            .filter(|figure| !figure.is_within())
            .map(|figure| figure.name.as_str())
            .collect();
        assert_eq!(
            over,
            [
                "added to `semop` by `function`",
                "added to `semop` by `syscall`, over the floor",
                "events lost with `syscall`"
            ]
        );
        let part = figures.last().unwrap();
        assert_eq!((part.value, part.details.as_str()), (7.5, "bpftrace adds 13.3 times as much"));
    }

    #[test]
    fn what_was_not_measured_has_no_limit() {
        let mut outcomes = outcomes();
        outcomes.0.retain(|tracer, _| *tracer != BenchTracer::Function);
        assert!(
            outcomes.figures().unwrap().iter().all(|figure| !figure.name.contains("`function`"))
        );
    }

    #[test]
    fn a_row_has_what_was_lost() {
        let table = outcomes().table().unwrap();
        let expected = "| semop | bpftrace, a line a call | 11000 | +10000 | 100 | 10 | 4 | 6 |\n";
        assert!(table.contains(expected), "{table}");
        assert!(table.contains("| getppid | untraced | 300 | | | | | |\n"), "{table}");
    }
}
