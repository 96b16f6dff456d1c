//! Properties of parsers for any input: one function per fuzz target of `fuzz/`, which panics if a property is violated.
//!
//! Property tests call the same functions, and a test runs them on the kept corpus.
//!
//! Invariant: a property says what the code promises, not how it works.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{
    op::ObjectKind,
    record::{ARGS_LEN, GROUPS, Header, flag},
};
use unicode_width::UnicodeWidthStr as _;
use zerocopy::{Immutable, IntoBytes};

use crate::{
    engine::{
        policy::{
            Action, Policy, Rule,
            conditions::{Condition, Matcher},
            parse::{self, PolicyError, Problem},
        },
        track::containers::{cgroup_path, systemd_unit},
    },
    event::{
        escape::{escaped, quoted, unescaped},
        value::OsBytes,
    },
    input::{self, Arguments, Call, CallPayload, container::RuntimeKind, pattern::Pattern},
    recording::properties,
    sources::{
        host::{
            lines::{self as proc_lines, IpcMount, Mounted},
            sysvipc as tables,
        },
        kernel::{
            btf::{BtfTypes, Function},
            decode::{self, Record},
        },
    },
};

/// Decodes a ring record: every part lies within the given bytes, and a call survives encoding and decoding.
pub(crate) fn records(data: &[u8]) {
    let words = input::words(&[data]);
    let bytes = &words.as_bytes()[..data.len()];
    if let Ok(record) = decode::record(bytes) {
        check_record(bytes, record);
    }
    let mut found = 0;
    let _ = decode::iterated(bytes, |_| found += 1);
    assert!(found <= bytes.len() / size_of::<Header>(), "{found} records");
}

fn assert_within(bytes: &[u8], part: &(impl IntoBytes + Immutable + ?Sized)) {
    let part = part.as_bytes().as_ptr_range();
    let bytes = bytes.as_ptr_range();
    assert!(bytes.start <= part.start && part.end <= bytes.end, "a part lies outside the record");
}

fn check_record(bytes: &[u8], record: Record<'_>) {
    match record {
        Record::Call(call) | Record::Change(call) => check_call(bytes, call),
        Record::Context(context, arguments) => {
            assert_within(bytes, context);
            if let Arguments::Read(arguments) = arguments {
                assert_within(bytes, arguments);
                assert!(arguments.len() <= ARGS_LEN);
            }
        }
        Record::Namespace(one) | Record::Alive(one) => assert_within(bytes, one),
        Record::Move(one) => assert_within(bytes, one),
        Record::Exit(one) => assert_within(bytes, one),
        Record::Queue(one) => assert_within(bytes, one),
        Record::Pending(one, _, _) => assert_within(bytes, one),
        Record::End(one) => assert_within(bytes, one),
        Record::Task(one) => assert_within(bytes, one),
        Record::Descriptor(one) => assert_within(bytes, one),
        Record::Mapping(one) => assert_within(bytes, one),
        Record::Batch(batch) => {
            assert_within(bytes, batch.head);
            let (mut groups, mut calls, mut errors) = (0, 0, 0);
            for group in batch.groups() {
                let Ok(group) = group else {
                    errors += 1;
                    continue;
                };
                groups += 1;
                assert!(group.durations().count() as u64 <= u64::from(batch.head.count));
                // No sum of groups overflows.
                assert!(group.count <= u64::MAX / GROUPS as u64);
                assert!(0 < group.count && group.succeeded() <= group.count);
                calls += group.count;
            }
            assert!(groups <= calls);
            // Of calls that were not timed, the head's number says nothing.
            if batch.head.header.flags & flag::UNTIMED == 0 {
                let all = u64::from(batch.head.count);
                assert!(calls <= all && (calls == all) == (errors == 0));
            }
        }
        Record::Cgroup(one) => assert_within(bytes, one),
        Record::Access(one) => assert_within(bytes, one),
        Record::Unknown => {}
    }
}

