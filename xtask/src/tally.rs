//! Counts tests from what libtest prints.
//!
//! Invariant: a run which ended badly adds at least one failure, even when its output names none:
//! it did not compile, or a test program died.

use std::fmt;

/// The sum over all runs and checks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
}

impl Tally {
    /// Counts a check which succeeded.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts one failure.
    pub(crate) fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    /// Counts the tests of a run.
    pub(crate) fn add(&mut self, mut run: TestRun, success: bool) {
        run.finish_line();
        self.passed += run.counts.passed;
        self.failed += run.counts.failed;
        self.skipped += run.counts.ignored;
        let name = run.name;
        let unseen = run.counts.failed == 0 || run.programs_begun > run.programs_ended;
        if !success && unseen {
            self.fail(&format!("{name}: it ended badly, see its messages above"));
        }
        self.failures.extend(run.failures.iter().map(|test| format!("{name}: {test}")));
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// The names of those which failed.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RunCounts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// One `cargo test`, with any number of test programs.
#[derive(Debug)]
pub(crate) struct TestRun {
    name: String,
    counts: RunCounts,
    failures: Vec<String>,
    programs_begun: u64,
    programs_ended: u64,
    /// The names in the list at the end of a program's output, which is being read.
    list: Option<Vec<String>>,
    line: Vec<u8>,
}

impl TestRun {
    /// A run of this name, of which nothing has been read.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            counts: RunCounts::default(),
            failures: Vec::new(),
            programs_begun: 0,
            programs_ended: 0,
            list: None,
            line: Vec::new(),
        }
    }

    /// Reads a part of the output, which may end anywhere.
    pub(crate) fn read(&mut self, part: &[u8]) {
        for &byte in part {
            if byte == b'\n' {
                self.finish_line();
            } else {
                self.line.push(byte);
            }
        }
    }

    fn finish_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.read_line(&String::from_utf8_lossy(&line));
    }

    fn read_line(&mut self, line: &str) {
        if is_begin(line) {
            self.programs_begun += 1;
        } else if let Some(counts) = parse_result(line) {
            self.programs_ended += 1;
            self.counts.passed += counts.passed;
            self.counts.failed += counts.failed;
            self.counts.ignored += counts.ignored;
            self.failures.append(&mut self.list.take().unwrap_or_default());
        } else if line == "failures:" {
            // There are two: the messages, then the list. Only the latter ends in the result.
            self.list = Some(Vec::new());
        } else if let Some(list) = &mut self.list {
            match line.strip_prefix("    ") {
                Some(test) => list.push(test.trim_end().to_owned()),
                None if line.is_empty() => {}
                None => self.list = None,
            }
        }
    }
}

/// Reads `running 3 tests`.
fn is_begin(line: &str) -> bool {
    line.strip_prefix("running ").and_then(|rest| rest.split_once(' ')).is_some_and(
        |(count, noun)| count.parse::<u64>().is_ok() && matches!(noun, "test" | "tests"),
    )
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`.
fn parse_result(line: &str) -> Option<RunCounts> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count = |name: &str| {
        counts.split(';').find_map(|part| {
            let (number, what) = part.trim().split_once(' ')?;
            (what == name).then(|| number.parse().ok())?
        })
    };
    Some(RunCounts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILING: &str = "
running 3 tests
test a::fails ... FAILED
test a::holds ... ok
test b::later ... ignored

failures:

---- a::fails stdout ----
thread 'a::fails' panicked at src/lib.rs:1:1:
    an indented line
failures:
    not a test

note: run with `RUST_BACKTRACE=1`


failures:
    a::fails

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn tally(output: &str, success: bool) -> Tally {
        let mut run = TestRun::new("tests");
        run.read(output.as_bytes());
        let mut tally = Tally::default();
        tally.add(run, success);
        tally
    }

    #[test]
    fn results_are_read() {
        let line = "test result: ok. 12 passed; 3 failed; 4 ignored; 0 measured; 7 filtered out; \
                    finished in 1.23s";
        let expected = RunCounts { passed: 12, failed: 3, ignored: 4 };
        assert_eq!(parse_result(line), Some(expected));
        assert_eq!(parse_result("test result: ok."), None);
        assert_eq!(parse_result("test a::result: ok. 1 passed"), None);
    }

    #[test]
    fn programs_are_summed_and_failures_named() {
        let good = "running 1 test\ntest x ... ok\n\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let tally = tally(&format!("{good}{FAILING}{good}"), false);
        assert_eq!(tally.to_string(), "3 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failures(), ["tests: a::fails"]);
    }

    #[test]
    fn output_parts_may_end_anywhere() {
        let mut run = TestRun::new("tests");
        for byte in FAILING.trim_end().bytes() {
            run.read(&[byte]);
        }
        let mut tally = Tally::default();
        tally.add(run, false);
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn compile_error_is_one_failure() {
        assert_eq!(tally("", false).to_string(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(tally("", true).to_string(), "0 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn crashed_program_is_one_more_failure() {
        let tally = tally(&format!("{FAILING}\nrunning 2 tests\ntest c ... "), false);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 1 skipped");
    }
}
