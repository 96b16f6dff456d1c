//! ipc-trace: the program. The code is in the library.

fn main() -> std::process::ExitCode {
    ipc_trace::main()
}
