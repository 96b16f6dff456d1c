//! ipc-trace: the program. All is in the library.

fn main() -> std::process::ExitCode {
    ipc_trace::main()
}
