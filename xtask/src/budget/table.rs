//! The stored table: read, written, and compared with what was measured. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use anyhow::{Context as _, bail};

/// What a program may grow by, as a fraction: 20 %.
const GROWTH: (u64, u64) = (6, 5);
/// Before the table's first row.
const HEAD: &str = "\
# What kernels make of the programs: instructions that the verifier goes through, a slash, and bytes of
# machine code. `-`: this kernel does not report it; `.`: the program is not loaded there.
# `cargo xtask budget update` writes this file; a test fails when a program outgrows it by 20 %.
";

/// A kernel, by the first two numbers of its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BudgetKernel(u32, u32);

impl FromStr for BudgetKernel {
    type Err = anyhow::Error;

    /// `6.12`, also when more follows: `6.12.117-amd64`, `6.12+deb13`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self(major, minor)),
            _ => bail!("{text:?} is no kernel's release"),
        }
    }
}

impl fmt::Display for BudgetKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.0, self.1))
    }
}

/// Which program, as it is loaded with a backend by a command of the tracer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Program {
    /// `function` or `syscall`
    pub(crate) backend: String,
    /// `live` or `report`
    pub(crate) mode: String,
    /// Its function's name
    pub(crate) name: String,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} --backend {}", self.name, self.mode, self.backend)
    }
}

/// How large a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramSize {
    /// Instructions that the verifier went through (Linux 5.16 and later)
    pub(crate) verified: Option<u32>,
    /// Bytes of machine code
    pub(crate) jited: u32,
}

impl FromStr for ProgramSize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let size = || {
            let (verified, jited) = text.split_once('/')?;
            let verified = if verified == "-" { None } else { Some(verified.parse().ok()?) };
            Some(Self { verified, jited: jited.parse().ok()? })
        };
        size().with_context(|| format!("{text:?} is no size"))
    }
}

impl fmt::Display for ProgramSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verified = self.verified.map_or_else(|| "-".to_owned(), |number| number.to_string());
        f.pad(&format!("{verified}/{}", self.jited))
    }
}

impl ProgramSize {
    /// Which of its figures outgrow `stored`.
    fn outgrows(self, stored: Self) -> Vec<String> {
        let figures = [
            ("verified instructions", self.verified, stored.verified),
            ("bytes of machine code", Some(self.jited), Some(stored.jited)),
        ];
        let (parts, of) = GROWTH;
        figures
            .into_iter()
            .filter_map(|(what, now, stored)| Some((what, now?, stored?)))
            .filter(|(_, now, stored)| u64::from(*now) * of > u64::from(*stored) * parts)
            .map(|(what, now, stored)| format!("{now} {what}, {stored} are stored"))
            .collect()
    }

    /// The larger one of each figure.
    fn max(self, other: Self) -> Self {
        let verified = self.verified.max(other.verified);
        Self { verified, jited: self.jited.max(other.jited) }
    }
}

/// The programs of one backend on one kernel, in both modes.
pub(crate) type Sizes = BTreeMap<Program, ProgramSize>;

/// All that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BudgetTable(BTreeMap<Program, BTreeMap<BudgetKernel, ProgramSize>>);

/// The result of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Whether the table has this kernel and backend, so that the set of programs was compared, too
    pub(crate) known: bool,
    /// What differs from the table
    pub(crate) problems: Vec<String>,
}

impl BudgetTable {
    /// Stores what was measured in place of what is stored of that backend on that kernel.
    pub(crate) fn replace(&mut self, kernel: BudgetKernel, backend: &str, measured: Sizes) {
        for (program, sizes) in &mut self.0 {
            if program.backend == backend {
                sizes.remove(&kernel);
            }
        }
        for (program, size) in measured {
            self.0.entry(program).or_default().insert(kernel, size);
        }
        self.0.retain(|_, sizes| !sizes.is_empty());
    }

    /// Compares what was measured of a backend, by these commands. On a kernel that the table does not have, each
    /// program is compared with the largest figures of all kernels.
    pub(crate) fn compare(
        &self,
        kernel: BudgetKernel,
        (backend, modes): (&str, &[&str]),
        measured: &Sizes,
    ) -> Comparison {
        let is = |program: &Program| {
            program.backend == backend && modes.contains(&program.mode.as_str())
        };
        let of_backend = || self.0.iter().filter(|(program, _)| is(program));
        let known = of_backend().any(|(_, sizes)| sizes.contains_key(&kernel));
        let mut problems = Vec::new();
        for (program, now) in measured {
            let stored = self.0.get(program).and_then(|sizes| {
                if known {
                    sizes.get(&kernel).copied()
                } else {
                    sizes.values().copied().reduce(ProgramSize::max)
                }
            });
            match stored {
                None => problems.push(format!("{program} is not in the table")),
                Some(stored) => problems.extend(
                    now.outgrows(stored).iter().map(|figure| format!("{program} has {figure}")),
                ),
            }
        }
        let gone = of_backend().filter(|(program, sizes)| {
            sizes.contains_key(&kernel) && !measured.contains_key(program)
        });
        problems.extend(gone.map(|(program, _)| format!("{program} is in the table, and gone")));
        Comparison { known, problems }
    }

    fn kernels(&self) -> BTreeSet<BudgetKernel> {
        self.0.values().flat_map(|sizes| sizes.keys().copied()).collect()
    }
}

