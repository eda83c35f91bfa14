//! Memory for the buffers of flows.
