//! The `kakuremichi-gateway` binary.

fn main() {}
