//! Turns what the machines reported into a table, and into figures with limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, Result};

use super::{
    super::figure::{Figure, Unit, median},
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

/// What a call may cost, by loop and backend. Those in percent allow for what differs from run to run, as processes have
/// other addresses.
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
        ("read", Syscall, OverFloor(28.0)),
        ("mmap and munmap", Function, Part(3.0)),
        ("mmap and munmap", Syscall, Part(3.0)),
        ("first touch of a shm page", Function, OverFloor(130.0)),
        ("first touch of a shm page", Syscall, Part(1.0)),
        ("fork, exit, wait", Function, Part(1.0)),
        ("fork, exit, wait", Syscall, Part(1.0)),
        ("fork, exec, exit, wait", Function, Part(1.0)),
        ("fork, exec, exit, wait", Syscall, Part(1.0)),
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

/// What one machine reported: of each tracer an outcome a turn.
pub(super) type Runs = BTreeMap<BenchTracer, Vec<LoopOutcome>>;

/// What the machines reported.
#[derive(Debug, Default)]
pub(super) struct Outcomes(pub(super) Vec<Runs>);

/// What a call costs: the median of the turns.
fn median_cost(costs: &[&LoopCost]) -> f64 {
    median(&costs.iter().map(|cost| cost.ns_per_call).collect::<Vec<_>>())
}

impl Outcomes {
    /// What the machine reported in which that tracer ran; of nothing at all, the first one.
    fn runs(&self, tracer: BenchTracer) -> Option<&Runs> {
        self.0.iter().find(|runs| runs.contains_key(&tracer))
    }

    /// All tracers that ran.
    fn tracers(&self) -> BTreeSet<BenchTracer> {
        self.0.iter().flat_map(|runs| runs.keys().copied()).collect()
    }

    /// What was reported of a tracer, by turn; nothing, if it did not run.
    fn outcomes(&self, tracer: BenchTracer) -> &[LoopOutcome] {
        let outcomes = self.runs(tracer).and_then(|runs| runs.get(&tracer));
        outcomes.map(Vec::as_slice).unwrap_or_default()
    }

    /// What a kind of call cost with `base`, in the machine of that tracer, by turn.
    fn costs<'a>(
        &'a self,
        tracer: BenchTracer,
        base: BenchTracer,
        name: &str,
    ) -> Result<Vec<&'a LoopCost>> {
        let missing = || format!("no figure of {name}, {}", base.title());
        let outcomes = self.runs(tracer).and_then(|runs| runs.get(&base)).with_context(missing)?;
        let cost = |run: &'a LoopOutcome| run.loops.iter().find(|cost| cost.name == name);
        outcomes.iter().map(|run| cost(run).with_context(missing)).collect()
    }

    /// What a call costs more than with `base` in the same turn: the median.
    fn added(&self, tracer: BenchTracer, base: BenchTracer, name: &str) -> Result<f64> {
        let pairs =
            self.costs(tracer, tracer, name)?.into_iter().zip(self.costs(tracer, base, name)?);
        let added: Vec<_> = pairs.map(|(ours, base)| ours.ns_per_call - base.ns_per_call).collect();
        Ok(median(&added))
    }

    /// A figure with its limit, if what it is made of was measured.
    fn limited(&self, name: &str, tracer: BenchTracer, limit: CostLimit) -> Result<Option<Figure>> {
        let backend = tracer.name();
        let floor = tracer.floor().context("it has no floor")?;
        let base = match limit {
            CostLimit::Total(_) => BenchTracer::Untraced,
            CostLimit::OverFloor(_) | CostLimit::Part(_) => floor,
        };
        if !self.runs(tracer).is_some_and(|runs| runs.contains_key(&base)) {
            return Ok(None);
        }
        let untraced = median_cost(&self.costs(tracer, BenchTracer::Untraced, name)?);
        let added = self.added(tracer, base, name)?;
        let (unit, value, limit, over) = match limit {
            CostLimit::Total(most) => (Unit::Count, added, most, ""),
            CostLimit::OverFloor(most) => (Unit::Count, added, most, ", over the floor"),
            CostLimit::Part(most) => {
                (Unit::Percent, 100.0 * added / untraced, most, ", over the floor")
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
            let outcomes = self.outcomes(tracer);
            if !outcomes.is_empty() {
                // A turn that lost a call must not be made up for by one that saw a call twice.
                let (mut made, mut seen, mut off) = (0, 0, 0);
                for LoopOutcome { loops, saw } in outcomes {
                    let of_run: u64 = loops.iter().map(LoopCost::made).sum();
                    let seen_of_run: u64 = loops.iter().map(|cost| cost.seen(saw)).sum();
                    off += of_run.abs_diff(seen_of_run).max(saw.lost);
                    (made, seen) = (made + of_run, seen + seen_of_run);
                }
                let value = off as f64;
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
        let both = [BenchTracer::Function, BenchTracer::Stream];
        if both.iter().all(|tracer| self.runs(*tracer).is_some()) {
            let [ours, theirs] =
                both.map(|tracer| self.added(tracer, BenchTracer::Untraced, "semop"));
            let (ours, theirs) = (ours?, theirs?);
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

    fn row(&self, f: &mut String, tracer: BenchTracer, name: &str) -> Result<()> {
        let costs = self.costs(tracer, tracer, name)?;
        let total = median_cost(&costs);
        write!(f, "| {name} | {} | {total:.0} |", tracer.title())?;
        if tracer == BenchTracer::Untraced {
            f.write_str(" | | | | |\n")?;
            return Ok(());
        }
        let added = self.added(tracer, BenchTracer::Untraced, name)?;
        let own = median(&costs.iter().map(|cost| cost.tracer_ns_per_call).collect::<Vec<_>>());
        write!(f, " {added:+.0} | {own:.0} |")?;
        let made: u64 = costs.iter().map(|cost| cost.made()).sum();
        let runs = costs.iter().zip(self.outcomes(tracer));
        let seen: u64 = runs.map(|(cost, run)| cost.seen(&run.saw)).sum();
        if made == 0 || tracer.is_floor() {
            f.write_str(" | | |\n")?;
        } else {
            writeln!(f, " {made} | {seen} | {} |", i128::from(made) - i128::from(seen))?;
        }
        Ok(())
    }

    /// A row for each loop and tracer.
    pub(super) fn table(&self) -> Result<String> {
        let mut text = "| calls | traced by | instructions a call | added | by its process | made | seen | lost |\n\
                        | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
            .to_owned();
        let untraced = self.outcomes(BenchTracer::Untraced).first();
        for LoopCost { name, .. } in &untraced.context("nothing ran untraced")?.loops {
            for tracer in self.tracers() {
                self.row(&mut text, tracer, name)?;
            }
        }
        for tracer in self.tracers() {
            let lost: u64 = self.outcomes(tracer).iter().map(|outcome| outcome.saw.lost).sum();
            if lost > 0 {
                writeln!(text, "\n`{}`: the tracer itself reports {lost} lost.", tracer.title())?;
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
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

    /// The middle one of three turns is as given.
    fn turns(semop: f64, getppid: f64, seen: u64) -> Vec<LoopOutcome> {
        [-50.0, 0.0, 500.0].map(|more| outcome(semop + more, getppid, seen)).to_vec()
    }

    fn outcomes() -> Outcomes {
        let untraced = (BenchTracer::Untraced, vec![outcome(1000.0, 300.0, 0); 3]);
        Outcomes(vec![
            Runs::from([
                untraced.clone(),
                (BenchTracer::FunctionFloor, vec![outcome(1600.0, 300.0, 0); 3]),
                (BenchTracer::Function, turns(1750.0, 302.0, 10)),
            ]),
            Runs::from([
                untraced.clone(),
                (BenchTracer::SyscallFloor, vec![outcome(1600.0, 490.0, 0); 3]),
                (BenchTracer::Syscall, turns(2100.0, 500.0, 9)),
            ]),
            Runs::from([untraced, (BenchTracer::Stream, vec![outcome(11_000.0, 800.0, 4)])]),
        ])
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
        outcomes.0.retain(|runs| !runs.contains_key(&BenchTracer::Function));
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
