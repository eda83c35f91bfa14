//! What the side-by-side programs share: processes and ports, a REST client, and kakuremichi itself
//! set up from its release binaries. The figures, and how to measure them again, are in README.md.

pub mod deployment;
pub mod machine;
pub mod rest;