fn check_call(bytes: &[u8], call: Call<'_>) {
    assert_within(bytes, call.record);
    match call.part {
        CallPayload::None | CallPayload::InlineSemop(_) => {}
        CallPayload::Semop(part) => assert_within(bytes, part),
        CallPayload::Msg(part) => assert_within(bytes, part),
        CallPayload::Ctl(part) => assert_within(bytes, part),
        CallPayload::Queue(part) => assert_within(bytes, part),
        CallPayload::Name(part) => assert_within(bytes, part),
    }
    assert_json(&call.args());
    let (named, effect) = (call.named(), call.effect());
    let words = call.to_words();
    assert!(words.as_bytes().len() <= bytes.len());
    let again = Call::decode(words.as_bytes()).expect("an encoded call decodes");
    assert_eq!((call.op, call.abi, call.code), (again.op, again.abi, again.code));
    assert_eq!(again.to_words(), words);
    assert_eq!((again.named(), again.effect()), (named, effect));
}

fn assert_json(value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).expect("the value has a JSON form");
    assert!(!json.bytes().any(|byte| byte < b' '), "a control character in {json}");
    serde_json::from_str::<serde_json::Value>(&json).expect("valid JSON");
}

/// The payload of a recording's block.
pub(crate) fn columns(data: &[u8]) {
    properties::columns(data);
}

/// The payload of a recording's block of counts.
pub(crate) fn counts(data: &[u8]) {
    properties::counts(data);
}

/// A recording with damage.
pub(crate) fn blocks(data: &[u8]) {
    properties::blocks(data);
}

/// The results of lookups in a BTF.
#[derive(Debug, PartialEq, Eq)]
struct BtfLookups {
    functions: BTreeMap<&'static str, Function>,
    hooks: BTreeMap<&'static str, u32>,
    offsets: Vec<Option<u32>>,
    enumerators: BTreeMap<Vec<u8>, u32>,
}

const FUNCTIONS: [&str; 3] = ["__x64_sys_semop", "newque", "shm_open"];
const HOOKS: [&str; 2] = ["bpf_iter_task", "btf_trace_sys_exit"];
const MEMBERS: [(&str, &str); 5] = [
    ("pt_regs", "ax"),
    ("pt_regs", "ns.inum"),
    ("ipc_namespace", "ns"),
    ("ipc_namespace", "ns.inum"),
    ("", "ax"),
];

impl BtfLookups {
    fn new(bytes: &[u8]) -> Result<Self, String> {
        let types = BtfTypes::new(bytes.to_vec())?;
        let functions = types.functions(&FUNCTIONS.into());
        let hooks = types.hooks(&HOOKS.into());
        let structures = types.structures(&MEMBERS.map(|(structure, _)| structure).into());
        for name in FUNCTIONS {
            let alone = types.functions(&BTreeSet::from([name]));
            assert_eq!(
                alone.get(name),
                functions.get(name),
                "the result for {name} depends on the other names"
            );
        }
        // A type has at least 12 bytes, and ids start at 1.
        let most = bytes.len() as u32 / 12;
        let ids = functions.values().map(|function| function.id).chain(hooks.values().copied());
        ids.for_each(|id| assert!((1..=most).contains(&id), "type {id} of {most}"));
        let offsets = MEMBERS.map(|(structure, path)| {
            let offset = structures.offset_of(structure, path);
            assert!(offset.is_none() || structures.has(structure));
            offset
        });
        let enumerators = types.enumerators("cgroup_subsys_id");
        let enumerators = enumerators.into_iter().map(|(name, value)| (name.to_vec(), value));
        Ok(Self { functions, hooks, offsets: offsets.into(), enumerators: enumerators.collect() })
    }
}

/// Reads BTF: ids are within bounds, and bytes after the sections change no result.
pub(crate) fn btf(data: &[u8]) {
    let found = BtfLookups::new(data);
    if found.is_ok() {
        assert_eq!(BtfLookups::new(&[data, b"\xffbehind"].concat()), found);
    }
}

