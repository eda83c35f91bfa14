//! Checked views of packets.
