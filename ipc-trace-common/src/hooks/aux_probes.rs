//! Auxiliary probes: the kernel functions that backend `function` hooks beside those of the system calls. They are on
//! access paths to objects without an IPC call, and where objects are created.

use super::names::equal;
use crate::op::Op;

/// What a child of the tracer does in the self-test, in this order, so that the functions of [`AUX_PROBES`] are
/// called. It harms nothing, and no other process can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stimulus {
    /// Opens a directory
    Open,
    /// Receives a descriptor over a socket
    Receive,
    /// Reads a table of `/proc/sysvipc`
    ReadTable,
    /// Writes nothing to a setting
    WriteSetting,
    /// Prepares an mqueue file system without mounting it
    Mount,
    /// Creates a set of semaphores
    MakeSemaphores,
    /// Creates a System V message queue
    MakeMessages,
    /// Creates a POSIX queue
    MakeQueue,
    /// Reads the queue's file
    ReadQueue,
    /// Polls the queue
    PollQueue,
    /// Unlinks the queue
    UnlinkQueue,
    /// Creates a segment
    MakeSegment,
    /// Attaches and touches the segment
    TouchSegment,
    /// Removes and detaches the segment
    DestroySegment,
}

impl Stimulus {
    /// All stimuli, in order.
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

/// A hooked function on an access path to objects without an IPC call, or one that creates objects.
#[derive(Clone, Copy, Debug)]
pub struct AuxProbe {
    /// Its own program, by fentry or fexit
    pub program: &'static str,
    /// The function; the first one that exists is used
    pub functions: &'static [&'static str],
    /// Whether the program runs at the function's return
    pub at_return: bool,
    /// The operation for which it reports whether a call created the object that it returned
    pub creations_of: Option<Op>,
    /// Whether it is called so often that a shared fprobe program would be expensive
    pub often: bool,
    /// What is not seen without it
    pub gives: &'static str,
    /// The self-test's stimulus that calls it
    pub stimulus: Stimulus,
}

const fn access_probe(
    program: &'static str,
    functions: &'static [&'static str],
    gives: &'static str,
    stimulus: Stimulus,
) -> AuxProbe {
    AuxProbe {
        program,
        functions,
        at_return: false,
        creations_of: None,
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

const fn creation_probe(
    program: &'static str,
    functions: &'static [&'static str],
    op: Op,
    gives: &'static str,
    stimulus: Stimulus,
) -> AuxProbe {
    AuxProbe {
        creations_of: Some(op),
        ..access_probe(program, functions, gives, stimulus).at_return()
    }
}

/// The auxiliary probes of backend `function`: functions on access paths to objects, and functions that create
/// objects. Each is called through a table of functions, or from another file, so no caller inlines it (5.10 to 7.3).
#[rustfmt::skip]
pub const AUX_PROBES: [AuxProbe; 14] = [
    access_probe("file_opened", &["security_file_open"], "queues and segments that are opened by paths", Stimulus::Open)
        .often(),
    access_probe("file_received", &["security_file_receive"], "descriptors that are received", Stimulus::Receive),
    access_probe("table_read", &["sysvipc_proc_start"], "reads of /proc/sysvipc", Stimulus::ReadTable),
    access_probe("queue_read", &["mqueue_read_file"], "reads of queues' files", Stimulus::ReadQueue),
    access_probe("queue_polled", &["mqueue_poll_file"], "queues that are polled", Stimulus::PollQueue),
    access_probe("queue_unlinked", &["mqueue_unlink"],
        "queues that are unlinked by their paths", Stimulus::UnlinkQueue),
    access_probe("segment_touched", &["shm_fault"], "touches of mapped segments", Stimulus::TouchSegment).often(),
    access_probe("segment_destroyed", &["shm_destroy"], "segments destroyed from elsewhere", Stimulus::DestroySegment),
    access_probe("setting_written", &["proc_sys_write"], "settings that are written", Stimulus::WriteSetting),
    access_probe(
        "queues_mounted",
        &["__x64_sys_fsmount", "__arm64_sys_fsmount"],
        "mqueue file systems that are mounted",
        Stimulus::Mount,
    )
    .at_return(),
    // `ipc_ops.getnew`, which `ipcget` calls (ipc/util.c), and the function that mq_open passes to `vfs_mkobj`.
    creation_probe("segment_made", &["newseg"], Op::Shmget,
        "which calls of shmget made their segments", Stimulus::MakeSegment),
    creation_probe("set_made", &["newary"], Op::Semget,
        "which calls of semget made their sets", Stimulus::MakeSemaphores),
    creation_probe("messages_made", &["newque"], Op::Msgget,
        "which calls of msgget made their queues", Stimulus::MakeMessages),
    creation_probe("queue_made", &["mqueue_create_attr"], Op::MqOpen,
        "which calls of mq_open made their queues", Stimulus::MakeQueue),
];

/// The row of [`AUX_PROBES`] with a program's name. Programs refer to their rows by it: a program that isn't in the
/// table doesn't compile.
///
/// # Panics
/// No row contains it.
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
    AUX_PROBES.iter().flat_map(|probe| probe.functions).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_maps_to_its_row() {
        for (row, probe) in AUX_PROBES.iter().enumerate() {
            assert_eq!(probe_of(probe.program), row);
        }
    }

    #[test]
    fn stimuli_are_numbered_in_order() {
        for (at, stimulus) in Stimulus::ALL.into_iter().enumerate() {
            assert_eq!(stimulus as usize, at);
        }
    }
}
