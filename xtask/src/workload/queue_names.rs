//! `queue-names`: queues by names of all lengths and contents, by every route.

use anyhow::Result;
use serde_json::json;

use super::abi::is_error;
use super::calls::{CountingCaller, Route};
use super::mq::close;
use super::process;

/// Lengths about the limits of the kernel (`NAME_MAX` 255, `PATH_MAX` 4096 with the NUL), and of a tracer.
const LENGTHS: [usize; 10] = [1, 254, 255, 256, 262, 263, 264, 300, 4095, 4096];

const OTHERS: [&[u8]; 8] = [
    b"",
    b".",
    b"..",
    b"a/b",
    b"new\nline \x1b[2J\"\\",
    "snow\u{2603}\u{202e}".as_bytes(),
    b"\xff\xfe",
    b"half \xe2\x98",
];

pub(crate) fn run() -> Result<()> {
    let mut caller = CountingCaller::with_log("home")?;
    caller.unshare("names")?;
    let oflag = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    for route in Route::ALL {
        caller.by(route);
        let long = LENGTHS.map(|length| vec![b'n'; length]);
        for name in long.iter().map(Vec::as_slice).chain(OTHERS) {
            let fd = caller.mq_open(name, oflag, 0o600, Some((1, 8)));
            if !is_error(fd) {
                close(fd);
            }
            caller.mq_unlink(name);
        }
        caller.fault().mq_open(b"nowhere", oflag, 0o600, None);
        caller.fault().mq_unlink(b"nowhere");
    }
    let calls = caller.take_log();
    caller.report().fact("tid", process::tid()).fact("calls", json!(calls)).print()
}
