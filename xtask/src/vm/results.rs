//! From what a test program printed in a machine to the same about tests of this machine's name.
//!
//! Invariant: every test that began is passed, failed or ignored in what is printed, and a
//! machine in which something went wrong has at least one failed test.

use std::fmt::Write as _;

use super::{init::JobEnd, qemu::Ran};

/// How many of the console's last lines are worth showing.
const CONSOLE_LINES: usize = 40;

/// A test that fails on some kernel because of what that kernel is.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownFailure {
    /// Its name
    pub(super) test: &'static str,
    /// Why it can't pass
    pub(super) because: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestVerdict {
    Passed,
    Failed,
    Ignored,
    /// Failed, as it is expected to.
    Limited(&'static str),
}

/// What libtest printed, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Printed {
    tests: Vec<(String, TestVerdict)>,
    /// The one that began and has not ended.
    running: Option<String>,
    /// The messages of those which failed.
    messages: String,
}

fn read(output: &str) -> Printed {
    let mut printed = Printed::default();
    let mut in_messages = false;
    for line in output.lines() {
        if in_messages {
            // The second time it is the list of their names.
            if line == "failures:" || line.starts_with("test result: ") {
                break;
            }
            printed.messages.push_str(line);
            printed.messages.push('\n');
        } else if line == "failures:" {
            in_messages = true;
        } else if let Some((name, rest)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            // A test whose output is not captured prints it in between.
            printed.running = Some(name.to_owned());
            end_test(&mut printed, rest);
        } else if printed.running.is_some() {
            end_test(&mut printed, line);
        }
    }
    printed
}

fn end_test(printed: &mut Printed, rest: &str) {
    let verdict = match rest.split([',', ' ']).next() {
        Some("ok") => TestVerdict::Passed,
        Some("FAILED") => TestVerdict::Failed,
        Some("ignored") => TestVerdict::Ignored,
        Some(_) | None => return,
    };
    printed.tests.extend(printed.running.take().map(|name| (name, verdict)));
}

/// As libtest prints it: the tests of a machine, with `prefix` before their names.
pub(super) fn of_tests(prefix: &str, ran: &Ran, expected: &[KnownFailure]) -> String {
    let Printed { mut tests, running, mut messages } = read(&ran.output);
    for (name, verdict) in &mut tests {
        let limit = expected.iter().find(|expected| expected.test == name);
        match (*verdict, limit) {
            (TestVerdict::Failed, Some(limit)) => *verdict = TestVerdict::Limited(limit.because),
            (TestVerdict::Passed, Some(limit)) => {
                *verdict = TestVerdict::Failed;
                let _ = writeln!(messages, "{name} passes, and was not to: {}", limit.because);
            }
            _ => {}
        }
    }
    let failed = tests.iter().any(|(_, verdict)| *verdict == TestVerdict::Failed);
    let limited = tests.iter().any(|(_, verdict)| matches!(verdict, TestVerdict::Limited(_)));
    let trouble = match ran.end {
        None => ran.trouble.clone(),
        // A filter may leave no test.
        Some(JobEnd::Exited(0)) if ran.output.contains("\ntest result: ok") => None,
        // libtest's status when tests failed.
        Some(JobEnd::Exited(101)) if failed || limited => None,
        Some(end) => {
            Some(format!("the test program ended badly ({end:?}) and printed:\n{}", ran.output))
        }
    };
    if let Some(trouble) = &trouble {
        let _ = write!(messages, "{prefix}: {trouble}\n{}", last_lines(&ran.console));
        tests.push((running.unwrap_or_else(|| "boot".to_owned()), TestVerdict::Failed));
    }
    print(prefix, &tests, &messages, ran.took.as_secs_f64())
}

/// A job that is one test, and what it printed.
pub(super) fn of_command(name: &str, ran: &Ran) -> String {
    let trouble = match ran.end {
        Some(JobEnd::Exited(0)) => None,
        Some(end) => Some(format!("{end:?}\n")),
        None => ran.trouble.as_ref().map(|why| format!("{why}\n{}", last_lines(&ran.console))),
    };
    let verdict = if trouble.is_none() { TestVerdict::Passed } else { TestVerdict::Failed };
    let (prefix, name) = name.rsplit_once("::").unwrap_or(("vm", name));
    let tests = [(name.to_owned(), verdict)];
    let messages = trouble.unwrap_or_default();
    format!("{}{}", ran.output, print(prefix, &tests, &messages, ran.took.as_secs_f64()))
}

fn last_lines(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let shown = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
    format!("the last lines of its console:\n    {}\n", shown.join("\n    "))
}

