//! WireGuard for many peers as a state machine.
