//! ipc-trace: the program.
fn main() {}
