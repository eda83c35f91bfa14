//! Frames, plans, tokens and stored usage, from any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_proto::testing::fuzzing::frame(data));
