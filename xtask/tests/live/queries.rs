//! `query` against the lines of the same run: a row for each call with its values, counts that add up, and conditions
//! that read a part of the recording.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
};

use serde_json::{Value, json};

use crate::tracer::{of_type, parse_lines, program, text, tracer, xtask};

/// The rows of a statement.
fn rows(sql: &str, files: &[PathBuf]) -> Vec<Value> {
    let output = program().args(["query", "-o", "json", sql]).args(files).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
    parse_lines(&output.stdout)
}

/// What a row of `calls` and a line have in common.
fn values(line: &Value) -> Value {
    let args = &line["args"];
    let args: Value =
        args.as_str().map_or(args.clone(), |json| serde_json::from_str(json).unwrap());
    json!([
        line["seq"],
        line["op"],
        line["abi"],
        line["ret"],
        line["error"],
        line["duration_ns"],
        args
    ])
}

/// How many calls there are of each operation and error.
fn totals<'a>(calls: impl IntoIterator<Item = (&'a Value, u64)>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (call, count) in calls {
        *all.entry(format!("{} {}", call["op"], call["error"])).or_default() += count;
    }
    all
}

#[test]
fn rows_are_the_lines_and_counts_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    let mut live = tracer("live");
    live.args(["-o", "json", "--runtime-socket", "none", "--rotate-every", "1s", "-w"]);
    live.arg(folder.path().join("night")).args(["--", "/bin/sh", "-c"]);
    let script = "timeout 5 \"$0\" workload model --seed 3 & \"$0\" scenarios --unseen; wait";
    live.arg(script).arg(xtask()).stdout(File::create(&lines).unwrap()).stderr(Stdio::null());
    assert!(live.status().unwrap().success());
    let lines = parse_lines(&fs::read(&lines).unwrap());
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        entries.filter(|path| path.to_string_lossy().contains("/night.2")).collect();
    assert!(files.len() >= 2, "{files:?}");
    let calls = of_type(&lines, "ipc");

    let found = rows("SELECT * FROM calls ORDER BY seq", &files);
    assert_eq!(found.len(), calls.len());
    for (row, line) in found.iter().zip(&calls) {
        assert_eq!(values(row), values(line));
        let process = &line["process"];
        for name in ["pid", "tid", "ppid", "comm", "exe", "uid", "gid", "start_boot_ns"] {
            assert_eq!(row[name], process[name], "{name}: {line}");
        }
        assert_eq!(row["time"], line["time"]);
        assert_eq!(row["ipc_ns"], line["ipc_ns"]["inum"]);
        assert_eq!(row["object_id"], line["object"]["id"]);
        assert_eq!(row["object_name"], line["object"]["name"]);
        let foreign = line["object"]["foreign"].as_bool();
        assert_eq!(
            row["is_foreign"],
            foreign.map_or(Value::Null, |foreign| u8::from(foreign).into())
        );
    }

    // The counts come from their own blocks: of all files together, and of each alone.
    let made = calls.iter().filter(|line| line["made"] != false);
    let expected = totals(made.map(|line| (*line, 1)));
    let sql = "SELECT op, error, sum(calls) AS calls FROM counts GROUP BY op, error";
    let count = |files: &[PathBuf]| {
        let found = rows(sql, files);
        totals(found.iter().map(|row| (row, row["calls"].as_u64().unwrap())))
    };
    assert_eq!(count(&files), expected);
    let mut together = BTreeMap::new();
    for file in &files {
        for (kind, calls) in count(std::slice::from_ref(file)) {
            *together.entry(kind).or_default() += calls;
        }
    }
    assert_eq!(together, expected);

    // A part of the time, and of the calls.
    let (from, to) = (&found[found.len() / 3], &found[found.len() / 2]);
    let (from, to) = (from["time_ns"].as_i64().unwrap(), to["time_ns"].as_i64().unwrap());
    let is_within = |row: &&Value| (from..=to).contains(&row["time_ns"].as_i64().unwrap());
    let within: Vec<_> = found.iter().filter(is_within).collect();
    let part = rows(
        &format!("SELECT * FROM calls WHERE time_ns BETWEEN {from} AND {to} ORDER BY seq"),
        &files,
    );
    assert_eq!(part.len(), within.len());
    for (row, expected) in part.iter().zip(&within) {
        assert_eq!(&row, expected);
    }
    // As replay shows that part, with numbers of its own.
    let [since, until] =
        [found.len() / 3, found.len() / 2].map(|at| found[at]["time"].as_str().unwrap());
    let mut replay = program();
    replay.args(["replay", "-o", "json", "--since", since, "--until", until]).args(&files);
    let replayed = parse_lines(&replay.output().unwrap().stdout);
    let times =
        |lines: &[&Value]| lines.iter().map(|line| line["time"].clone()).collect::<Vec<_>>();
    let (mut shown, mut expected) = (times(&of_type(&replayed, "ipc")), times(&within));
    shown.sort_by_key(ToString::to_string);
    expected.sort_by_key(ToString::to_string);
    assert_eq!(shown.len(), expected.len());
    assert!(shown == expected);
    let semops = within.iter().filter(|row| row["op"] == "semop").count();
    let sql = format!(
        "SELECT count(*) AS n FROM calls WHERE op = 'semop' AND time_ns >= {from} AND time_ns <= {to}"
    );
    assert_eq!(rows(&sql, &files)[0]["n"], semops);

    // Findings are those of the report.
    let report = program().args(["report", "-o", "json", "--from"]).args(&files).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let expected: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|one| one["title"].clone()).collect();
    let titles = rows("SELECT title FROM findings", &files);
    assert_eq!(titles.iter().map(|row| row["title"].clone()).collect::<Vec<_>>(), expected);
    assert!(expected.len() > 3);
}

#[test]
fn mistakes_have_their_exit_status() {
    let stored = tempfile::NamedTempFile::new().unwrap();
    fs::write(stored.path(), include_bytes!("fixtures/1-calls.rec")).unwrap();
    let fixture = stored.path().to_str().unwrap();
    let run = |words: &[&str]| {
        let output = program().arg("query").args(words).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (status, said) = run(&["SELECT nobody FROM calls", fixture]);
    assert_eq!(status, Some(2));
    assert!(said.contains("no such column: nobody\n") && said.contains("         ^"), "{said}");
    for (words, why) in [
        (&["ATTACH '/tmp/x.db' AS x", fixture][..], "only SELECT"),
        (&["--named", "nothing", fixture], "--list"),
        (&["SELECT 1"], "no recording"),
        (&["SELECT :x", fixture], "--param x=VALUE"),
        (&["SELECT * FROM calls", "/dev/null"], "save this one to a file"),
    ] {
        let (status, said) = run(words);
        assert!(matches!(status, Some(1 | 2)), "{words:?}: {status:?}");
        assert!(said.contains(why), "{words:?}: {said}");
    }
    let garbage = tempfile::NamedTempFile::new().unwrap();
    fs::write(garbage.path(), "no recording").unwrap();
    let (status, said) = run(&["SELECT count(*) FROM calls", garbage.path().to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(said.contains("no recording"), "{said}");
    let (status, said) = run(&["--list"]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
}
