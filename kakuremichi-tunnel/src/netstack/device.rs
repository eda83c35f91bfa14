//! The stack's side of smoltcp: a device that holds one packet in and sends straight out.

use std::num::NonZeroUsize;

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use super::{
    PacketSink,
    rim::{LONGEST, Rim},
    track::Track,
};
use crate::peer::PeerId;

/// One flow's way in and out, for one call of smoltcp.
pub(super) struct Port<'a, S: ?Sized> {
    pub(super) input: Option<&'a [u8]>,
    pub(super) rim: &'a mut Rim,
    pub(super) track: &'a mut Track,
    pub(super) peer: PeerId,
    pub(super) sink: &'a mut S,
}

pub(super) struct Input<'a>(&'a [u8]);

pub(super) struct Output<'t, S: ?Sized> {
    rim: &'t mut Rim,
    track: &'t mut Track,
    peer: PeerId,
    sink: &'t mut S,
}

impl<'a, S: PacketSink + ?Sized> Device for Port<'a, S> {
    type RxToken<'t>
        = Input<'a>
    where
        Self: 't;
    type TxToken<'t>
        = Output<'t, S>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Input<'a>, Output<'_, S>)> {
        let input = self.input.take()?;
        Some((Input(input), self.output()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Output<'_, S>> {
        self.sink.ready().then(|| self.output())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // Not the tunnel's MTU: smoltcp drops an IPv6 packet that is longer than this even where
        // segmentation is offloaded. The rim puts the real MSS into SYNs, and cuts by it.
        capabilities.max_transmission_unit = LONGEST;
        // The AEAD has verified what comes in, and the rim fills in what goes out.
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.rim.longest_segment(true));
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(self.rim.longest_segment(false));
        capabilities
    }
}

impl<S: ?Sized> Port<'_, S> {
    fn output(&mut self) -> Output<'_, S> {
        Output {
            rim: self.rim,
            track: self.track,
            peer: self.peer,
            sink: self.sink,
        }
    }
}

impl RxToken for Input<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<S: PacketSink + ?Sized> TxToken for Output<'_, S> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let result = f(self.rim.room(length));
        self.rim.segment(length, self.track, self.peer, self.sink);
        result
    }
}
