//! The queue of output. If there is no room, calls are dropped first; other lines only when there are no calls, and
//! findings last.
//!
//! Invariant: the queue is bounded. Each line is written, or counted as lost in the interval between two status
//! updates in which it belongs.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{Event, SinkAccounting};

/// The largest number of bytes in the queue.
pub(super) const MAX_QUEUED_BYTES: usize = 128 << 20;

/// The order in which lines are dropped if there is no room: the first is dropped first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LineClass {
    /// A call
    Call,
    /// A namespace, an object, a container, a loss
    Other,
    /// A finding
    Finding,
}

/// All classes.
const CLASSES: [LineClass; 3] = [LineClass::Call, LineClass::Other, LineClass::Finding];

impl LineClass {
    /// The class of an event.
    #[inline]
    pub(super) const fn of_event(event: &Event<'_>) -> Self {
        match event {
            Event::Ipc(_) => Self::Call,
            Event::Finding(_) => Self::Finding,
            Event::Start(_)
            | Event::Namespace(_)
            | Event::Object(_)
            | Event::Container(_)
            | Event::Loss(_)
            | Event::Resync(_)
            | Event::Status(_)
            | Event::End(_)
            | Event::Report(_) => Self::Other,
        }
    }
}

/// Consecutive lines of one class.
#[derive(Debug)]
struct Lines {
    order: u64,
    stretch: u64,
    bytes: Vec<u8>,
    lines: u64,
    calls: u64,
}

/// The next item to write.
#[derive(Debug)]
pub(super) enum Next<S> {
    /// Bytes, and how many calls they contain
    Bytes(Vec<u8>, u64),
    /// A status update, and the losses of the interval before it: calls, and other lines
    Standing(S, (u64, u64)),
}

/// The queue; `S`: a status update, which the writer completes.
#[derive(Debug)]
pub(super) struct Queue<S> {
    waiting: [VecDeque<Lines>; 3],
    standings: VecDeque<(u64, u64, S)>,
    room: usize,
    used: usize,
    order: u64,
    stretch: u64,
    /// Losses by interval: calls, and other lines
    lost: BTreeMap<u64, (u64, u64)>,
}

impl<S> Queue<S> {
    pub(super) const fn new(room: usize) -> Self {
        Self {
            waiting: [const { VecDeque::new() }; 3],
            standings: VecDeque::new(),
            room,
            used: 0,
            order: 0,
            stretch: 0,
            lost: BTreeMap::new(),
        }
    }

    /// Adds lines of one class; `calls`: how many of them count as calls.
    pub(super) fn push(&mut self, class: LineClass, bytes: Vec<u8>, (lines, calls): (u64, u64)) {
        while self.used + bytes.len() > self.room {
            // Lower classes make room; within a class, the older lines stay.
            let less = CLASSES.into_iter().take_while(|one| *one < class);
            let Some(gone) = less.filter_map(|one| self.queue(one).pop_back()).next() else {
                self.count_lost(self.stretch, lines, calls);
                return;
            };
            self.used -= gone.bytes.len();
            self.count_lost(gone.stretch, gone.lines, gone.calls);
        }
        self.used += bytes.len();
        let (order, stretch) = (self.order, self.stretch);
        self.order += 1;
        self.queue(class).push_back(Lines { order, stretch, bytes, lines, calls });
    }

    /// Whether half of the room is used.
    pub(super) const fn is_half_full(&self) -> bool {
        self.used >= self.room / 2
    }

    /// Adds a status update. It always has room: there is one per second.
    pub(super) fn push_standing(&mut self, standing: S) {
        self.standings.push_back((self.order, self.stretch, standing));
        self.order += 1;
        self.stretch += 1;
    }

