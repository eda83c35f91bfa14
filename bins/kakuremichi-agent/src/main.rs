//! The `kakuremichi-agent` binary.

fn main() {}