fn print(prefix: &str, tests: &[(String, TestVerdict)], messages: &str, seconds: f64) -> String {
    let count = |wanted| tests.iter().filter(|(_, verdict)| *verdict == wanted).count();
    let (failed, ignored) = (count(TestVerdict::Failed), count(TestVerdict::Ignored));
    let passed = tests.len() - failed - ignored;
    let noun = if tests.len() == 1 { "test" } else { "tests" };
    let mut text = format!("\nrunning {} {noun}\n", tests.len());
    for (name, verdict) in tests {
        let verdict = match verdict {
            TestVerdict::Passed => "ok".to_owned(),
            TestVerdict::Failed => "FAILED".to_owned(),
            TestVerdict::Ignored => "ignored".to_owned(),
            TestVerdict::Limited(because) => format!("ok (fails, as expected: {because})"),
        };
        let _ = writeln!(text, "test {prefix}::{name} ... {verdict}");
    }
    if failed > 0 {
        let _ = write!(text, "\nfailures:\n\n{}\n\nfailures:\n", messages.trim());
        for (name, _) in tests.iter().filter(|(_, verdict)| *verdict == TestVerdict::Failed) {
            let _ = writeln!(text, "    {prefix}::{name}");
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let _ = writeln!(
        text,
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
         0 filtered out; finished in {seconds:.2}s"
    );
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FAILING: &str = "
running 3 tests
test a::fails ... FAILED
test a::holds ... ok
test b::later ... ignored, for a reason

failures:

---- a::fails stdout ----
thread 'a::fails' panicked at live.rs:1:1:
left is not right


failures:
    a::fails

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn ran(output: &str, end: Option<JobEnd>) -> Ran {
        Ran {
            end,
            trouble: end.is_none().then(|| "it was not done after 9 s".to_owned()),
            output: output.to_owned(),
            console: "one\ntwo\n".to_owned(),
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn tests_get_the_machine_s_name() {
        let text = of_tests("vm::6.12", &ran(FAILING, Some(JobEnd::Exited(101))), &[]);
        assert!(text.contains("\nrunning 3 tests\n"), "{text}");
        assert!(text.contains("test vm::6.12::a::holds ... ok\n"), "{text}");
        assert!(text.contains("left is not right"), "{text}");
        assert!(text.contains("failures:\n    vm::6.12::a::fails\n"), "{text}");
        assert!(text.contains("FAILED. 1 passed; 1 failed; 1 ignored;"), "{text}");
        assert!(!text.contains("console"), "{text}");
    }

    #[test]
    fn a_machine_that_hangs_fails_the_test_that_ran() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... some output\n";
        let text = of_tests("vm::5.10", &ran(output, None), &[]);
        assert!(text.contains("test vm::5.10::a ... ok\n"), "{text}");
        assert!(text.contains("test vm::5.10::b ... FAILED\n"), "{text}");
        assert!(text.contains("not done after 9 s"), "{text}");
        assert!(text.contains("    one\n    two\n"), "{text}");
    }

    #[test]
    fn a_machine_that_runs_nothing_is_a_failure() {
        for end in
            [None, Some(JobEnd::Exited(0)), Some(JobEnd::Exited(127)), Some(JobEnd::Killed(9))]
        {
            let text = of_tests("vm::5.10", &ran("", end), &[]);
            assert!(text.contains("test vm::5.10::boot ... FAILED\n"), "{text}");
        }
        let died = of_tests("vm::5.10", &ran("test a ... ok\n", Some(JobEnd::Killed(9))), &[]);
        assert!(died.contains("1 passed; 1 failed"), "{died}");
        let none = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed;\n";
        let none = of_tests("vm::5.10", &ran(none, Some(JobEnd::Exited(0))), &[]);
        assert!(none.contains("ok. 0 passed; 0 failed"), "{none}");
    }

    #[test]
    fn what_a_kernel_can_t_do_is_expected_of_it() {
        let expected = [KnownFailure { test: "a::fails", because: "it lacks something" }];
        let text = of_tests("vm::5.10", &ran(FAILING, Some(JobEnd::Exited(101))), &expected);
        assert!(
            text.contains("a::fails ... ok (fails, as expected: it lacks something)"),
            "{text}"
        );
        assert!(text.contains("ok. 2 passed; 0 failed; 1 ignored"), "{text}");
        let expected = [KnownFailure { test: "a::holds", because: "it lacks something" }];
        let text = of_tests("vm::5.10", &ran(FAILING, Some(JobEnd::Exited(101))), &expected);
        assert!(text.contains("test vm::5.10::a::holds ... FAILED"), "{text}");
        assert!(text.contains("passes, and was not to: it lacks something"), "{text}");
    }
}
