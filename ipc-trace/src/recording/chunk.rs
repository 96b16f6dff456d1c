//! Inputs in memory, one behind the other, as they go from thread to thread: no allocation for each.
//!
//! An input is a word with its kind and its length, and as many words. Calls are records as the engine borrows them;
//! rare inputs are their CBOR (`entries`).

use zerocopy::IntoBytes as _;

use super::{Damage, entries};
use crate::input::{Call, Input, append_words, batch::CallBatch};

/// The kind of an input. The numbers are those of recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum EntryKind {
    /// A call that returned: its record and payload
    Call = 0,
    /// A call that changed objects, and isn't shown: the same
    Change = 1,
    /// A batch of calls: its record
    Batch = 2,
    /// The rings were read: `now` and `watermark`
    Read = 3,
    /// Any other: the number of bytes, and the bytes
    Rare = 4,
}

impl EntryKind {
    const ALL: [Self; 5] = [Self::Call, Self::Change, Self::Batch, Self::Read, Self::Rare];

    /// The kind of a number.
    pub(super) fn from_number(number: u64) -> Result<Self, Damage> {
        let kind = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number));
        kind.copied().ok_or(Damage::Content("an input of an unknown kind"))
    }
}

/// Inputs, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    words: Vec<u64>,
    inputs: u64,
}

/// How far to shift the length.
const LENGTH_SHIFT: u32 = 8;

impl Chunk {
    /// How many bytes it takes.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.words.as_bytes().len()
    }

    /// Removes all inputs.
    pub(crate) fn clear(&mut self) {
        self.words.clear();
        self.inputs = 0;
    }

    /// How many inputs it has.
    #[must_use]
    pub(crate) fn inputs(&self) -> u64 {
        self.inputs
    }

    /// Appends an input.
    ///
    /// # Errors
    /// It can't be encoded: why.
    #[inline]
    pub(crate) fn push(&mut self, input: &Input<'_>) -> Result<(), Damage> {
        match input {
            Input::Call(call) => self.push_call(EntryKind::Call, call),
            Input::Change(call) => self.push_call(EntryKind::Change, call),
            Input::Batch(batch) => self.push_parts(EntryKind::Batch, &batch.parts()),
            Input::Read { now, watermark } => {
                self.push_parts(EntryKind::Read, &[[*now, *watermark].as_bytes()]);
            }
            Input::Context(_)
            | Input::Exit(_)
            | Input::Namespace(_)
            | Input::Move(..)
            | Input::Queue(_)
            | Input::Cgroup(_)
            | Input::Access(_)
            | Input::CoalescedAccesses(_)
            | Input::Cgroups(_)
            | Input::InitialSnapshot { .. }
            | Input::Opened(..)
            | Input::Tick(_)
            | Input::NamespaceList(_)
            | Input::Counted(_)
            | Input::Snapshot(..)
            | Input::RemovedScan(..)
            | Input::Named(_)
            | Input::Answer(_)
            | Input::Ending(_)
            | Input::FinalSnapshot(..)
            | Input::Finish(_) => {
                let mut bytes = Vec::new();
                entries::encode(input, &mut bytes)?;
                self.push_rare(&bytes);
            }
        }
        Ok(())
    }

    #[inline]
    fn push_call(&mut self, kind: EntryKind, call: &Call<'_>) {
        self.push_parts(kind, &[call.record.as_bytes(), call.part.as_bytes()]);
    }

    /// Appends a rare input's bytes.
    pub(super) fn push_rare(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.push_parts(EntryKind::Rare, &[len.as_bytes(), bytes]);
    }

    /// Appends an entry of these bytes.
    #[inline]
    pub(super) fn push_parts(&mut self, kind: EntryKind, parts: &[&[u8]]) {
        let at = self.words.len();
        self.words.push(0);
        append_words(parts, &mut self.words);
        let len = (self.words.len() - at - 1) as u64;
        if let Some(head) = self.words.get_mut(at) {
            *head = kind as u64 | len << LENGTH_SHIFT;
        }
        self.inputs += 1;
    }

    /// The entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = (EntryKind, &[u8])> {
        let mut rest = &self.words[..];
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_first()?;
            let (words, behind) = behind.split_at_checked((head >> LENGTH_SHIFT) as usize)?;
            rest = behind;
            let kind = EntryKind::from_number(head & ((1 << LENGTH_SHIFT) - 1)).ok()?;
            Some((kind, words.as_bytes()))
        })
    }

    /// Calls `each` with each input, but for the first `skipped`.
    ///
    /// # Errors
    /// An input is malformed; those before it were passed on, and those behind it are not.
    pub(crate) fn for_each(
        &self,
        skipped: usize,
        mut each: impl FnMut(&Input<'_>),
    ) -> Result<(), Damage> {
        let malformed = |_| Damage::Content("a malformed call");
        for (kind, bytes) in self.entries().skip(skipped) {
            match kind {
                EntryKind::Call => each(&Input::Call(Call::decode(bytes).map_err(malformed)?)),
                EntryKind::Change => each(&Input::Change(Call::decode(bytes).map_err(malformed)?)),
                EntryKind::Batch => each(&Input::Batch(CallBatch::new(bytes).map_err(malformed)?)),
                EntryKind::Read => {
                    let [now, watermark] = read_times(bytes)?;
                    each(&Input::Read { now, watermark });
                }
                EntryKind::Rare => entries::decode(rare_bytes(bytes)?, &mut each)?,
            }
        }
        Ok(())
    }
}

/// The times of [`EntryKind::Read`].
pub(super) fn read_times(bytes: &[u8]) -> Result<[u64; 2], Damage> {
    zerocopy::FromBytes::read_from_prefix(bytes)
        .map(|(times, _)| times)
        .map_err(|_| Damage::Content("a malformed time"))
}

/// The bytes of [`EntryKind::Rare`].
pub(super) fn rare_bytes(bytes: &[u8]) -> Result<&[u8], Damage> {
    let (len, rest) = bytes.split_first_chunk().ok_or(Damage::Content("a malformed input"))?;
    let len = usize::try_from(u64::from_ne_bytes(*len)).ok();
    len.and_then(|len| rest.get(..len)).ok_or(Damage::Content("a malformed input"))
}