    /// Removes the next item.
    pub(super) fn pop(&mut self) -> Option<Next<S>> {
        let fronts = self.waiting.iter().map(|all| all.front().map(|lines| lines.order));
        let standing = self.standings.front().map(|one| one.0);
        let at = fronts.enumerate().filter_map(|(at, order)| Some((order?, at))).min();
        match (at, standing) {
            (Some((order, at)), standing) if standing.is_none_or(|standing| order < standing) => {
                let lines = self.waiting.get_mut(at)?.pop_front()?;
                self.used -= lines.bytes.len();
                Some(Next::Bytes(lines.bytes, lines.calls))
            }
            _ => {
                let (_, stretch, standing) = self.standings.pop_front()?;
                Some(Next::Standing(standing, self.lost.remove(&stretch).unwrap_or_default()))
            }
        }
    }

    #[expect(clippy::indexing_slicing, reason = "there are as many as classes")]
    fn queue(&mut self, class: LineClass) -> &mut VecDeque<Lines> {
        &mut self.waiting[class as usize]
    }

    fn count_lost(&mut self, stretch: u64, lines: u64, calls: u64) {
        let lost = self.lost.entry(stretch).or_default();
        lost.0 += calls;
        lost.1 += lines - calls;
    }
}

/// The losses counted by a sink.
impl SinkAccounting {
    pub(super) fn count_lost(&mut self, (calls, others): (u64, u64)) {
        self.lost += calls;
        self.lost_other += others;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(queue: &mut Queue<u32>) -> (String, Vec<(u64, u64)>) {
        let (mut text, mut lost) = (String::new(), Vec::new());
        while let Some(next) = queue.pop() {
            match next {
                Next::Bytes(bytes, _) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                Next::Standing(number, gone) => {
                    text.push_str(&format!("[{number}]"));
                    lost.push(gone);
                }
            }
        }
        (text, lost)
    }

    #[test]
    fn full_queue_drops_calls_first_and_findings_last() {
        let mut queue = Queue::new(4);
        let push = |queue: &mut Queue<u32>, class, text: &str| {
            queue.push(class, text.into(), (1, u64::from(class == LineClass::Call)));
        };
        push(&mut queue, LineClass::Call, "aa");
        push(&mut queue, LineClass::Other, "oo");
        // No room: the call is lost, as there is no lower class.
        push(&mut queue, LineClass::Call, "bb");
        queue.push_standing(1);
        push(&mut queue, LineClass::Finding, "ff");
        // First the call is dropped, and now the other line.
        push(&mut queue, LineClass::Finding, "gg");
        push(&mut queue, LineClass::Other, "pp");
        push(&mut queue, LineClass::Finding, "hh");
        queue.push_standing(2);
        assert_eq!(take(&mut queue), ("[1]ffgg[2]".to_owned(), vec![(2, 1), (0, 2)]));
    }

    proptest! {
        #[test]
        fn every_line_is_written_or_counted_lost(
            steps in prop::collection::vec((0usize..5, 1usize..40), 0..200),
            room in 1usize..200,
        ) {
            let mut queue: Queue<()> = Queue::new(room);
            let (mut pushed, mut calls, mut written, mut lost, mut others) = (0, 0, 0, 0, 0);
            let mut take = |next| match next {
                Next::Bytes(_, count) => written += count,
                Next::Standing((), gone) => { lost += gone.0; others += gone.1; }
            };
            for (what, len) in steps {
                match CLASSES.get(what) {
                    Some(class) => {
                        let is_call = u64::from(*class == LineClass::Call);
                        queue.push(*class, vec![0; len], (1, is_call));
                        pushed += 1;
                        calls += is_call;
                    }
                    None if what == 3 => queue.push_standing(()),
                    None => { queue.pop().map(&mut take); }
                }
                prop_assert!(queue.used <= room);
            }
            queue.push_standing(());
            while let Some(next) = queue.pop() {
                take(next);
            }
            prop_assert_eq!(written + lost, calls);
            prop_assert!(others <= pushed - calls);
            prop_assert_eq!(queue.used, 0);
        }
    }
}
