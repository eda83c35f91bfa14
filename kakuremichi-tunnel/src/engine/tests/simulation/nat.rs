//! A translator of addresses between a host and the rest.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// A mapping that carried nothing outward for so long is forgotten (RFC 4787 asks for two minutes; many
/// keep them for half a minute).
const IDLE: Duration = Duration::from_secs(30);

/// How it maps (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One port for all destinations; everybody may answer.
    EndpointIndependent,
    /// One port for each destination, and only that one may answer.
    AddressAndPortDependent,
}

/// A translator with one host behind it.
#[derive(Debug)]
pub(super) struct Nat {
    kind: Kind,
    public: IpAddr,
    next_port: u16,
    mappings: Vec<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    port: u16,
    to: SocketAddr,
    used: Instant,
}

impl Nat {
    pub(super) const fn new(kind: Kind, public: IpAddr) -> Self {
        Self {
            kind,
            public,
            next_port: 20_000,
            mappings: Vec::new(),
        }
    }

    pub(super) const fn public(&self) -> IpAddr {
        self.public
    }

    /// It has another address, and knows nothing.
    pub(super) fn move_to(&mut self, public: IpAddr) {
        self.public = public;
        self.rebind();
    }

    /// It forgets everything, and will map to other ports.
    pub(super) fn rebind(&mut self) {
        self.mappings.clear();
        self.next_port += 100;
    }

    /// From where a datagram to `to` seems to come.
    pub(super) fn outward(&mut self, to: SocketAddr, now: Instant) -> SocketAddr {
        self.mappings
            .retain(|mapping| now.saturating_duration_since(mapping.used) < IDLE);
        let kind = self.kind;
        let known = self
            .mappings
            .iter_mut()
            .find(|mapping| kind == Kind::EndpointIndependent || mapping.to == to);
        let port = match known {
            Some(mapping) => {
                mapping.used = now;
                mapping.port
            }
            None => {
                let port = self.next_port;
                self.next_port += 1;
                self.mappings.push(Mapping { port, to, used: now });
                port
            }
        };
        SocketAddr::new(self.public, port)
    }

    /// Whether a datagram from `from` to one of its ports comes through.
    pub(super) fn inward(&self, port: u16, from: SocketAddr, now: Instant) -> bool {
        self.mappings.iter().any(|mapping| {
            mapping.port == port
                && now.saturating_duration_since(mapping.used) < IDLE
                && (self.kind == Kind::EndpointIndependent || mapping.to == from)
        })
    }
}
