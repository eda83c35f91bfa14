//! kakuremichi-tunnel.
