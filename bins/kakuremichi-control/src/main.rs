//! The `kakuremichi-control` binary.

fn main() {}
