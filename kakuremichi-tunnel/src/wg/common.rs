//! What the devices of one node have in common.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{
    DeviceConfig, OwnKeys, Owners,
    cipher::{HANDSHAKE_ROOM, Identity},
    limiter::{Limiter, Verdict},
};

/// The same keys, one limiter and one table of owners, for all shards.
///
/// Handshakes are counted together: a sender that uses many ports reaches every shard, and may send no
/// more for it. Its cookie is good at all of them. The limiter's lock is taken for initiations
/// whose sender knows our key, and for no other datagram.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) keys: Arc<OwnKeys>,
    pub(super) owners: Arc<Owners>,
    limiter: Mutex<Limiter>,
}

impl Common {
    pub(super) fn new(config: &DeviceConfig, shards: u8, now: Instant) -> Self {
        Self::of(Identity::new(&config.private_key), config, shards, now)
    }

    pub(super) fn of(identity: Identity, config: &DeviceConfig, shards: u8, now: Instant) -> Self {
        Self {
            keys: Arc::new(OwnKeys::new(identity)),
            owners: Arc::new(Owners::new(shards)),
            limiter: Mutex::new(Limiter::new(&config.handshakes, config.seed, now)),
        }
    }

    /// Judges an initiation whose sender knows this key of ours.
    pub(super) fn judge(
        &self,
        identity: &Identity,
        from: IpAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut [u8; HANDSHAKE_ROOM],
    ) -> Verdict {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.judge(identity, from, datagram, now, out)
    }
}
