//! `recording info` and `recording repair`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::json;

use super::error::RunError;
use crate::{
    cli::OutputFormat,
    event::{escape::escaped, value::Timestamp},
    recording::inspect::{self, RecordedRun, RecordingInfo},
    sinks::{
        output,
        text::units::{self, Bytes, GroupedCount},
    },
};
#[cfg(any(feature = "sqlite", feature = "parquet"))]
use crate::{
    recording::reader::{OpenFile, ReadError},
    rows::files::FileRow,
};

/// Runs `recording info`. The exit status is 1 if a recording is damaged.
///
/// # Errors
/// A file can't be read, or output failed.
pub(super) fn info(files: &[PathBuf], format: OutputFormat) -> Result<ExitCode, RunError> {
    let mut damaged = false;
    for file in files {
        let info = inspect::inspect(file)?;
        damaged |= !info.damage.is_empty();
        let shown = match format {
            OutputFormat::Text => text(file, &info),
            OutputFormat::Json => json(file, &info).to_string(),
        };
        output::print(shown.trim_end())?;
    }
    Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs `recording repair`.
///
/// # Errors
/// The file can't be read, or the new one can't be written.
pub(super) fn repair(file: &Path, write: &Path) -> Result<ExitCode, RunError> {
    let info = inspect::repair(file, write)?;
    let mut text = format!("{}: what is whole of {}\n", write.display(), file.display());
    for run in &info.runs {
        let RecordedRun { blocks, inputs, calls, .. } = run;
        let [blocks, inputs, calls] = [blocks, inputs, calls].map(|number| GroupedCount(*number));
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {calls} calls, {inputs} inputs in {blocks} blocks");
    }
    damage(&info, &mut text);
    output::print(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// A row for each run in each file.
///
/// # Errors
/// A file can't be read, or is no recording.
#[cfg(any(feature = "sqlite", feature = "parquet"))]
pub(super) fn rows(files: &[OpenFile]) -> Result<Vec<FileRow>, ReadError> {
    let mut rows = Vec::new();
    for file in files {
        let info = inspect::inspect_open(file)?;
        rows.extend(info.runs.iter().map(|run| row(&file.path, &info, run)));
    }
    Ok(rows)
}

#[cfg(any(feature = "sqlite", feature = "parquet"))]
fn row(file: &Path, info: &RecordingInfo, run: &RecordedRun) -> FileRow {
    let begin = &run.head.begin;
    let at = |boot_ns| {
        i64::try_from((i128::from(boot_ns) + begin.at.offset_ns).max(0)).unwrap_or(i64::MAX)
    };
    FileRow {
        file: file.display().to_string(),
        bytes: info.bytes,
        host: begin.host.clone(),
        boot_id: begin.boot_id.clone(),
        run_id: begin.run_id.clone(),
        kernel: begin.kernel.clone(),
        arch: begin.arch.clone(),
        version: begin.version.clone(),
        counts: run.head.counts,
        times: run.times.map(|(first, last)| (at(first), at(last))),
        blocks: run.blocks,
        inputs: run.inputs,
        calls: run.calls,
        checkpoints: run.checkpoints,
        missing: run.missing,
        closed: info.closed,
        damaged: info.damage.len(),
    }
}

fn time(run: &RecordedRun, boot_ns: u64) -> Timestamp {
    let since = i128::from(boot_ns) + run.head.begin.at.offset_ns;
    Timestamp(UNIX_EPOCH + Duration::from_nanos(u64::try_from(since).unwrap_or(0)))
}

/// The backends of all operations, each once.
fn backends(run: &RecordedRun) -> Vec<&str> {
    let mut all: Vec<_> = run.head.begin.backends.values().map(AsRef::as_ref).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn text(file: &Path, info: &RecordingInfo) -> String {
    let closed = match info.closed {
        true => "closed",
        false => "not closed: ipc-trace was killed, or is still running",
    };
    let mut text = format!("{}: {}, {closed}\n", file.display(), Bytes(info.bytes));
    for run in &info.runs {
        run_text(run, &mut text);
    }
    if info.unknown_blocks > 0 {
        let _ = writeln!(text, "  {} blocks of a later version", GroupedCount(info.unknown_blocks));
    }
    damage(info, &mut text);
    text
}

fn run_text(run: &RecordedRun, text: &mut String) {
    let begin = &run.head.begin;
    let shown = |value: &str| escaped(value.as_bytes(), usize::MAX).to_string();
    let optional = |value: &Option<String>| value.as_deref().map_or("unknown".to_owned(), shown);
    let times = match run.times {
        Some((first, last)) => {
            let took = units::Duration(last.saturating_sub(first));
            format!("{} to {} ({took})", time(run, first), time(run, last))
        }
        None => "none".to_owned(),
    };
    let RecordedRun { blocks, inputs, calls, checkpoints, count_blocks, missing, .. } = run;
    let [blocks, inputs, calls, checkpoints, count_blocks] =
        [blocks, inputs, calls, checkpoints, count_blocks].map(|number| GroupedCount(*number));
    let kinds: Vec<_> =
        run.kinds.iter().map(|(kind, count)| format!("{kind} {}", GroupedCount(*count))).collect();
    let calls = match run.head.counts {
        true => format!("{calls} calls, counted (--counts)"),
        false => format!("{calls} calls"),
    };
    let backends = backends(run).iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    let rows = [
        ("host", shown(&begin.host)),
        ("kernel", format!("{} ({})", shown(&begin.kernel), shown(&begin.arch))),
        ("boot", optional(&begin.boot_id)),
        ("run", optional(&begin.run_id)),
        ("ipc-trace", format!("{}, backend {backends}", shown(&begin.version))),
        ("times", times),
        (
            "content",
            format!(
                "{calls}, {inputs} inputs in {blocks} blocks, {checkpoints} checkpoints, \
                 {count_blocks} blocks of counts"
            ),
        ),
        ("inputs", kinds.join(", ")),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<10} {value}");
    }
    if let Some(policy) = &run.head.policy {
        let _ = writeln!(text, "  {:<10} {}", "policy", shown(&policy.file));
    }
    if *missing > 0 {
        let _ = writeln!(text, "  {:<10} {} inputs", "missing", GroupedCount(*missing));
    }
}

fn damage(info: &RecordingInfo, text: &mut String) {
    for (bytes, why) in &info.damage {
        let [start, end] = [bytes.start, bytes.end].map(GroupedCount);
        let _ = writeln!(text, "  {:<10} bytes {start} to {end}: {why}", "damaged");
    }
}

fn json(file: &Path, info: &RecordingInfo) -> serde_json::Value {
    let runs: Vec<_> = info
        .runs
        .iter()
        .map(|run| {
            let begin = &run.head.begin;
            json!({
                "host": begin.host,
                "boot_id": begin.boot_id,
                "run_id": begin.run_id,
                "kernel": begin.kernel,
                "arch": begin.arch,
                "version": begin.version,
                "backends": backends(run),
                "counts": run.head.counts,
                "policy": run.head.policy.as_ref().map(|policy| &policy.file),
                "first": run.times.map(|(first, _)| time(run, first)),
                "last": run.times.map(|(_, last)| time(run, last)),
                "blocks": run.blocks,
                "inputs": run.inputs,
                "calls": run.calls,
                "checkpoints": run.checkpoints,
                "count_blocks": run.count_blocks,
                "missing": run.missing,
                "by_kind": run.kinds,
            })
        })
        .collect();
    let damage: Vec<_> = info
        .damage
        .iter()
        .map(|(bytes, why)| {
            json!({ "start": bytes.start, "end": bytes.end, "reason": why.to_string() })
        })
        .collect();
    json!({
        "v": 1,
        "file": file.display().to_string(),
        "bytes": info.bytes,
        "closed": info.closed,
        "runs": runs,
        "damage": damage,
        "unknown_blocks": info.unknown_blocks,
    })
}
