//! Functions beside those of the system calls that backend `function` hooks: on ways to objects that are no
//! operations, and where objects are made.

use super::names::equal;
use crate::op::Op;

/// What a child of the tracer does in the self-test, so that the functions of [`AUX_PROBES`] are called, in this
/// order; without harm, and visible to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stimulus {
    /// Opens a directory
    Open,
    /// Receives a descriptor, by a socket
    Receive,
    /// Reads a table of `/proc/sysvipc`
    ReadTable,
    /// Writes nothing to a setting
    WriteSetting,
    /// Prepares an mqueue file system, and mounts it nowhere
    Mount,
    /// Makes a set of semaphores
    MakeSemaphores,
    /// Makes a System V message queue
    MakeMessages,
    /// Makes a queue
    MakeQueue,
    /// Reads its file
    ReadQueue,
    /// Polls it
    PollQueue,
    /// Unlinks it
    UnlinkQueue,
    /// Makes a segment
    MakeSegment,
    /// Has it attached, and touches it
    TouchSegment,
    /// Removes and detaches it
    DestroySegment,
}

impl Stimulus {
    /// All, in their order.
    pub const ALL: [Self; 14] = [
        Self::Open,
        Self::Receive,
        Self::ReadTable,
        Self::WriteSetting,
        Self::Mount,
        Self::MakeSemaphores,
        Self::MakeMessages,
        Self::MakeQueue,
        Self::ReadQueue,
        Self::PollQueue,
        Self::UnlinkQueue,
        Self::MakeSegment,
        Self::TouchSegment,
        Self::DestroySegment,
    ];
}

/// A function on a way to objects that is no operation, or one that makes objects.
#[derive(Clone, Copy, Debug)]
pub struct AuxProbe {
    /// Its own program, by fentry or fexit
    pub program: &'static str,
    /// The function; the first that exists is the one
    pub functions: &'static [&'static str],
    /// Whether the program is at its return
    pub at_return: bool,
    /// The operation of which it tells whether a call made the object that it gave
    pub births_of: Option<Op>,
    /// Whether it is called so often that a program by fprobe, which all could share, would be dear
    pub often: bool,
    /// What is not seen without it
    pub gives: &'static str,
    /// What calls it, in the self-test
    pub stimulus: Stimulus,
}

const fn reached(
    program: &'static str,
    functions: &'static [&'static str],
    gives: &'static str,
    stimulus: Stimulus,
) -> AuxProbe {
    AuxProbe {
        program,
        functions,
        at_return: false,
        births_of: None,
        often: false,
        gives,
        stimulus,
    }
}

impl AuxProbe {
    const fn often(self) -> Self {
        Self { often: true, ..self }
    }

    const fn at_return(self) -> Self {
        Self { at_return: true, ..self }
    }
}

const fn births(
    program: &'static str,
    functions: &'static [&'static str],
    op: Op,
    gives: &'static str,
    stimulus: Stimulus,
) -> AuxProbe {
    AuxProbe { births_of: Some(op), ..reached(program, functions, gives, stimulus).at_return() }
}

/// Those that backend `function` watches, beside the functions of the system calls: on ways to objects, and
/// where objects are made. Each is called by way of a table of functions, or is another file's, so that no
/// caller has it inlined (5.10 to 7.3).
#[rustfmt::skip]
pub const AUX_PROBES: [AuxProbe; 14] = [
    reached("file_opened", &["security_file_open"], "queues and segments that are opened by paths", Stimulus::Open)
        .often(),
    reached("file_received", &["security_file_receive"], "descriptors that are received", Stimulus::Receive),
    reached("table_read", &["sysvipc_proc_start"], "reads of /proc/sysvipc", Stimulus::ReadTable),
    reached("queue_read", &["mqueue_read_file"], "reads of queues' files", Stimulus::ReadQueue),
    reached("queue_polled", &["mqueue_poll_file"], "queues that are polled", Stimulus::PollQueue),
    reached("queue_unlinked", &["mqueue_unlink"], "queues that are unlinked by their paths", Stimulus::UnlinkQueue),
    reached("segment_touched", &["shm_fault"], "touches of mapped segments", Stimulus::TouchSegment).often(),
    reached("segment_destroyed", &["shm_destroy"], "segments destroyed from elsewhere", Stimulus::DestroySegment),
    reached("setting_written", &["proc_sys_write"], "settings that are written", Stimulus::WriteSetting),
    reached(
        "queues_mounted",
        &["__x64_sys_fsmount", "__arm64_sys_fsmount"],
        "mqueue file systems that are mounted",
        Stimulus::Mount,
    )
    .at_return(),
    // `ipc_ops.getnew`, which `ipcget` calls (ipc/util.c), and what mq_open has `vfs_mkobj` call.
    births("segment_made", &["newseg"], Op::Shmget, "which calls of shmget made their segments", Stimulus::MakeSegment),
    births("set_made", &["newary"], Op::Semget, "which calls of semget made their sets", Stimulus::MakeSemaphores),
    births("messages_made", &["newque"], Op::Msgget, "which calls of msgget made their queues", Stimulus::MakeMessages),
    births("queue_made", &["mqueue_create_attr"], Op::MqOpen, "which calls of mq_open made their queues", Stimulus::MakeQueue),
];

/// The row of [`AUX_PROBES`] that a program belongs to: programs name their rows so, and one that is not in the
/// table does not compile.
///
/// # Panics
/// No row names it.
pub const fn probe_of(program: &str) -> usize {
    let mut i = 0;
    while i < AUX_PROBES.len() {
        if equal(AUX_PROBES[i].program, program) {
            return i;
        }
        i += 1;
    }
    panic!("no row of the table of functions of auxiliary probes names this program");
}

/// The functions in [`AUX_PROBES`].
pub fn all_aux_probes() -> impl Iterator<Item = &'static str> {
    AUX_PROBES.iter().flat_map(|one| one.functions).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_of_its_row() {
        for (row, way) in AUX_PROBES.iter().enumerate() {
            assert_eq!(probe_of(way.program), row);
        }
    }

    #[test]
    fn stimuli_are_numbered_in_their_order() {
        for (at, stimulus) in Stimulus::ALL.into_iter().enumerate() {
            assert_eq!(stimulus as usize, at);
        }
    }
}
