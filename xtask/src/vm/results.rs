//! Turns what a test program printed in a machine into the same output with the machine's name.
//!
//! Invariant: every test that started is passed, failed or ignored in the output, and a machine in
//! which something went wrong has at least one failed test.

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
enum TestStatus {
    Passed,
    Failed,
    Ignored,
    /// Failed, as it is expected to.
    Limited(&'static str),
}

/// What libtest printed, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Printed {
    tests: Vec<(String, TestStatus)>,
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
    let status = match rest.split([',', ' ']).next() {
        Some("ok") => TestStatus::Passed,
        Some("FAILED") => TestStatus::Failed,
        Some("ignored") => TestStatus::Ignored,
        Some(_) | None => return,
    };
    printed.tests.extend(printed.running.take().map(|name| (name, status)));
}

/// As libtest prints it: the tests of a machine, with `prefix` before their names.
pub(super) fn of_tests(prefix: &str, ran: &Ran, expected: &[KnownFailure]) -> String {
    let Printed { mut tests, running, mut messages } = read(&ran.output);
    for (name, status) in &mut tests {
        let limit = expected.iter().find(|expected| expected.test == name);
        match (*status, limit) {
            (TestStatus::Failed, Some(limit)) => *status = TestStatus::Limited(limit.because),
            (TestStatus::Passed, Some(limit)) => {
                *status = TestStatus::Failed;
                let _ = writeln!(messages, "{name} passes unexpectedly: {}", limit.because);
            }
            _ => {}
        }
    }
    let failed = tests.iter().any(|(_, status)| *status == TestStatus::Failed);
    let limited = tests.iter().any(|(_, status)| matches!(status, TestStatus::Limited(_)));
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
        tests.push((running.unwrap_or_else(|| "boot".to_owned()), TestStatus::Failed));
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
    let status = if trouble.is_none() { TestStatus::Passed } else { TestStatus::Failed };
    let (prefix, name) = name.rsplit_once("::").unwrap_or(("vm", name));
    let tests = [(name.to_owned(), status)];
    let messages = trouble.unwrap_or_default();
    format!("{}{}", ran.output, print(prefix, &tests, &messages, ran.took.as_secs_f64()))
}

fn last_lines(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let shown = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
    format!("the last lines of its console:\n    {}\n", shown.join("\n    "))
}

fn print(prefix: &str, tests: &[(String, TestStatus)], messages: &str, seconds: f64) -> String {
    let count = |wanted| tests.iter().filter(|(_, status)| *status == wanted).count();
    let (failed, ignored) = (count(TestStatus::Failed), count(TestStatus::Ignored));
    let passed = tests.len() - failed - ignored;
    let noun = if tests.len() == 1 { "test" } else { "tests" };
    let mut text = format!("\nrunning {} {noun}\n", tests.len());
    for (name, status) in tests {
        let status = match status {
            TestStatus::Passed => "ok".to_owned(),
            TestStatus::Failed => "FAILED".to_owned(),
            TestStatus::Ignored => "ignored".to_owned(),
            TestStatus::Limited(because) => format!("ok (fails, as expected: {because})"),
        };
        let _ = writeln!(text, "test {prefix}::{name} ... {status}");
    }
    if failed > 0 {
        let _ = write!(text, "\nfailures:\n\n{}\n\nfailures:\n", messages.trim());
        for (name, _) in tests.iter().filter(|(_, status)| *status == TestStatus::Failed) {
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
    fn tests_get_the_name_of_their_machine() {
        let text = of_tests("vm::6.12", &ran(FAILING, Some(JobEnd::Exited(101))), &[]);
        assert!(text.contains("\nrunning 3 tests\n"), "{text}");
        assert!(text.contains("test vm::6.12::a::holds ... ok\n"), "{text}");
        assert!(text.contains("left is not right"), "{text}");
        assert!(text.contains("failures:\n    vm::6.12::a::fails\n"), "{text}");
        assert!(text.contains("FAILED. 1 passed; 1 failed; 1 ignored;"), "{text}");
        assert!(!text.contains("console"), "{text}");
    }

    #[test]
    fn hanging_machine_fails_the_running_test() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... some output\n";
        let text = of_tests("vm::5.10", &ran(output, None), &[]);
        assert!(text.contains("test vm::5.10::a ... ok\n"), "{text}");
        assert!(text.contains("test vm::5.10::b ... FAILED\n"), "{text}");
        assert!(text.contains("not done after 9 s"), "{text}");
        assert!(text.contains("    one\n    two\n"), "{text}");
    }

    #[test]
    fn machine_without_tests_is_a_failure() {
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
    fn known_failure_is_expected_and_its_success_is_not() {
        let expected = [KnownFailure { test: "a::fails", because: "no support for something" }];
        let text = of_tests("vm::5.10", &ran(FAILING, Some(JobEnd::Exited(101))), &expected);
        assert!(
            text.contains("a::fails ... ok (fails, as expected: no support for something)"),
            "{text}"
        );
        assert!(text.contains("ok. 2 passed; 0 failed; 1 ignored"), "{text}");
        let expected = [KnownFailure { test: "a::holds", because: "no support for something" }];
        let text = of_tests("vm::5.10", &ran(FAILING, Some(JobEnd::Exited(101))), &expected);
        assert!(text.contains("test vm::5.10::a::holds ... FAILED"), "{text}");
        assert!(text.contains("passes unexpectedly: no support for something"), "{text}");
    }
}
