//! In this crate's own tests a device has boringtun or the model that stands for it.

use std::{net::IpAddr, time::Duration};

use kakuremichi_core::{key::WireGuardKey, secret::Secret};

pub(super) use super::tunn::{DATA_OVERHEAD, HANDSHAKE_ROOM, Message, Proof, Received, Refusal, Tick};
use super::{model, tunn};

#[derive(Debug)]
pub(super) enum Identity {
    Boringtun(tunn::Identity),
    Model(model::Identity),
}

#[derive(Debug)]
pub(super) enum Tunnel {
    Boringtun(Box<tunn::Tunnel>),
    Model(Box<model::Tunnel>),
}

/// Calls the same method of either.
macro_rules! either {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self {
            Self::Boringtun(inner) => inner.$method($($argument),*),
            Self::Model(inner) => inner.$method($($argument),*),
        }
    };
}

impl Identity {
    pub(super) fn new(private: &Secret<[u8; 32]>) -> Self {
        Self::Boringtun(tunn::Identity::new(private))
    }

    pub(super) fn model(private: &Secret<[u8; 32]>) -> Self {
        Self::Model(model::Identity::new(private))
    }

    pub(super) fn another(&self, private: &Secret<[u8; 32]>) -> Self {
        match self {
            Self::Boringtun(identity) => Self::Boringtun(identity.another(private)),
            Self::Model(_) => Self::model(private),
        }
    }

    pub(super) fn public_key(&self) -> WireGuardKey {
        either!(self, public_key())
    }

    pub(super) fn has_valid_mac1(&self, datagram: &[u8]) -> bool {
        either!(self, has_valid_mac1(datagram))
    }

    pub(super) fn verify_mac2(&self, from: IpAddr, datagram: &[u8], out: &mut [u8; HANDSHAKE_ROOM]) -> Proof {
        either!(self, verify_mac2(from, datagram, out))
    }

    pub(super) fn initiator(&self, datagram: &[u8]) -> Option<WireGuardKey> {
        either!(self, initiator(datagram))
    }
}

impl Tunnel {
    pub(super) fn new(
        identity: &Identity,
        peer: &WireGuardKey,
        preshared: Option<&Secret<[u8; 32]>>,
        index: u32,
    ) -> Self {
        match identity {
            Identity::Boringtun(identity) => {
                Self::Boringtun(Box::new(tunn::Tunnel::new(identity, peer, preshared, index)))
            }
            Identity::Model(identity) => {
                Self::Model(Box::new(model::Tunnel::new(identity, peer, preshared, index)))
            }
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        either!(self, is_ready())
    }

    pub(super) fn session_age(&self) -> Option<Duration> {
        either!(self, session_age())
    }

    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        either!(self, seal(packet, out))
    }

    pub(super) fn initiate(&mut self, again: bool, out: &mut [u8; HANDSHAKE_ROOM]) -> Option<usize> {
        either!(self, initiate(again, out))
    }

    pub(super) fn receive(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Received, Refusal> {
        either!(self, receive(datagram, out))
    }

    pub(super) fn tick(&mut self, out: &mut [u8; HANDSHAKE_ROOM]) -> Tick {
        either!(self, tick(out))
    }
}
