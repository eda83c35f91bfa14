//! The flows that an agent serves now, and what they carry.

use std::sync::Arc;

use kakuremichi_core::id::ServiceId;
use kakuremichi_proto::report::Amount;
use slab::Slab;
use tokio::sync::mpsc;

use crate::engine::Meter;

/// All flows that were accepted and have not ended. The engine bounds them.
#[derive(Debug)]
pub(super) struct Flows {
    open: Slab<Flow>,
    ended: mpsc::UnboundedSender<usize>,
}

#[derive(Debug)]
struct Flow {
    service: ServiceId,
    meter: Arc<Meter>,
    /// What was counted of it before.
    counted: Amount,
}

/// Held by whoever uses a flow: when it is dropped, the flow has ended.
#[derive(Debug)]
pub(super) struct Ticket {
    key: usize,
    meter: Arc<Meter>,
    /// Not bounded by itself: each flow sends one message.
    ended: mpsc::UnboundedSender<usize>,
}

impl Ticket {
    /// Counts the flow's bytes.
    pub(super) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nobody listens when the agent is gone.
        let _ = self.ended.send(self.key);
    }
}

impl Flows {
    pub(super) const fn new(ended: mpsc::UnboundedSender<usize>) -> Self {
        Self {
            open: Slab::new(),
            ended,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// A flow for `service` begins.
    pub(super) fn begin(&mut self, service: ServiceId) -> Ticket {
        let meter = Arc::<Meter>::default();
        let key = self.open.insert(Flow {
            service,
            meter: Arc::clone(&meter),
            counted: Amount::default(),
        });
        Ticket {
            key,
            meter,
            ended: self.ended.clone(),
        }
    }

    /// A flow has ended; returns what of it was not counted.
    pub(super) fn end(&mut self, key: usize) -> Option<(ServiceId, Amount)> {
        let mut flow = self.open.try_remove(key)?;
        let amount = flow.uncounted();
        Some((flow.service, amount))
    }

    /// What the flows carried since the last call.
    pub(super) fn count(&mut self) -> impl Iterator<Item = (ServiceId, Amount)> {
        self.open
            .iter_mut()
            .map(|(_, flow)| (flow.service, flow.uncounted()))
            .filter(|(_, amount)| *amount != Amount::default())
    }
}

impl Flow {
    fn uncounted(&mut self) -> Amount {
        let total = Amount {
            connections: 1,
            requests: 0,
            received: self.meter.received(),
            sent: self.meter.sent(),
        };
        let before = std::mem::replace(&mut self.counted, total);
        Amount {
            connections: total.connections - before.connections,
            requests: 0,
            received: total.received - before.received,
            sent: total.sent - before.sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_is_counted_once_however_often_it_is_asked_about() {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut flows = Flows::new(ended);
        let service = ServiceId::from_bytes([1; 16]);
        let ticket = flows.begin(service);
        let counted: Vec<_> = flows.count().collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].1.connections, 1);
        assert_eq!(flows.count().count(), 0);
        drop(ticket);
        let key = ends.try_recv().unwrap();
        assert_eq!(flows.end(key), Some((service, Amount::default())));
        assert_eq!((flows.end(key), flows.len()), (None, 0));
    }
}
