//! Exports, asked by the programs that they are for: SQLite, DuckDB and ClickHouse give the same answers.
//!
//! The engines come from PyPI, into an environment below `target/`, at the first run: about 1 GB. `questions.sql` has
//! what is asked.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;
use tempfile::TempDir;

/// The packages, and the versions that are known to work.
const PACKAGES: [&str; 2] = ["duckdb==2.0.1", "chdb==4.4.0"];
/// Stored recordings of one host, and what the host of a second copy is called: as long as the first one's name.
const RECORDINGS: [&str; 2] = ["1-calls.rec", "1-file.rec"];
const HOST: &[u8; 6] = b"(none)";
const OTHER_HOST: &[u8; 6] = b"db %/=";

/// The format's blocks: docs/RECORDING.md.
const HEADER: usize = 64;
const HEAD_BLOCK: u8 = 1;
const INDEX_BLOCK: u8 = 3;

fn here() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines"))
}

fn program() -> PathBuf {
    xtask::tracer::given().expect("IPC_TRACE_BIN names the program: run `cargo xtask test engines`")
}

/// A Python with the engines.
fn python() -> PathBuf {
    static MADE: Once = Once::new();
    let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/engines");
    let python = environment.join("bin/python");
    MADE.call_once(|| {
        let mark = environment.join("packages");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
            return;
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        let mut pip = Command::new(&python);
        run(pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:"]).args(PACKAGES));
        fs::write(mark, wanted).unwrap();
    });
    python
}

/// Runs a command that must succeed: its standard output.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ends with {}:\n{stderr}", output.status);
    output.stdout
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

/// The same recording as another host would have made it, in a run of its own. It isn't closed.
fn of_other_host(recording: &[u8]) -> Vec<u8> {
    let (mut made, mut rest, mut changed) = (Vec::new(), recording, 0);
    while rest.starts_with(b"IPCTRACE") {
        let (header, after) = rest.split_at(HEADER);
        let stored = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
        let (payload, after) = after.split_at(stored);
        rest = after;
        match header[8] {
            // It has the offsets of all blocks.
            INDEX_BLOCK => {}
            HEAD_BLOCK => {
                let mut payload = match header[10] {
                    0 => payload.to_vec(),
                    _ => zstd::decode_all(payload).unwrap(),
                };
                changed += replace(&mut payload, HOST, OTHER_HOST);
                // The ids of the boot and of the run: texts of 36 characters.
                for id in 2..payload.len() {
                    if payload[id - 2..id] == *b"\x78\x24" {
                        payload[id] = if payload[id] == b'0' { b'1' } else { b'0' };
                    }
                }
                made.extend(block(header, &payload));
            }
            _ => made.extend([header, payload].concat()),
        }
    }
    assert!(changed > 0, "the host's name isn't there");
    made
}

/// A block with another payload, which is stored as it is.
fn block(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut block = header.to_vec();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    block[10] = 0;
    block[12..16].copy_from_slice(&length);
    block[16..20].copy_from_slice(&length);
    block[20..24].copy_from_slice(&crc32c(payload).to_le_bytes());
    let crc = crc32c(&block[..HEADER - 4]).to_le_bytes();
    block[HEADER - 4..].copy_from_slice(&crc);
    block.extend(payload);
    block
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) -> usize {
    let parts = bytes.windows(old.len()).enumerate();
    let places: Vec<usize> = parts.filter(|(_, part)| *part == old).map(|(at, _)| at).collect();
    for at in &places {
        bytes[*at..at + new.len()].copy_from_slice(new);
    }
    places.len()
}

/// Recordings of two hosts.
fn recordings(folder: &TempDir) -> Vec<PathBuf> {
    let fixtures = here().join("../live/fixtures");
    let mut files = Vec::new();
    for name in RECORDINGS {
        let recording = fs::read(fixtures.join(name)).unwrap();
        let other = of_other_host(&recording);
        for (host, bytes) in [("a", recording), ("b", other)] {
            let file = folder.path().join(format!("{host}-{name}"));
            fs::write(&file, bytes).unwrap();
            files.push(file);
        }
    }
    files
}

fn export(files: &[PathBuf], to: &str, folder: &TempDir) -> PathBuf {
    let path = folder.path().join(to);
    run(Command::new(program()).arg("export").args(files).args(["--to", to, "-w"]).arg(&path));
    path
}

fn ask(engine: &str, export: &Path) -> Vec<Value> {
    let answers = run(Command::new(python())
        .arg(here().join("ask.py"))
        .arg(engine)
        .arg(export)
        .arg(here().join("questions.sql")));
    serde_json::from_slice(&answers).unwrap()
}

#[test]
fn engines_agree() {
    let folder = tempfile::tempdir().unwrap();
    let files = recordings(&folder);
    let (sqlite, parquet) = (export(&files, "sqlite", &folder), export(&files, "parquet", &folder));
    let questions = fs::read_to_string(here().join("questions.sql")).unwrap();
    let questions: Vec<_> = questions.lines().filter(|line| line.starts_with("SELECT")).collect();
    let expected = ask("sqlite", &sqlite);
    assert_eq!(expected.len(), questions.len());
    let hosts: Vec<_> = expected[0].as_array().unwrap().iter().map(|row| row[0].clone()).collect();
    for host in [HOST, OTHER_HOST] {
        let host = String::from_utf8_lossy(host).into_owned();
        assert!(hosts.contains(&Value::String(host)), "{hosts:?}");
    }
    // The program's own answers, from the recordings.
    for (question, expected) in questions.iter().zip(&expected) {
        let mut query = Command::new(program());
        let found = run(query.args(["query", "-o", "json", question]).args(&files));
        let found: Vec<_> = String::from_utf8(found).unwrap().lines().map(values).collect();
        assert_eq!(found, rows(expected), "query: {question}");
    }
    for engine in ["duckdb", "chdb"] {
        let found = ask(engine, &parquet);
        for (question, (found, expected)) in questions.iter().zip(found.iter().zip(&expected)) {
            assert_eq!(rows(found), rows(expected), "{engine}: {question}");
        }
        assert_eq!(found.len(), expected.len());
    }
}

/// The values of an object, in its order, as the line of a row.
fn values(object: &str) -> String {
    struct ObjectValues;

    impl<'de> Visitor<'de> for ObjectValues {
        type Value = Vec<Value>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Vec<Value>, A::Error> {
            let mut values = Vec::new();
            while let Some((_, value)) = members.next_entry::<IgnoredAny, Value>()? {
                values.push(value);
            }
            Ok(values)
        }
    }

    let mut members = serde_json::Deserializer::from_str(object);
    Value::Array(members.deserialize_map(ObjectValues).unwrap()).to_string()
}

/// A line for each row, which shows a difference better.
fn rows(answer: &Value) -> Vec<String> {
    answer.as_array().unwrap().iter().map(Value::to_string).collect()
}

/// The lines of `replay -o json`, byte by byte, to a file and to standard output, from files and from a pipe.
#[test]
fn json_lines_are_those_of_replay() {
    let folder = tempfile::tempdir().unwrap();
    let files = recordings(&folder);
    let replay =
        |files: &[PathBuf]| run(Command::new(program()).args(["replay", "-o", "json"]).args(files));
    assert_eq!(fs::read(export(&files, "ndjson", &folder)).unwrap(), replay(&files));
    let mut piped = Command::new(program());
    piped.args(["export", "-", "--to", "ndjson", "-w", "-"]);
    piped.stdin(fs::File::open(&files[0]).unwrap());
    assert_eq!(run(&mut piped), replay(&files[..1]));
}

#[test]
fn timelines_are_json() {
    let folder = tempfile::tempdir().unwrap();
    let trace = export(&recordings(&folder), "trace", &folder);
    let trace: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().is_some_and(|events| events.len() > 50));
}