impl FromStr for BudgetTable {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let head = lines.next().context("the table has no head")?;
        let kernels: Vec<BudgetKernel> =
            head.split_whitespace().skip(3).map(str::parse).collect::<Result<_, _>>()?;
        let mut table = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [backend, mode, name, cells @ ..] = words.as_slice() else {
                bail!("{line:?} is no row of the table");
            };
            if cells.len() != kernels.len() {
                bail!("{line:?} has not one size for each kernel");
            }
            let [backend, mode, name] = [backend, mode, name].map(|word| (*word).to_owned());
            let program = Program { backend, mode, name };
            let mut sizes = BTreeMap::new();
            for (kernel, cell) in kernels.iter().zip(cells).filter(|(_, cell)| **cell != ".") {
                sizes.insert(*kernel, cell.parse()?);
            }
            if table.0.insert(program, sizes).is_some() {
                bail!("{line:?} is in the table twice");
            }
        }
        Ok(table)
    }
}

impl fmt::Display for BudgetTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernels = self.kernels();
        let width = self.0.keys().map(|program| program.name.len()).max().unwrap_or(0);
        f.write_str(HEAD)?;
        write!(f, "backend  mode   {:width$}", "program")?;
        for kernel in &kernels {
            write!(f, " {kernel:>13}")?;
        }
        for (program, sizes) in &self.0 {
            let Program { backend, mode, name } = program;
            write!(f, "\n{backend:8} {mode:6} {name:width$}")?;
            for kernel in &kernels {
                match sizes.get(kernel) {
                    Some(size) => write!(f, " {size:>13}")?,
                    None => write!(f, " {:>13}", ".")?,
                }
            }
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::measure::MODES;

    const NEW: BudgetKernel = BudgetKernel(6, 12);
    const OLD: BudgetKernel = BudgetKernel(5, 10);

    fn program(backend: &str, name: &str) -> Program {
        Program { backend: backend.to_owned(), mode: "live".to_owned(), name: name.to_owned() }
    }

    fn sizes(all: &[(&str, Option<u32>, u32)]) -> Sizes {
        let size = |(name, verified, jited): &(&str, Option<u32>, u32)| {
            (program("syscall", name), ProgramSize { verified: *verified, jited: *jited })
        };
        all.iter().map(size).collect()
    }

    fn table() -> BudgetTable {
        let mut table = BudgetTable::default();
        table.replace(NEW, "syscall", sizes(&[("sys_exit", Some(1000), 500), ("b", Some(10), 10)]));
        table.replace(OLD, "syscall", sizes(&[("sys_exit", None, 700)]));
        table
    }

    #[test]
    fn table_round_trips() {
        let text = table().to_string();
        assert_eq!(text.parse::<BudgetTable>().unwrap(), table());
        assert!(text.contains("sys_exit         -/700      1000/500\n"), "{text}");
        assert!(text.contains("b                    .         10/10\n"), "{text}");
        for bad in ["", "a b c 6.x\n", "a b c 6.1\na b c\n", "a b c 6.1\na b c 5\n"] {
            assert!(bad.parse::<BudgetTable>().is_err(), "{bad:?}");
        }
        assert!("a b c 6.1\na b c 1/1\na b c 1/1\n".parse::<BudgetTable>().is_err());
    }

    #[test]
    fn releases_are_two_numbers() {
        assert_eq!("6.12.117-amd64".parse::<BudgetKernel>().unwrap(), NEW);
        assert_eq!("6.12+deb13-cloud".parse::<BudgetKernel>().unwrap(), NEW);
        assert!("linux".parse::<BudgetKernel>().is_err() && "6".parse::<BudgetKernel>().is_err());
    }

    #[test]
    fn growth_by_a_fifth_is_allowed() {
        let compare = |verified, jited| {
            let now = sizes(&[("sys_exit", Some(verified), jited), ("b", Some(1), 1)]);
            table().compare(NEW, ("syscall", &MODES), &now)
        };
        assert_eq!(compare(1200, 600), Comparison { known: true, problems: vec![] });
        let [verified] = compare(1201, 600).problems.try_into().unwrap();
        assert!(verified.contains("1201 verified instructions, 1000 are stored"), "{verified}");
        assert_eq!(compare(1201, 601).problems.len(), 2);
    }

    #[test]
    fn unknown_or_missing_program_is_a_problem() {
        let now = sizes(&[("sys_exit", Some(1), 1), ("new", Some(1), 1)]);
        let Comparison { known, problems } = table().compare(NEW, ("syscall", &MODES), &now);
        assert!(known);
        let [new, gone] = problems.try_into().unwrap();
        assert!(new.contains("new of live --backend syscall is not in the table"), "{new}");
        assert!(gone.contains("b of live --backend syscall is in the table, and gone"), "{gone}");
    }

    #[test]
    fn unknown_kernel_is_compared_with_the_largest_sizes() {
        let compare =
            |now: &[_]| table().compare(BudgetKernel(9, 9), ("syscall", &MODES), &sizes(now));
        let fits = compare(&[("sys_exit", Some(1200), 840)]);
        assert_eq!(fits, Comparison { known: false, problems: vec![] });
        assert_eq!(compare(&[("sys_exit", Some(1201), 841)]).problems.len(), 2);
        assert_eq!(compare(&[("new", Some(1), 1)]).problems.len(), 1);
        assert!(
            !table().compare(NEW, ("function", &MODES), &Sizes::new()).known,
            "nor has it the backend"
        );
    }

    #[test]
    fn new_measurement_replaces_the_old_one() {
        let mut table = table();
        table.replace(NEW, "syscall", sizes(&[("new", Some(1), 1)]));
        let left: Vec<_> = table.0.keys().map(|program| program.name.as_str()).collect();
        assert_eq!(left, ["new", "sys_exit"]);
        assert_eq!(table.0[&program("syscall", "sys_exit")].keys().collect::<Vec<_>>(), [&OLD]);
    }
}