/// Parses a policy: it survives printing and parsing; otherwise, problems point into the file and are safe to print.
pub(crate) fn policy(data: &[u8]) {
    let user = |name: &str| match name {
        "root" => Ok(0),
        _ => Err("no such user".to_owned()),
    };
    match parse::policy(data, &user) {
        Ok(policy) => {
            let text = policy_text(&policy);
            let again = parse::policy(text.as_bytes(), &user);
            let again = again.unwrap_or_else(|problems| panic!("{problems:?} in {text}"));
            assert_eq!(policy_text(&again), text);
            assert_eq!(again.rules().len(), policy.rules().len());
        }
        Err(problems) => check_problems(data, problems),
    }
}

fn check_problems(data: &[u8], problems: Vec<Problem>) {
    assert!(!problems.is_empty());
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    for (line, column) in problems.iter().filter_map(|problem| problem.at) {
        let bytes = lines.get(line - 1).unwrap_or_else(|| panic!("line {line} of {}", lines.len()));
        assert!((1..=bytes.len() + 1).contains(&column), "column {column} of {}", bytes.len());
    }
    let text = PolicyError { file: "p.toml".into(), problems }.to_string();
    text.split('\n').for_each(assert_harmless);
}

fn policy_text(policy: &Policy) -> String {
    policy.rules().iter().map(rule_text).collect()
}

fn rule_text(rule: &Rule) -> String {
    let mut text = format!("[[{}]]\nname = {}\n", rule.action.table(), toml_string(&rule.name));
    let mut add = |key: &str, value: String| text.push_str(&format!("{key} = {value}\n"));
    if let Some(reason) = &rule.reason {
        add("reason", toml_string(reason));
    }
    if !rule.classes.is_empty() {
        let classes: Vec<_> = rule.classes.iter().map(|class| toml_string(class.name())).collect();
        add("class", format!("[{}]", classes.join(", ")));
    }
    for (key, side) in [("subject", &rule.subject), ("object", &rule.object)] {
        if !side.is_empty() {
            let all: Vec<_> = side.iter().map(condition_text).collect();
            add(key, format!("{{ {} }}", all.join(", ")));
        }
    }
    if let Some(until) = &rule.until {
        add("until", until.text.clone());
    }
    if let Action::Severity(severity) = rule.action {
        add("set", toml_string(severity.name()));
    }
    text
}

fn condition_text(condition: &Condition) -> String {
    let any: Vec<_> = condition.any.iter().map(matcher_text).collect();
    format!("{} = [{}]", condition.what.name(), any.join(", "))
}

fn matcher_text(matcher: &Matcher) -> String {
    match matcher {
        Matcher::Text(Pattern::Exactly(name)) => toml_string(&String::from_utf8_lossy(name)),
        Matcher::Text(Pattern::Like(glob)) => toml_string(glob.glob().glob()),
        Matcher::Number(number) => number.to_string(),
        Matcher::None => "false".to_owned(),
        Matcher::Some => "true".to_owned(),
        Matcher::Host => toml_string("host"),
        Matcher::Kind(kind) => toml_string(kind.name()),
    }
}

fn toml_string(text: &str) -> String {
    let chars = text.chars().map(|char| match char {
        ' ' | '-' | '_' | '.' | '/' | '*' => char.to_string(),
        char if char.is_ascii_alphanumeric() => char.to_string(),
        char => format!("\\U{:08x}", u32::from(char)),
    });
    format!("\"{}\"", chars.collect::<String>())
}

