//! The `kakuremichi` binary.

fn main() {}
