//! Recordings with the engine's states: in several files, read from a state, and kept in memory.

use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;

use super::{folder, head, read, read_from, with_samples};
use crate::recording::{
    FlightLimits, Keep, RecordingTarget, Rotation, inspect,
    reader::{MissingInputs, ReadError, ReadStart},
    writer::Recorder,
};

/// Records the samples six times, with a state between. Returns what was recorded, as text.
fn record_with_states(target: &RecordingTarget) -> Vec<Vec<String>> {
    let mut recorder = Recorder::start(target, &head("a")).unwrap();
    let all = (0..6_u8).map(|number| {
        let mut part = Vec::new();
        if number > 0 {
            recorder.checkpoint(vec![number], 1000 * u64::from(number));
        }
        // No two parts have the same length.
        with_samples(3 + u64::from(number), |input| {
            recorder.record(input);
            part.push(format!("{input:?}"));
        });
        part
    });
    let all = all.collect();
    recorder.dump();
    assert_eq!(recorder.finish().unwrap().lost, 0);
    all
}

/// The files with times in their names, in their order.
fn timed_files(folder: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.retain(|file| file.to_string_lossy().contains("/a.2"));
    files
}

#[test]
fn each_of_several_files_stands_alone() {
    let folder = folder();
    let file = folder.path().join("a");
    // Neither of these is a recording of that name.
    for other in ["a.20260131T235959.123", "b.20260131T235959.123Z"] {
        fs::write(folder.path().join(other), "x").unwrap();
    }
    // One of an earlier run is.
    fs::write(folder.path().join("a.20260131T235959.123Z"), "x").unwrap();
    let rotation = Rotation { every: Some(Duration::ZERO), keep: Some(Keep::Files(3)), size: None };
    let recorded = record_with_states(&RecordingTarget::Rotating(file, rotation));
    let mut files = timed_files(&folder);
    assert!(files.remove(0).ends_with("a.20260131T235959.123"), "{files:?}");
    assert_eq!(files.len(), 3, "{files:?}");
    for (number, file) in (3..).zip(&files) {
        let read = read(std::slice::from_ref(file)).unwrap();
        assert_eq!(read.states, [[number as u8]]);
        assert_eq!((read.inputs, read.missing), (recorded[number].clone(), Vec::new()));
        let info = inspect::inspect(file).unwrap();
        // At its beginning and, but for the last, at its end.
        assert_eq!((info.closed, info.runs[0].checkpoints), (true, if number < 5 { 2 } else { 1 }));
    }
    let whole = read(&[files[2].clone(), files[0].clone(), files[1].clone()]).unwrap();
    assert_eq!((whole.states, whole.inputs), (vec![vec![3]], recorded[3..].concat()));
    assert!(whole.missing.is_empty());
    // One that was just begun when the machine went off is empty.
    let empty = folder.path().join("a.20991231T235959.123Z");
    fs::write(&empty, "").unwrap();
    let whole = read(&[empty.clone(), files[1].clone(), files[2].clone()]).unwrap();
    assert_eq!(whole.inputs, recorded[4..].concat());
    assert!(matches!(read(&[empty.clone(), empty]), Err(ReadError::Empty(_))));
    // The one between is missing, so the state after it is used.
    let torn = read(&[files[0].clone(), files[2].clone()]).unwrap();
    assert_eq!(torn.states, [[3], [5]]);
    assert_eq!(torn.inputs, [&recorded[3][..], &recorded[5]].concat());
    assert_eq!(torn.missing[0].inputs, recorded[4].len() as u64);
}

/// Where inputs are missing, the engine needs the next state.
#[test]
fn a_damaged_block_is_followed_by_a_state() {
    let folder = folder();
    let [whole, flipped] = ["whole", "flipped"].map(|name| folder.path().join(name));
    let recorded = record_with_states(&RecordingTarget::File(whole.clone()));
    let mut bytes = fs::read(&whole).unwrap();
    let all: usize = recorded.iter().map(Vec::len).sum();
    let mut torn = 0;
    for at in (0..bytes.len()).step_by(41) {
        bytes[at] ^= 4;
        fs::write(&flipped, &bytes).unwrap();
        bytes[at] ^= 4;
        let read = read(std::slice::from_ref(&flipped)).unwrap();
        if let [MissingInputs { inputs: missing @ 1.., .. }] = &read.missing[..] {
            // What is missing is one of the parts; the state comes after it.
            let number = recorded.iter().position(|part| part.len() as u64 == *missing).unwrap();
            assert_eq!(read.inputs.len(), all - recorded[number].len(), "{at}");
            assert_eq!(read.states, [[number as u8 + 1]], "{at}");
            torn += 1;
        }
    }
    assert!(torn > 3, "{torn}");
}

#[test]
fn a_range_begins_at_the_checkpoint_before_it() {
    let folder = folder();
    let one = folder.path().join("one");
    let recorded = record_with_states(&RecordingTarget::File(one.clone()));
    let rotation = Rotation { every: Some(Duration::ZERO), ..Rotation::default() };
    record_with_states(&RecordingTarget::Rotating(folder.path().join("a"), rotation));
    let offset = head("a").begin.at.offset_ns;
    for files in [vec![one], timed_files(&folder)] {
        assert!(files.len() == 1 || files.len() == 6, "{files:?}");
        for (since, state) in [(0, 0), (999, 0), (1000, 1), (3999, 3), (i128::from(u64::MAX), 5)] {
            let read = read_from(&files, ReadStart::Time(offset + since)).unwrap();
            let expected = if state == 0 { vec![] } else { vec![vec![state as u8]] };
            assert_eq!((read.states, read.inputs), (expected, recorded[state..].concat()));
            assert!(read.missing.is_empty());
        }
    }
}

#[test]
fn a_flight_recorder_keeps_the_last_parts() {
    let record = |length, bytes| {
        let folder = folder();
        let limits = FlightLimits { length, bytes };
        let recorded =
            record_with_states(&RecordingTarget::Flight(folder.path().join("a"), limits));
        let files = timed_files(&folder);
        // One when it was asked for, and one at the end.
        assert_eq!(files.len(), 2, "{files:?}");
        let [first, last] = [0, 1].map(|at| read(&files[at..=at]).unwrap());
        assert_eq!(first, last);
        (recorded, last)
    };
    let (recorded, whole) = record(Duration::from_secs(600), 1 << 30);
    assert_eq!((whole.states, whole.inputs), (Vec::new(), recorded.concat()));
    for (length, bytes) in [(Duration::ZERO, 1 << 30), (Duration::from_secs(600), 1)] {
        let (recorded, last) = record(length, bytes);
        assert_eq!((last.states, last.inputs), (vec![vec![5]], recorded[5].clone()));
    }
}
