//! Two stacks, and whatever can happen to packets between them, or be made up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_tunnel::testing::fuzzing::netstack(data));