/// Parses mountinfo and maps: at most one entry per line, and entries survive printing as the kernel prints them.
pub(crate) fn lines(data: &[u8]) {
    let count = data.split(|byte| *byte == b'\n').count();
    assert!(proc_lines::mountinfo(data).count() <= count);
    let mounts: Vec<_> = proc_lines::mounts(data).collect();
    assert!(mounts.len() <= count);
    assert!(mounts.iter().map(|mount| mount.point.len()).sum::<usize>() <= data.len());
    let written: Vec<_> = mounts.iter().map(mount_line).collect();
    assert_eq!(proc_lines::mounts(&written.concat()).collect::<Vec<_>>(), mounts);

    let segments: Vec<_> = proc_lines::segments(data).collect();
    assert!(segments.len() <= count);
    let written = segments.iter().map(|one| {
        let (end, shmid, key) = (one.bytes, one.shmid, one.key);
        format!("0-{end:x} rw-s 00000000 00:01 {shmid}      /SYSV{key:08x} (deleted)\n")
    });
    let written = written.collect::<String>();
    assert_eq!(proc_lines::segments(written.as_bytes()).collect::<Vec<_>>(), segments);

    if let Some(inum) = std::str::from_utf8(data).ok().and_then(proc_lines::namespace) {
        assert_eq!(proc_lines::namespace(&format!("ipc:[{inum}]")), Some(inum));
    }
    check_unescaped(data, b"\\", 3, 8);
}

/// A line of mountinfo as the kernel prints it (`show_mountinfo`, fs/proc_namespace.c, 6.12).
fn mount_line(mount: &IpcMount) -> Vec<u8> {
    let (device, root, kind) = match mount.of {
        Mounted::Mqueue(major, minor) => (format!("{major}:{minor}"), "/".to_owned(), "mqueue"),
        Mounted::Namespace(inum) => ("0:4".to_owned(), format!("ipc:[{inum}]"), "nsfs"),
    };
    let mut line = format!("34 25 {device} {root} ").into_bytes();
    for byte in &mount.point {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
            byte => line.push(*byte),
        }
    }
    line.extend(format!(" rw shared:15 - {kind} {kind} rw\n").bytes());
    line
}

/// Parses the tables of `/proc/sysvipc`: one object per line, or an error that is safe to print.
pub(crate) fn sysvipc(data: &[u8]) {
    let table = String::from_utf8_lossy(data);
    for kind in ObjectKind::ALL {
        match tables::parse(kind, &table) {
            Ok(objects) => {
                assert_eq!(objects.len() + 1, table.lines().count());
                for object in objects {
                    assert_eq!(object.kind.0, kind);
                    let id =
                        object.id.map(|id| id.to_string()).expect("a System V object has an id");
                    assert!(table.contains(id.trim_start_matches('-')), "{id} is not in the table");
                    assert_json(&object);
                }
            }
            Err(error) => assert!(!error.chars().any(char::is_control), "{error:?}"),
        }
    }
}

