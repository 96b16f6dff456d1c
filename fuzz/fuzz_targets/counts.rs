#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipc_trace_fuzz::counts(data));
