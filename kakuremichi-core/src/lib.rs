//! kakuremichi-core.
