//! kakuremichi-proto.
