//! Stacks joined in memory, under virtual time, over links that lose, repeat and reorder.

mod bounds;
mod bulk;
mod closing;
mod garbage;
mod handshake;
mod memory;
mod net;
mod offload;
mod path;
mod probes;
mod sessions;
