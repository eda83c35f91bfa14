//! The head of a flow: preface, reply and lane feed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_proto::testing::fuzzing::proxy_header(data));
