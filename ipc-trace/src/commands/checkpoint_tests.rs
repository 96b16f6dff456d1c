//! Checkpoints of the engine that a real recording leads to: it goes on from each, and damaged ones do no harm.

use std::{path::Path, time::Duration};

use crate::{
    engine::{Engine, checkpoint::RestoredCounts, policy::engine::PolicyEngine},
    event::{EmitEvent, Event},
    input::{Begin, Input},
    recording::{
        chunk::Chunk,
        reader::{
            NextPart, OrderedRecordings, ReadStart, RecordingPart, RecordingReader, open_files,
        },
    },
};

/// Events as text.
#[derive(Debug, Default)]
pub(super) struct EventTexts(pub Vec<String>);

impl EmitEvent for EventTexts {
    fn emit(&mut self, event: &Event<'_>) {
        self.0.push(format!("{event:?}"));
    }
}

/// The metadata and the inputs of a stored recording.
pub(super) fn recording(name: &str) -> (Begin, Vec<Chunk>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/tests/live/fixtures");
    let mut reader = RecordingReader::start(
        OrderedRecordings::new(
            &open_files(&[fixtures.join(name)]).unwrap(),
            false,
            ReadStart::Begin,
        )
        .unwrap(),
    )
    .unwrap();
    let (mut begin, mut chunks) = (Begin::default(), Vec::new());
    loop {
        match reader.next_within(Duration::from_secs(60)).unwrap() {
            NextPart::Part(RecordingPart::Begin(head)) => begin = head.begin,
            NextPart::Part(RecordingPart::Inputs(chunk, 0)) => chunks.push(chunk),
            NextPart::End => return (begin, chunks),
            NextPart::None | NextPart::Part(_) => panic!("the recording is not whole"),
        }
    }
}

pub(super) fn for_each(chunks: &[Chunk], mut each: impl FnMut(usize, &Input<'_>)) {
    let mut number = 0;
    for chunk in chunks {
        let numbered = |input: &Input<'_>| {
            each(number, input);
            number += 1;
        };
        chunk.for_each(0, numbered).unwrap();
    }
}

pub(super) fn engine(begin: &Begin, lines: bool) -> Engine {
    Engine::new(Begin { lines, ..begin.clone() }, PolicyEngine::default())
}

#[test]
fn engine_goes_on_from_every_checkpoint() {
    for name in ["1-calls.rec", "1-counts.rec"] {
        let (begin, chunks) = recording(name);
        let (mut first, mut expected) = (engine(&begin, true), EventTexts::default());
        let mut checkpoints = Vec::new();
        for_each(&chunks, |number, input| {
            if number < 60 || number % 7 == 0 {
                checkpoints.push((number, first.checkpoint(), expected.0.len()));
            }
            first.feed(input, &mut expected);
        });
        assert!(checkpoints.len() > 5, "{}", checkpoints.len());
        for (at, state, lines) in &checkpoints {
            let (mut second, mut found) = (engine(&begin, true), EventTexts::default());
            second.restore(state, RestoredCounts::Recorded).unwrap();
            assert_eq!(second.checkpoint(), *state, "{name} {at}");
            for_each(&chunks, |number, input| {
                if number >= *at {
                    second.feed(input, &mut found);
                }
            });
            assert_eq!(found.0, expected.0[*lines..], "{name} from input {at}");
        }
    }
}

/// A checkpoint is untrusted. A changed one is refused, or the engine takes it, whatever it says, and goes on.
#[test]
fn changed_checkpoints_do_no_harm() {
    let (begin, chunks) = recording("1-calls.rec");
    let (mut source, mut lines) = (engine(&begin, true), EventTexts::default());
    let (mut state, mut half) = (Vec::new(), 0);
    let mut inputs = 0;
    for_each(&chunks, |_, _| inputs += 1);
    for_each(&chunks, |number, input| {
        if number == inputs / 2 {
            (state, half) = (source.checkpoint(), number);
        }
        source.feed(input, &mut lines);
    });
    let mut taken = 0;
    let mut check = |bytes: &[u8]| {
        let mut engine = engine(&begin, taken % 2 == 0);
        if engine.restore(bytes, RestoredCounts::Recorded).is_ok() {
            taken += 1;
            // Some inputs of every kind, the last ones among them.
            for_each(&chunks, |number, input| {
                if number >= half && (number % 5 == taken % 5 || number + 30 > inputs) {
                    engine.feed(input, &mut EventTexts::default());
                }
            });
            drop(engine.checkpoint());
        }
    };
    assert!(state.len() > 1000, "{}", state.len());
    for at in 0..state.len() {
        let mut bytes = state.clone();
        for change in [1 << (at % 8), 0x1f, 0x80] {
            bytes[at] = state[at] ^ change;
            check(&bytes);
        }
        if at % 16 == 0 {
            check(&state[..at]);
        }
    }
    assert!(taken > 100, "nearly all are refused: {taken}");
}
