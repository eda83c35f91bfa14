//! What leaves the stack, and in which order.

/// How many bytes one [`Stack::transmit`](super::Stack::transmit) sends at most, give or take one
/// large segment: new packets are looked at in between.
pub const TURN_BYTES: usize = 256 * 1024;

/// How many bytes one flow sends before the next one has its turn, give or take one large segment.
pub const QUANTUM: usize = 64 * 1024;
