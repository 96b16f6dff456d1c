//! Invariants of every report and every run, whatever was traced.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::tracer::{list, number, of_type, program};

/// Calls and errors by namespace and operation, of those operations that were called at all.
pub(crate) type OpCounts = BTreeMap<u64, BTreeMap<String, (u64, BTreeMap<String, u64>)>>;

/// The counts of a report or of a workload's oracle. An inode number that several namespaces had, one after the
/// other, has the sum of them.
pub(crate) fn counts(namespaces: &Value) -> OpCounts {
    let mut all = OpCounts::new();
    for namespace in list(namespaces) {
        for (op, counts) in namespace["ops"].as_object().unwrap() {
            let (calls, errors) = all
                .entry(number(&namespace["inum"]))
                .or_default()
                .entry(op.clone())
                .or_insert_with(|| (0, BTreeMap::new()));
            *calls += number(&counts["calls"]);
            for (error, count) in counts["errors"].as_object().unwrap() {
                *errors.entry(error.clone()).or_default() += number(count);
            }
        }
    }
    all
}

/// The lines of calls that the kernel made, or may have made: those that are counted as calls.
pub(crate) fn made(lines: &[Value]) -> impl Iterator<Item = &Value> {
    of_type(lines, "ipc").into_iter().filter(|line| line["made"] != false)
}

/// The lines of calls that the kernel never made.
pub(crate) fn not_made(lines: &[Value]) -> impl Iterator<Item = &Value> {
    of_type(lines, "ipc").into_iter().filter(|line| line["made"] == false)
}

/// The counts of lines: the calls that are shown, and those that were lost.
pub(crate) fn counts_of_lines(lines: &[Value]) -> OpCounts {
    let mut all = OpCounts::new();
    let mut add = |inum: &Value, op: &Value, error: &Value, count: u64| {
        let inum = if inum.is_null() { 0 } else { number(inum) };
        let op = op.as_str().unwrap().to_owned();
        let entry = all.entry(inum).or_default().entry(op);
        let (calls, errors) = entry.or_insert_with(|| (0, BTreeMap::new()));
        *calls += count;
        if let Some(error) = error.as_str() {
            *errors.entry(error.to_owned()).or_default() += count;
        }
    };
    for line in made(lines) {
        add(&line["ipc_ns"]["inum"], &line["op"], &line["error"], 1);
    }
    for line in of_type(lines, "loss") {
        for by in list(&line["by"]) {
            add(&by["inum"], &by["op"], &by["error"], number(&by["count"]));
        }
    }
    all
}

/// Only those namespaces that `wanted` has, too.
pub(crate) fn restricted(mut counts: OpCounts, wanted: &OpCounts) -> OpCounts {
    counts.retain(|inum, _| wanted.contains_key(inum));
    counts
}

/// How many calls there are.
pub(crate) fn total(counts: &OpCounts) -> u64 {
    counts.values().flat_map(BTreeMap::values).map(|one| one.0).sum()
}

/// Nothing was missed, and every seen call is accounted for.
pub(crate) fn assert_balanced(accounting: &Value) {
    assert_adds_up(accounting);
    assert_eq!(accounting["missed"], 0, "{accounting}");
}

/// Every seen call is accounted for, in total and for each operation.
pub(crate) fn assert_adds_up(accounting: &Value) {
    const NAMES: [&str; 6] = ["seen", "filtered", "emitted", "dropped", "delivered", "not_made"];
    let mut sums = [0; NAMES.len()];
    let by_op = accounting["by_op"].as_object().unwrap();
    for one in by_op.values().chain([accounting]) {
        let [seen, filtered, emitted, dropped, delivered, _] = NAMES.map(|name| number(&one[name]));
        assert_eq!(seen, filtered + emitted + dropped, "{accounting}");
        assert_eq!(emitted, delivered, "{accounting}");
    }
    for one in by_op.values() {
        for (sum, name) in sums.iter_mut().zip(NAMES) {
            *sum += number(&one[name]);
        }
    }
    assert_eq!(sums, NAMES.map(|name| number(&accounting[name])), "{accounting}");
    let control = &accounting["control"];
    assert_eq!(control["emitted"], control["delivered"], "{accounting}");
}

/// The lines are numbered without gaps, and account for what was traced.
pub(crate) fn assert_complete(lines: &[Value]) {
    assert_eq!(lines[0]["type"], "start");
    // Status lines are not numbered.
    let numbered = lines.iter().filter(|line| line["type"] != "status");
    for (i, line) in numbered.enumerate() {
        assert_eq!(line["v"], 1);
        if i > 0 {
            assert_eq!(line["seq"], i);
        }
    }
    let accounting = &lines.last().unwrap()["accounting"];
    assert_balanced(accounting);
    let shown = made(lines).count() as u64;
    assert_eq!(number(&accounting["delivered"]), shown, "{accounting}");
    let never_made = not_made(lines).count() as u64;
    assert!(number(&accounting["not_made"]) >= never_made, "{never_made} in {accounting}");
    let sum = |name: &str| of_type(lines, "loss").iter().map(|l| number(&l[name])).sum::<u64>();
    assert_eq!(number(&accounting["dropped"]), sum("dropped"), "{accounting}");
}

/// `value` follows the schema that the tracer itself prints.
pub(crate) fn assert_valid(kind: &str, values: &[&Value]) {
    let schema = program().args(["schema", kind]).output().unwrap();
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for value in values {
        if let Err(error) = validator.validate(value) {
            let at = error.instance_path();
            panic!("{kind} does not follow its schema at {at}: {:.300}", error.to_string());
        }
    }
}
