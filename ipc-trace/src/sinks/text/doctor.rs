//! `doctor` as text: the summary, the problems, then the details.

use std::fmt::{self, Display};

use ipc_trace_common::op::Abi;
use unicode_width::UnicodeWidthStr as _;

use super::{
    style::{Palette, Role},
    units::Duration,
    wrap::{Align, Shape, Span, TextRow, TextTable, flow},
};
use crate::event::escape::escaped;
use crate::event::{
    doctor::{
        BackendName, BackendReport, CheckStatus, Doctor, DoctorCheck, FieldRead, FieldState,
        Instructions, Operation, PaidBy, RuntimeReport, Tracepoints,
    },
    value::AbiName,
};

/// Cells of a word from outside: the host's name, a file's path.
const WORD_WIDTH: usize = 400;
/// The column where the text of a check or a backend starts: after its name and status.
const COLUMN: usize = 30;

/// The report, with newlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoctorText<'a> {
    doctor: &'a Doctor,
    all: bool,
    palette: Palette,
    width: usize,
}

/// The report for a terminal of `width` cells. `all`: with every field of the kernel.
#[must_use]
pub(crate) const fn text(
    doctor: &Doctor,
    all: bool,
    palette: Palette,
    width: usize,
) -> DoctorText<'_> {
    DoctorText { doctor, all, palette, width }
}

impl Display for DoctorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Doctor { ready, verdict, .. } = self.doctor;
        self.prose(f, 0, 2, if *ready { Role::Good } else { Role::Error }, verdict)?;
        self.problems(f)?;
        writeln!(f)?;
        self.heading(f)?;
        self.checks(f)?;
        self.backends(f)?;
        self.runtimes(f)?;
        self.operations(f)?;
        if self.all { self.fields(f) } else { Ok(()) }
    }
}

/// A status's word, and its role.
const fn status(status: CheckStatus) -> (Role, &'static str) {
    match status {
        CheckStatus::Ok => (Role::Good, "ok"),
        CheckStatus::Warning => (Role::Loss, "warning"),
        CheckStatus::Failed => (Role::Error, "failed"),
        CheckStatus::Unknown => (Role::Dim, "unknown"),
    }
}

const fn name(backend: BackendName) -> &'static str {
    match backend {
        BackendName::Function => "function",
        BackendName::Syscall => "syscall",
    }
}

