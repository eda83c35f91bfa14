//! Two WireGuard devices, and whatever can happen to datagrams between them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kakuremichi_tunnel::testing::fuzzing::wg_datagram(data));
