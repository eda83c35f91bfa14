//! Streams through the tunnel.