impl DoctorText<'_> {
    /// Writes text from cell `used` of the current line on; further lines start at `indent`.
    fn prose(
        &self,
        f: &mut fmt::Formatter<'_>,
        used: usize,
        indent: usize,
        role: Role,
        text: &str,
    ) -> fmt::Result {
        let words = text.split_whitespace();
        let spans: Vec<_> =
            words.map(|word| Span::new(role, escaped(word.as_bytes(), WORD_WIDTH))).collect();
        flow(f, &spans, " ", Shape { width: self.width, used, indent }, self.palette)?;
        writeln!(f)
    }

    fn title(&self, f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
        writeln!(f, "\n{}", self.palette.paint(Role::Heading, title))
    }

    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Doctor { host, kernel, arch, version, .. } = self.doctor;
        let word = |text: &str| escaped(text.as_bytes(), WORD_WIDTH).to_string();
        let spans = [
            Span::new(Role::Heading, word(host)),
            Span::new(Role::Plain, format_args!("Linux {}", word(kernel))),
            Span::new(Role::Plain, arch),
            Span::new(Role::Plain, format_args!("ipc-trace {version}")),
        ];
        let shape = Shape { width: self.width, used: 0, indent: 2 };
        flow(f, &spans, " · ", shape, self.palette)?;
        writeln!(f)
    }

    /// The problems, except those in the summary.
    fn problems(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_failure = |check: &DoctorCheck| check.status == CheckStatus::Failed;
        let first = self.doctor.checks.iter().position(is_failure);
        let said = first.filter(|_| !self.doctor.ready);
        for (index, check) in self.doctor.checks.iter().enumerate() {
            let DoctorCheck { status: how, name, detail, remedy } = check;
            if matches!(how, CheckStatus::Ok | CheckStatus::Unknown) || said == Some(index) {
                continue;
            }
            let (role, word) = status(*how);
            let name = name.words();
            write!(f, "  {}: {name}: ", self.palette.paint(role, word))?;
            let used = 2 + word.len() + 2 + name.len() + 2;
            let text = match remedy {
                Some(remedy) => format!("{detail}: {remedy}"),
                None => detail.clone(),
            };
            self.prose(f, used, 4, Role::Plain, &text)?;
        }
        Ok(())
    }

    /// Passed and unknown checks, and the names of failed ones.
    fn checks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.title(f, "CHECKS")?;
        for DoctorCheck { name, status: how, detail, .. } in &self.doctor.checks {
            let (role, word) = status(*how);
            let (text, text_role) = match how {
                CheckStatus::Ok => (detail.as_str(), Role::Plain),
                CheckStatus::Unknown => (detail.as_str(), Role::Dim),
                CheckStatus::Warning | CheckStatus::Failed => ("see above", Role::Plain),
            };
            write!(f, "  {:<19}{:<9}", name.words(), self.palette.paint(role, word))?;
            self.prose(f, COLUMN, COLUMN, text_role, text)?;
        }
        Ok(())
    }

    fn backends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.title(f, "BACKENDS")?;
        let every_call =
            self.doctor.backends.iter().any(|backend| {
                backend.usable == Some(true) && backend.paid_by == PaidBy::EveryCall
            });
        for backend in &self.doctor.backends {
            let BackendReport {
                name: which,
                usable,
                reason,
                exact,
                inexact,
                functions,
                tracepoints,
                paid_by,
                other_calls,
            } = backend;
            let (role, word) = match usable {
                Some(true) => (Role::Good, "works"),
                Some(false) => (Role::Loss, "no"),
                None if self.doctor.ready => (Role::Dim, "unused"),
                None => (Role::Dim, "unknown"),
            };
            write!(f, "  {:<19}{:<9}", name(*which), self.palette.paint(role, word))?;
            let how = match (functions, tracepoints) {
                (Some(functions), _) => format!("programs on {functions} functions"),
                (None, Some(Tracepoints::Perf)) => {
                    "on tracepoints as perf events, with plain loads".to_owned()
                }
                (None, Some(Tracepoints::Btf)) => "on BTF tracepoints, with plain loads".to_owned(),
                (None, Some(Tracepoints::Raw)) => {
                    "on raw tracepoints, which read by helper calls".to_owned()
                }
                (None, None) => String::new(),
            };
            self.prose(f, COLUMN, COLUMN, Role::Plain, reason.as_ref().unwrap_or(&how))?;
            let mut sees = match (exact, inexact) {
                (_, Some(why)) => format!("not exact: {why}"),
                (Some(true), None) => "exact: sees every call on this kernel".to_owned(),
                (Some(false) | None, None) => String::new(),
            };
            if self.doctor.auto == Some(*which) {
                sees.push_str("; --backend auto takes it");
            }
            if !sees.is_empty() {
                write!(f, "{:COLUMN$}", "")?;
                let role = if inexact.is_some() { Role::Loss } else { Role::Plain };
                self.prose(f, COLUMN, COLUMN, role, &sees)?;
            }
            let Instructions { min, max } = other_calls;
            let mut cost = match paid_by {
                PaidBy::EveryCall => format!(
                    "cost: every system call of this host pays, IPC or not: {min} to {max} instructions"
                ),
                PaidBy::IpcCalls => {
                    format!(
                        "cost: IPC calls pay, and files that are opened a little; other calls at most {max} instructions"
                    )
                }
            };
            // If both are in use, the tracepoints cause the cost of such a call.
            let pays = *usable == Some(true) && (*paid_by == PaidBy::EveryCall || !every_call);
            if let Some(here) = self.doctor.measured.filter(|_| pays) {
                let (before, attached) = (Duration(here.before_ns), Duration(here.attached_ns));
                let call = here.call;
                cost.push_str(&format!(
                    "; here {call} took {before} before and {attached} with it"
                ));
            }
            write!(f, "{:COLUMN$}", "")?;
            self.prose(f, COLUMN, COLUMN, Role::Dim, &cost)?;
        }
        Ok(())
    }

    fn runtimes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.doctor.runtimes.is_empty() {
            return Ok(());
        }
        self.title(f, "RUNTIMES, asked for containers' names")?;
        for RuntimeReport { runtime, socket, answers, reason } in &self.doctor.runtimes {
            let (role, word) = match answers {
                Some(true) => (Role::Good, "answers"),
                Some(false) => (Role::Loss, "silent"),
                None => (Role::Dim, "none"),
            };
            write!(f, "  {runtime:<19}{:<9}", self.palette.paint(role, word))?;
            let socket = escaped(&socket.0, WORD_WIDTH);
            let text = match reason {
                Some(reason) => format!("{socket}: {reason}"),
                None => socket.to_string(),
            };
            self.prose(f, COLUMN, COLUMN, Role::Plain, &text)?;
        }
        Ok(())
    }

    fn operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations = &self.doctor.operations;
        if operations.is_empty() {
            return Ok(());
        }
        self.title(f, "OPERATIONS")?;
        // Usually all have the same reason, that of the backend.
        let mut reasons: Vec<(Option<BackendName>, &str)> = Vec::new();
        for Operation { backend, reason, .. } in operations {
            let says = |b: &BackendReport| [&b.reason, &b.inexact].contains(&&Some(reason.clone()));
            let is_shown = self.doctor.backends.iter().any(says)
                || self.doctor.checks.iter().any(|check| check.detail == *reason);
            if !is_shown && !reasons.contains(&(*backend, reason)) {
                reasons.push((*backend, reason));
            }
        }
        for (backend, reason) in &reasons {
            let those = operations
                .iter()
                .filter(|op| op.backend == *backend && op.reason == *reason)
                .map(|op| op.op.to_string());
            let those: Vec<_> = those.collect();
            let which = match those.len() {
                all if all == operations.len() => "all".to_owned(),
                most if most > operations.len() / 2 => format!("{most} operations"),
                _ => those.join(", "),
            };
            let by = backend.map_or("none", name);
            f.write_str("  ")?;
            self.prose(f, 2, 4, Role::Plain, &format!("{which}: {by}: {reason}"))?;
        }
        let row = |operation: &Operation| {
            let by = operation.backend.map_or("", name);
            TextRow {
                cells: vec![Span::new(Role::Plain, operation.op), Span::new(Role::Plain, by)],
                notes: hooked_syscalls(operation),
            }
        };
        let table = TextTable {
            columns: &[("OPERATION", Align::Left), ("BACKEND", Align::Left)],
            notes: "WAYS IN: ABI AND NUMBERS",
            rows: operations.iter().map(row).collect(),
        };
        table.write(f, self.width, self.palette)
    }

    fn fields(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.doctor.fields.is_empty() {
            return Ok(());
        }
        self.title(f, "FIELDS: place, offset, how it is read")?;
        let place = |field: &FieldState| field.place.clone().unwrap_or_default();
        let widest = self.doctor.fields.iter().map(|field| place(field).width()).max();
        let widest = widest.unwrap_or_default();
        let mut groups: Vec<Option<&str>> = Vec::new();
        for field in &self.doctor.fields {
            if !groups.contains(&field.gives) {
                groups.push(field.gives);
            }
        }
        for group in groups {
            let title = match group {
                Some(what) => format!("for {what}"),
                None => "without which nothing can be traced".to_owned(),
            };
            f.write_str("  ")?;
            self.prose(f, 2, 4, Role::Dim, &title)?;
            for field in self.doctor.fields.iter().filter(|field| field.gives == group) {
                match (&field.missing, field.offset, field.read) {
                    (None, Some(offset), Some(read)) => {
                        let read = match read {
                            FieldRead::Load => "plain load",
                            FieldRead::Helper => "helper call",
                            FieldRead::Offset => "offset alone",
                        };
                        writeln!(f, "    {:<widest$} {offset:>6}  {read}", place(field))?;
                    }
                    (missing, ..) => {
                        let reason = missing.as_deref().unwrap_or("not known");
                        f.write_str("    ")?;
                        self.prose(f, 4, 6, Role::Loss, &format!("missing: {reason}"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The hooked system calls, by ABI: `i386 420 ipc:1 ipc:4`, of which the last two are calls of ipc(2).
fn hooked_syscalls(operation: &Operation) -> Vec<Span> {
    let of = |abi: Abi| {
        let here = || operation.entries.iter().filter(move |way| way.abi == AbiName(abi));
        let own = here().filter(|way| way.call.is_none()).map(|way| format!(" {}", way.number));
        let through_ipc = here().filter_map(|way| Some(format!(" ipc:{}", way.call?)));
        let ways: String = own.chain(through_ipc).collect();
        (!ways.is_empty()).then(|| Span::new(Role::Plain, format_args!("{}{ways}", AbiName(abi))))
    };
    Abi::ALL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        cli::HowArgs,
        commands::doctor::tests::{self as sample, FakeHost, FakeKernel},
        sources::kernel::{plan::BackendChoice, preemption::PreemptionModel},
    };

    fn show(doctor: &Doctor, all: bool, palette: Palette, width: usize) -> String {
        let text = text(doctor, all, palette, width).to_string();
        if palette == Palette::PLAIN {
            for line in text.lines() {
                assert!(line.width() <= width, "{line:?} has more than {width} cells");
                assert_eq!(line.trim_end(), line);
            }
            assert!(text.chars().all(|char| !char.is_control() || char == '\n'), "{text:?}");
        }
        text
    }

    #[test]
    fn formats_ready_host() {
        let doctor = FakeHost::new("text-ready")
            .examine(&sample::how(BackendChoice::Auto), &FakeKernel::default());
        insta::assert_snapshot!("ready_80", show(&doctor, false, Palette::PLAIN, 80));
        insta::assert_snapshot!("ready_coloured", show(&doctor, false, Palette::COLOURED, 100));
        insta::assert_snapshot!("ready_all_80", show(&doctor, true, Palette::PLAIN, 80));
        show(&doctor, true, Palette::PLAIN, 60);
    }

    #[test]
    fn formats_refused_functions() {
        let refused = FakeKernel::refusing(
            "no fentry programs: the kernel refused it: Operation not permitted (os error 1), without a word by the verifier",
        );
        let doctor =
            FakeHost::new("text-refused").examine(&sample::how(BackendChoice::Auto), &refused);
        insta::assert_snapshot!("refused_80", show(&doctor, false, Palette::PLAIN, 80));
    }

    #[test]
    fn formats_functions_that_miss_calls() {
        let host = || FakeHost::new("text-preempted").preempts();
        let fake = FakeKernel::preempting(PreemptionModel::Full);
        let doctor = host().examine(&sample::how(BackendChoice::Auto), &fake);
        insta::assert_snapshot!("preempted_80", show(&doctor, false, Palette::PLAIN, 80));
        let doctor = host().examine(&sample::how(BackendChoice::Function), &fake);
        let text = show(&doctor, false, Palette::PLAIN, 80);
        insta::assert_snapshot!("preempted_function_80", text.split("OPERATIONS").next().unwrap());
    }

    #[test]
    fn formats_missing_function() {
        let doctor = FakeHost::new("text-mixed").examine(
            &sample::how(BackendChoice::Auto),
            &FakeKernel::lacking(&["__x64_sys_semtimedop"]),
        );
        insta::assert_snapshot!("mixed_80", show(&doctor, false, Palette::PLAIN, 80));
    }

    #[test]
    fn formats_runtimes() {
        let mut doctor = FakeHost::new("text-runtimes")
            .examine(&sample::how(BackendChoice::Auto), &FakeKernel::default());
        let runtime = |runtime, answers, reason: &str| RuntimeReport {
            runtime,
            socket: format!("/run/{runtime}.sock").as_str().into(),
            answers,
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        };
        doctor.runtimes = vec![
            runtime("docker", Some(true), ""),
            runtime("podman", Some(false), "no answer within 5 s"),
            runtime("containerd", None, "no such socket"),
        ];
        let text = show(&doctor, false, Palette::PLAIN, 80);
        let at = text.find("RUNTIMES").unwrap();
        let end = text.find("OPERATIONS").unwrap();
        insta::assert_snapshot!("runtimes_80", &text[at..end]);
    }

    #[test]
    fn formats_unprivileged_host() {
        let host = FakeHost::new("text-unprivileged")
            .file("proc/self/status", "CapEff:\t0000000000000000\n");
        let doctor = host.examine(&sample::how(BackendChoice::Auto), &FakeKernel::default());
        insta::assert_snapshot!("unprivileged_80", show(&doctor, false, Palette::PLAIN, 80));
    }

    #[test]
    fn formats_host_with_warnings() {
        let host = FakeHost::new("text-warnings")
            .release("5.10.0-30-amd64")
            .file("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
            .file(
                "proc/self/limits",
                "Max locked memory         8388608              8388608              bytes\n",
            )
            .file("proc/sys/net/core/bpf_jit_enable", "0\n");
        let doctor = host.examine(&sample::how(BackendChoice::Syscall), &FakeKernel::poor());
        insta::assert_snapshot!("warnings_80", show(&doctor, true, Palette::PLAIN, 80));
    }

    #[test]
    fn foreign_names_are_escaped() {
        let btf = Some(PathBuf::from("/nowhere/\x1b[31m/btf"));
        let how = HowArgs { btf, ..sample::how(BackendChoice::Auto) };
        let host = FakeHost::new("text-hostile").name("\x1b[2Jweb1\u{202e}");
        let doctor = host.examine(&how, &FakeKernel::reading_files());
        insta::assert_snapshot!("hostile_80", show(&doctor, false, Palette::PLAIN, 80));
    }
}
