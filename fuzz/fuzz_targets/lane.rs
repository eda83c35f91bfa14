//! The connections of a TLS stream lane: hello, answer and records.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_proto::testing::fuzzing::lane(data));
