//! Which calls are wanted. Filters that are not in force cost nothing: their bits are constants.

use ipc_trace_common::{
    record::{CallRecord, NO_DURATION, QueueRef},
    state::filter,
};

use crate::{
    constants::constant,
    maps::{DESCENDANTS, FILTER_COMMS, FILTER_NAMESPACES, FILTER_PIDS, FILTER_UIDS},
};

/// Whether the call passes all filters. Of `call`, everything but the arguments counts.
#[inline(always)]
pub(crate) fn wanted(call: &CallRecord, op: u8, queue: Option<&QueueRef>) -> bool {
    let in_force = constant!(FILTERS);
    if in_force & filter::OP != 0 && constant!(OPS) & 1 << op == 0 {
        return false;
    }
    if in_force & filter::FAILED != 0 && !failed(call.ret) {
        return false;
    }
    if in_force & filter::MIN_DURATION != 0
        && (call.duration_ns == NO_DURATION || call.duration_ns < constant!(MIN_DURATION_NS))
    {
        return false;
    }
    if in_force & filter::PID != 0 && FILTER_PIDS.get_ptr(&call.pid).is_none() {
        return false;
    }
    if in_force & filter::UID != 0 && FILTER_UIDS.get_ptr(&call.euid).is_none() {
        return false;
    }
    if in_force & filter::COMM != 0 && FILTER_COMMS.get_ptr(&call.comm).is_none() {
        return false;
    }
    if in_force & filter::COMMAND != 0 && DESCENDANTS.get_ptr(&call.pid).is_none() {
        return false;
    }
    if in_force & filter::NAMESPACE != 0 && FILTER_NAMESPACES.get_ptr(&call.ns).is_none() {
        let Some(queue) = queue else {
            return false;
        };
        return FILTER_NAMESPACES.get_ptr(&queue.ns).is_some();
    }
    true
}

/// Whether a raw result is an error (`IS_ERR_VALUE`, include/linux/err.h).
#[inline(always)]
pub(crate) fn failed(ret: i64) -> bool {
    (-4095..0).contains(&ret)
}
