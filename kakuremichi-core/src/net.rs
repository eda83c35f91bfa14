//! Addresses, networks and ports. IPv6 text carries colons, so host and port are never one string
//! inside the program.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::name::{Hostname, NameError};

/// Why a text is not an address, a network or an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not an IP address.
    #[error("this is not an IP address")]
    Address,
    /// A prefix length that is missing, no number or too large.
    #[error("a network is an address and a prefix length of at most 32 (IPv4) or 128 (IPv6)")]
    PrefixLength,
    /// Bits behind the prefix length are set.
    #[error("the network has host bits set")]
    HostBits,
    /// A port that is missing, zero or no number.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// Neither an address nor a name.
    #[error("this is neither an address nor a host name: {0}")]
    Host(#[from] NameError),
}

/// A network: an address and a prefix length, host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// Makes a network.
    ///
    /// # Errors
    /// When `length` is too large for the family, or bits behind it are set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, NetError> {
        if length > width(address) {
            return Err(NetError::PrefixLength);
        }
        let network = Self { address, length };
        if bits(address) & !network.mask() != 0 {
            return Err(NetError::HostBits);
        }
        Ok(network)
    }

    /// The network of one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: width(address),
        }
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the network. Families never match each other: an IPv4-mapped IPv6
    /// address is an IPv6 address here, canonicalise it first.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && bits(address) & self.mask() == bits(self.address)
    }

    /// Whether the two networks have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    fn mask(&self) -> u128 {
        match width(self.address) - self.length {
            128 => 0,
            host_bits => u128::MAX << host_bits,
        }
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl FromStr for Cidr {
    type Err = NetError;

    /// Reads `10.0.0.0/8`, or a single address as the network of itself.
    fn from_str(text: &str) -> Result<Self, NetError> {
        match text.split_once('/') {
            Some((address, length)) => Self::new(
                address.parse().map_err(|_| NetError::Address)?,
                length.parse().map_err(|_| NetError::PrefixLength)?,
            ),
            None => text.parse().map(Self::host).map_err(|_| NetError::Address),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host, by name or by address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name that has to be resolved.
    Name(Hostname),
    /// An address.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = NetError;

    /// Reads a name or an address; an IPv6 address may stand in brackets.
    fn from_str(text: &str) -> Result<Self, NetError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = inner.parse().map_err(|_| NetError::Address)?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        Ok(Self::Name(text.parse()?))
    }
}

impl fmt::Display for Host {
    /// An IPv6 address is written without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The port, 1 to 65535 when it came from a text.
    pub port: u16,
}

impl Endpoint {
    /// Reads `host:port`, or a host alone, which gets `default_port`.
    ///
    /// # Errors
    /// When the host is neither a name nor an address, or the port is no number from 1 to 65535.
    pub fn parse_with_port(text: &str, default_port: u16) -> Result<Self, NetError> {
        let has_port = match text.rsplit_once(':') {
            Some((host, _)) => !host.contains(':') || host.starts_with('['),
            None => false,
        };
        // `[::1]` ends in a bracket: its last colon is part of the address.
        if !has_port || text.ends_with(']') {
            return Ok(Self {
                host: text.parse()?,
                port: default_port,
            });
        }
        text.parse()
    }
}

impl FromStr for Endpoint {
    type Err = NetError;

    /// Reads `name:443`, `192.0.2.1:443` or `[2001:db8::1]:443`.
    fn from_str(text: &str) -> Result<Self, NetError> {
        let (host, port) = text.rsplit_once(':').ok_or(NetError::Port)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(NetError::Address);
        }
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(NetError::Port)?;
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The range of ports from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Makes a range.
    ///
    /// # Errors
    /// When a bound is zero, or `first` is larger than `last`.
    pub const fn new(first: u16, last: u16) -> Result<Self, NetError> {
        if first == 0 || first > last {
            return Err(NetError::Port);
        }
        Ok(Self { first, last })
    }

    /// The first port.
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for PortRange {
    type Err = NetError;

    /// Reads `8000-8999` or a single port.
    fn from_str(text: &str) -> Result<Self, NetError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse().map_err(|_| NetError::Port);
        Self::new(port(first)?, port(last)?)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The overlay of one Control: a unique local IPv6 /48 (RFC 4193) of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Overlay([u8; 6]);

impl Overlay {
    /// Makes an overlay of the 40 random bits of a global id (RFC 4193, section 3.2).
    #[must_use]
    pub const fn from_global_id(id: [u8; 5]) -> Self {
        Self([0xfd, id[0], id[1], id[2], id[3], id[4]])
    }

    /// The network.
    #[must_use]
    pub fn cidr(&self) -> Cidr {
        Cidr {
            address: self.compose(&[0; 10]).into(),
            length: 48,
        }
    }

    /// The address of whoever has the identifier `id`: its first 80 bits behind the prefix. An
    /// identifier is random, so the address needs no allocation and is never given to another.
    #[must_use]
    pub fn address(&self, id: &[u8; 16]) -> Ipv6Addr {
        let mut host = [0; 10];
        host.copy_from_slice(&id[..10]);
        self.compose(&host)
    }

    fn compose(&self, host: &[u8; 10]) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[6..].copy_from_slice(host);
        octets.into()
    }
}

impl TryFrom<Cidr> for Overlay {
    type Error = NetError;

    fn try_from(network: Cidr) -> Result<Self, NetError> {
        match network.address {
            IpAddr::V6(address) if network.length == 48 && address.octets()[0] == 0xfd => {
                let octets = address.octets();
                Ok(Self([
                    octets[0], octets[1], octets[2], octets[3], octets[4], octets[5],
                ]))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Err(NetError::PrefixLength),
        }
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cidr().fmt(f)
    }
}

/// The IPv4 addresses that stock WireGuard sites, and gateways toward them, have in the overlay: the
/// shared address space of RFC 6598.
pub const OVERLAY_V4: Cidr = Cidr {
    address: IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)),
    length: 10,
};

/// What is counted as one where work is bounded by address: an IPv4 address, also when it is written as an IPv6 one
/// (RFC 4291, section 2.5.5.2), or the /64 that an IPv6 subscriber has at least (RFC 6177).
#[must_use]
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_should() {
        let net: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.255".parse().unwrap()) && !net.contains("10.2.0.0".parse().unwrap()));
        assert!(!net.contains("::ffff:10.1.0.1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()) && all.overlaps(&"fd00::/8".parse().unwrap()));
        assert_eq!("10.1.0.1/16".parse::<Cidr>(), Err(NetError::HostBits));
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(NetError::PrefixLength));
        assert_eq!("::1".parse::<Cidr>().unwrap().to_string(), "::1/128");
        assert!(OVERLAY_V4.contains("100.127.255.255".parse().unwrap()));
    }

    /// LESSONS: "IPv6 targets break: `port:host:port` split at colons".
    #[test]
    fn endpoints_keep_ipv6_apart_from_the_port() {
        let endpoint: Endpoint = "[2001:db8::1]:443".parse().unwrap();
        assert_eq!(endpoint.host, Host::Address("2001:db8::1".parse().unwrap()));
        assert_eq!(endpoint.to_string(), "[2001:db8::1]:443");
        assert!("2001:db8::1:443".parse::<Endpoint>().is_err());
        let parse = |text| Endpoint::parse_with_port(text, 51820).map(|endpoint| endpoint.to_string());
        assert_eq!(parse("gw.example.net").unwrap(), "gw.example.net:51820");
        assert_eq!(parse("gw.example.net:1").unwrap(), "gw.example.net:1");
        assert_eq!(parse("2001:db8::1").unwrap(), "[2001:db8::1]:51820");
        assert_eq!(parse("[2001:db8::1]").unwrap(), "[2001:db8::1]:51820");
        assert_eq!(parse("[2001:db8::1]:7").unwrap(), "[2001:db8::1]:7");
        assert!(parse("host:0").is_err() && parse("host:x").is_err());
    }

    #[test]
    fn ranges_are_inclusive() {
        let range: PortRange = "8000-8002".parse().unwrap();
        assert!(range.contains(8000) && range.contains(8002) && !range.contains(8003));
        assert!("0".parse::<PortRange>().is_err() && "9-8".parse::<PortRange>().is_err());
    }

    #[test]
    fn overlay_addresses_lie_in_the_overlay() {
        let overlay = Overlay::from_global_id([1, 2, 3, 4, 5]);
        assert!(overlay.cidr().contains(overlay.address(&[9; 16]).into()));
        assert_eq!(Overlay::try_from(overlay.cidr()), Ok(overlay));
        assert!(Overlay::try_from("fe80::/48".parse::<Cidr>().unwrap()).is_err());
    }

    #[test]
    fn a_subscriber_is_an_address_or_a_network() {
        let of = |text: &str| subscriber(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
