//! See the library, which the live tests share.

fn main() -> std::process::ExitCode {
    xtask::main()
}
