//! The shard: one thread that runs the data path.
