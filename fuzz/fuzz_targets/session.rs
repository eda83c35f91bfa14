//! Both sides of the control link and the network between them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_proto::testing::fuzzing::session(data));
