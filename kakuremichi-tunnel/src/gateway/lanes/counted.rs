//! What a spliced connection carries, as its service is charged for it.

use std::sync::Arc;

use crate::{engine::Meter, gateway::usage::ServiceUsage};

/// Charges a service for what moved on a flow while it is open.
pub(super) struct Counted<'a> {
    meter: Arc<Meter>,
    usage: &'a ServiceUsage,
    sent: u64,
    received: u64,
}

impl<'a> Counted<'a> {
    pub(super) const fn new(meter: Arc<Meter>, usage: &'a ServiceUsage) -> Self {
        Self {
            meter,
            usage,
            sent: 0,
            received: 0,
        }
    }

    /// Charges what moved since the last time; whether something did.
    pub(super) fn count(&mut self) -> bool {
        let (sent, received) = (self.meter.sent(), self.meter.received());
        let moved = sent != self.sent || received != self.received;
        self.usage.add_in(sent - self.sent);
        self.usage.add_out(received - self.received);
        (self.sent, self.received) = (sent, received);
        moved
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count();
    }
}
