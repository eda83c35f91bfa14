//! Packets inside the tunnel: views, and joining several.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_tunnel::testing::fuzzing::ip_packet(data));
