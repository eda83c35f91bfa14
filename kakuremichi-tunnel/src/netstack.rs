//! TCP flows as state machines.