/// What exists stays as it is, and what fails leaves nothing.
#[test]
fn nothing_is_overwritten_or_left() {
    let folder = tempfile::tempdir().unwrap();
    let files = recordings(&folder);
    let out = folder.path().join("out");
    let failed = |words: &[&str], input: &Path| {
        let mut command = Command::new(program());
        command.arg("export").arg(input).args(words).arg("-w").arg(&out);
        let output = command.stdin(fs::File::open(&files[0]).unwrap()).output().unwrap();
        assert!(!output.status.success(), "{command:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let garbage = folder.path().join("garbage");
    fs::write(&garbage, "no recording").unwrap();
    for to in ["sqlite", "parquet", "ndjson", "trace"] {
        let said = failed(&["--to", to], &garbage);
        assert!(said.contains("no recording"), "{said}");
        assert!(!out.exists(), "{to}");
        fs::write(&out, "mine").unwrap();
        let said = failed(&["--to", to], &files[0]);
        assert!(said.contains("it exists"), "{said}");
        assert_eq!(fs::read(&out).unwrap(), b"mine");
        fs::remove_file(&out).unwrap();
    }
    for to in ["sqlite", "parquet"] {
        let said = failed(&["--to", to], Path::new("-"));
        assert!(said.contains("several passes"), "{said}");
    }
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, files.len() + 1);
}