/// Parses a cgroup path: ids have 64 hexadecimal digits or are bounded names, and a prefix changes only `of_host`.
pub(crate) fn cgroups(data: &[u8]) {
    let found = cgroup_path::of_path(data);
    if let Some(found) = &found {
        match found.runtime {
            RuntimeKind::Lxc | RuntimeKind::Nspawn => {
                assert!(!found.id.is_empty());
                // An invalid byte becomes U+FFFD, three bytes.
                assert!(found.id.len() <= 3 * data.len());
            }
            RuntimeKind::Docker
            | RuntimeKind::Containerd
            | RuntimeKind::Crio
            | RuntimeKind::Podman
            | RuntimeKind::Cri
            | RuntimeKind::Unknown => assert!(is_hex(&found.id, 64), "{:?}", found.id),
        }
        if let Some(uid) = &found.pod_uid {
            assert!(is_hex(uid, 64) || is_hex(&uid.replace('-', ""), 32), "{uid:?}");
        }
        let users = cgroup_path::of_path(&[b"/user-1.slice/", data].concat());
        let users = users.expect("a prefix keeps the container");
        assert_eq!((users.runtime, &users.id), (found.runtime, &found.id));
        assert!(!users.of_host);
    }
    let doubled: Vec<u8> = data
        .iter()
        .flat_map(|byte| [*byte; 2].into_iter().take(1 + usize::from(*byte == b'/')))
        .collect();
    assert_eq!(cgroup_path::of_path(&doubled), found);
    if let Some(unit) = systemd_unit::of_path(data) {
        let unit = unit.0.as_ref();
        let mut names = data.split(|byte| *byte == b'/');
        assert!(names.any(|name| name.ends_with(unit) && name.len() - unit.len() <= 1));
        assert!(unit.contains(&b'.'));
    }
    check_unescaped(data, b"\\x", 2, 16);
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Compares unescaping with a reference implementation, and with the inverse of escaping every byte.
fn check_unescaped(data: &[u8], mark: &[u8], digits: usize, radix: u32) {
    let mut expected = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let code = data[at..].strip_prefix(mark).and_then(|rest| rest.get(..digits));
        let value = code.and_then(|code| {
            code.iter()
                .try_fold(0, |sum, byte| Some(sum * radix + char::from(*byte).to_digit(radix)?))
        });
        if let Some(value) = value.and_then(|value| u8::try_from(value).ok()) {
            expected.push(value);
            at += mark.len() + digits;
        } else {
            expected.push(data[at]);
            at += 1;
        }
    }
    assert_eq!(unescaped(data, mark, digits, radix), expected);
    let escape = |byte: &u8| match radix {
        8 => format!("\\{byte:03o}"),
        _ => format!("\\x{byte:02x}"),
    };
    let all: String = data.iter().map(escape).collect();
    assert_eq!(unescaped(all.as_bytes(), mark, digits, radix), data);
}

/// Prints a name: the text is safe, fits, and differs from other names' text; the JSON is valid and has the same name.
pub(crate) fn escape(data: &[u8]) {
    let Some(([max, split], bytes)) = data.split_first_chunk() else { return };
    let max = usize::from(*max);
    for shown in [escaped(bytes, max).to_string(), quoted(bytes, max).to_string()] {
        assert_harmless(&shown);
        assert!(shown.width() <= max, "{} cells of {max}: {shown:?}", shown.width());
    }
    let shown = quoted(bytes, max).to_string();
    assert!(max < 2 || (shown.starts_with('"') && shown.ends_with('"')));
    let (one, other) = bytes.split_at(usize::from(*split).min(bytes.len()));
    for show in [escaped, quoted] {
        let [shown, others] = [one, other].map(|name| show(name, usize::MAX).to_string());
        assert_eq!(shown == others, one == other, "{one:?} and {other:?} are {shown:?}");
    }
    let name = OsBytes(bytes.into());
    assert_json(&name);
    let json = serde_json::to_string(&name).expect("a name has a JSON form");
    let again: String = serde_json::from_str(&json).expect("a JSON string");
    assert_eq!(again, name.to_str());
    assert!(std::str::from_utf8(bytes).is_err() || again.as_bytes() == bytes);
}

/// Asserts that a text has no control character, separator, invisible character or directional formatting character
/// (Unicode Standard Annex 9).
fn assert_harmless(text: &str) {
    let acts = |char: char| {
        char.is_control()
            || matches!(char,
                '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
                | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    assert!(!text.chars().any(acts), "{text:?}");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// A fuzz target and its property.
    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 10] = [
        ("blocks", super::blocks),
        ("btf", super::btf),
        ("cgroups", super::cgroups),
        ("columns", super::columns),
        ("counts", super::counts),
        ("escape", super::escape),
        ("lines", super::lines),
        ("policy", super::policy),
        ("records", super::records),
        ("sysvipc", super::sysvipc),
    ];

    #[test]
    fn the_kept_corpus_has_all_properties() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, check) in TARGETS {
            let mut files: Vec<_> =
                fs::read_dir(corpus.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
            files.sort();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                // Shown if the test fails.
                println!("{}", file.display());
                check(&fs::read(&file).unwrap());
            }
        }
    }
}
