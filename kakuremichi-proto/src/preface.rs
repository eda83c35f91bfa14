//! What a flow between kakuremichi nodes starts with: a PROXY protocol v2 header that says who the
//! visitor is and what is asked for.
//!
//! The gateway writes it, the agent reads it. Addresses and TLS facts are where the PROXY protocol has
//! them; what is ours stands in its range for custom use. [`header`] reads and writes the bare
//! protocol, also for others than our own nodes.

pub mod header;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use kakuremichi_core::{
    auth::Principal,
    id::{GatewayId, ServiceId, TargetId},
    name::Hostname,
};

use self::header::{Command, Header, HeaderError, Transport, tlv};

/// The largest preface, in bytes.
pub const MAX_PREFACE: usize = 1024;

/// The longest name of a principal's authority, in bytes.
pub const MAX_AUTHORITY: usize = 64;
/// The longest name of a principal, in bytes.
pub const MAX_SUBJECT: usize = 320;
/// The longest protocol name of ALPN, in bytes.
pub const MAX_ALPN: usize = 32;
/// The longest name of a TLS version or cipher suite, in bytes.
pub const MAX_TLS_NAME: usize = 64;

/// The types of our own TLVs, in the range 0xE0 to 0xEF that the protocol leaves to applications. They
/// are a registry that only grows.
mod own {
    pub(super) const SERVICE: u8 = 0xe0;
    pub(super) const TARGET: u8 = 0xe1;
    pub(super) const GATEWAY: u8 = 0xe2;
    pub(super) const AUTHORITY: u8 = 0xe3;
    pub(super) const SUBJECT: u8 = 0xe4;
    pub(super) const RELAY: u8 = 0xe8;
}

/// Names one visitor's connection, in the logs of both nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub [u8; 16]);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who opens a flow, on behalf of whom, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// The visitor's address. An IPv4 address is never written as an IPv6 one.
    pub source: SocketAddr,
    /// The address at which the visitor reached the gateway.
    pub destination: SocketAddr,
    /// The gateway that let the visitor in.
    pub gateway: GatewayId,
    /// The gateway that passes the flow on to the agent, where it is another one. With it a flow has made
    /// its one hop: no gateway passes it on again.
    pub relay: Option<GatewayId>,
    /// The visitor's connection.
    pub connection: ConnectionId,
    /// The service.
    pub service: ServiceId,
    /// The target.
    pub target: TargetId,
    /// What is known of the visitor's TLS; none where there was no TLS.
    pub tls: Option<TlsFacts>,
    /// Who the visitor has proven to be.
    pub principal: Option<Principal>,
}

/// What is known of a visitor's TLS connection to the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    /// The version, as in `TLSv1.3`.
    pub version: String,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// The name that the visitor asked for (SNI, RFC 6066).
    pub server_name: Option<Hostname>,
    /// The protocol that was chosen (ALPN, RFC 7301).
    pub alpn: Option<Vec<u8>>,
}

/// Why bytes are not a preface, or a preface cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// They are not even a PROXY protocol header, or too long a one.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The header is not about a connection (or, before a datagram, a session) between two addresses.
    #[error("the header does not name a connection between two addresses")]
    Addresses,
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field stands twice.
    #[error("the field {0} stands twice")]
    Twice(&'static str),
    /// A field is not valid.
    #[error("the field {0} is not valid")]
    Field(&'static str),
}

/// Whether a preface, of which nothing else is checked, stands before datagrams, and not before a stream.
#[must_use]
pub fn is_of_datagrams(bytes: &[u8]) -> bool {
    let read = header::parse(bytes, MAX_PREFACE).ok().flatten();
    read.is_some_and(|(header, _)| header.transport == Transport::Datagram)
}

impl Preface {
    /// Appends the preface.
    ///
    /// # Errors
    /// When a text is longer than it may be; then nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), PrefaceError> {
        self.append(out, Transport::Stream)
    }

    /// Appends the preface in the form that stands before a datagram.
    ///
    /// # Errors
    /// When a text is longer than it may be; then nothing is appended.
    pub fn encode_datagram(&self, out: &mut Vec<u8>) -> Result<(), PrefaceError> {
        self.append(out, Transport::Datagram)
    }

    /// Reads a preface from the head of a stream, and how many bytes it has. `None` when there are not
    /// yet enough. Foreign bytes are told as soon as one of them is wrong.
    ///
    /// # Errors
    /// When the bytes are not a preface.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, PrefaceError> {
        Self::read(bytes, Transport::Stream)
    }

    /// Reads a preface from the head of a datagram, and how many bytes it has.
    ///
    /// # Errors
    /// When the datagram does not start with one.
    pub fn parse_datagram(bytes: &[u8]) -> Result<(Self, usize), PrefaceError> {
        Self::read(bytes, Transport::Datagram)?.ok_or(PrefaceError::Header(HeaderError::Signature))
    }

    fn read(bytes: &[u8], transport: Transport) -> Result<Option<(Self, usize)>, PrefaceError> {
        let Some((header, length)) = header::parse(bytes, MAX_PREFACE)? else {
            return Ok(None);
        };
        let (Command::Proxy, Some(addresses)) = (header.command, header.addresses) else {
            return Err(PrefaceError::Addresses);
        };
        if header.transport != transport {
            return Err(PrefaceError::Addresses);
        }
        Fields::read(&header)?
            .finish(addresses)
            .map(|preface| Some((preface, length)))
    }

    fn append(&self, out: &mut Vec<u8>, transport: Transport) -> Result<(), PrefaceError> {
        let start = out.len();
        let result = self.write(out, transport);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn write(&self, out: &mut Vec<u8>, transport: Transport) -> Result<(), PrefaceError> {
        let mut writer = if transport == Transport::Datagram {
            header::Writer::datagram(out, self.source, self.destination)
        } else {
            header::Writer::new(out, self.source, self.destination)
        };
        if let Some(tls) = &self.tls {
            if let Some(name) = &tls.server_name {
                writer.tlv(tlv::AUTHORITY, name.as_str().as_bytes());
            }
            if let Some(alpn) = &tls.alpn {
                writer.tlv(tlv::ALPN, within(alpn, MAX_ALPN, "alpn")?);
            }
            let version = within(tls.version.as_bytes(), MAX_TLS_NAME, "tls version")?;
            let cipher = tls.cipher.as_ref().map(String::as_bytes);
            let cipher = cipher
                .map(|name| within(name, MAX_TLS_NAME, "cipher"))
                .transpose()?;
            writer.ssl(version, cipher);
        }
        writer.tlv(tlv::UNIQUE_ID, &self.connection.0);
        writer.tlv(own::SERVICE, self.service.as_bytes());
        writer.tlv(own::TARGET, self.target.as_bytes());
        writer.tlv(own::GATEWAY, self.gateway.as_bytes());
        if let Some(relay) = &self.relay {
            writer.tlv(own::RELAY, relay.as_bytes());
        }
        if let Some(principal) = &self.principal {
            let authority = within(principal.authority().as_bytes(), MAX_AUTHORITY, "authority")?;
            writer.tlv(own::AUTHORITY, authority);
            writer.tlv(
                own::SUBJECT,
                within(principal.subject().as_bytes(), MAX_SUBJECT, "subject")?,
            );
        }
        Ok(writer.finish(MAX_PREFACE)?)
    }
}

fn within<'a>(bytes: &'a [u8], limit: usize, field: &'static str) -> Result<&'a [u8], PrefaceError> {
    if bytes.len() > limit {
        Err(PrefaceError::Field(field))
    } else {
        Ok(bytes)
    }
}

/// The fields of a header that are looked at. Others are skipped.
#[derive(Default)]
struct Fields<'a> {
    server_name: Option<&'a [u8]>,
    alpn: Option<&'a [u8]>,
    ssl: Option<&'a [u8]>,
    connection: Option<&'a [u8]>,
    service: Option<&'a [u8]>,
    target: Option<&'a [u8]>,
    gateway: Option<&'a [u8]>,
    relay: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(header: &Header<'a>) -> Result<Self, PrefaceError> {
        let mut fields = Self::default();
        for item in header.tlvs() {
            let (kind, value) = item?;
            let (field, name) = match kind {
                tlv::AUTHORITY => (&mut fields.server_name, "server name"),
                tlv::ALPN => (&mut fields.alpn, "alpn"),
                tlv::SSL => (&mut fields.ssl, "tls"),
                tlv::UNIQUE_ID => (&mut fields.connection, "connection"),
                own::SERVICE => (&mut fields.service, "service"),
                own::TARGET => (&mut fields.target, "target"),
                own::GATEWAY => (&mut fields.gateway, "gateway"),
                own::RELAY => (&mut fields.relay, "relay"),
                own::AUTHORITY => (&mut fields.authority, "authority"),
                own::SUBJECT => (&mut fields.subject, "subject"),
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(PrefaceError::Twice(name));
            }
        }
        Ok(fields)
    }

    fn finish(self, (source, destination): (SocketAddr, SocketAddr)) -> Result<Preface, PrefaceError> {
        Ok(Preface {
            source: canonical(source),
            destination: canonical(destination),
            connection: ConnectionId(id(self.connection, "connection")?),
            service: ServiceId::from_bytes(id(self.service, "service")?),
            target: TargetId::from_bytes(id(self.target, "target")?),
            gateway: GatewayId::from_bytes(id(self.gateway, "gateway")?),
            relay: self
                .relay
                .map(|relay| id(Some(relay), "relay").map(GatewayId::from_bytes))
                .transpose()?,
            tls: self.tls()?,
            principal: self.principal()?,
        })
    }

    fn tls(&self) -> Result<Option<TlsFacts>, PrefaceError> {
        let Some(ssl) = self.ssl else {
            return match (self.server_name, self.alpn) {
                (None, None) => Ok(None),
                _ => Err(PrefaceError::Missing("tls")),
            };
        };
        let (version, cipher) = header::read_ssl(ssl)?;
        let server_name = self.server_name.map(|name| {
            let parsed = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            parsed.ok_or(PrefaceError::Field("server name"))
        });
        let alpn = self
            .alpn
            .map(|alpn| within(alpn, MAX_ALPN, "alpn").map(<[u8]>::to_vec));
        Ok(Some(TlsFacts {
            version: text(version, MAX_TLS_NAME, "tls version")?,
            cipher: cipher
                .map(|name| text(name, MAX_TLS_NAME, "cipher"))
                .transpose()?,
            server_name: server_name.transpose()?,
            alpn: alpn.transpose()?,
        }))
    }

    fn principal(&self) -> Result<Option<Principal>, PrefaceError> {
        match (self.authority, self.subject) {
            (None, None) => Ok(None),
            (Some(authority), Some(subject)) => Ok(Some(Principal::new(
                text(authority, MAX_AUTHORITY, "authority")?,
                text(subject, MAX_SUBJECT, "subject")?,
            ))),
            (None, Some(_)) => Err(PrefaceError::Missing("authority")),
            (Some(_), None) => Err(PrefaceError::Missing("subject")),
        }
    }
}

fn id(value: Option<&[u8]>, field: &'static str) -> Result<[u8; 16], PrefaceError> {
    let value = value.ok_or(PrefaceError::Missing(field))?;
    value.try_into().map_err(|_| PrefaceError::Field(field))
}

fn text(value: &[u8], limit: usize, field: &'static str) -> Result<String, PrefaceError> {
    let value = within(value, limit, field)?.to_vec();
    String::from_utf8(value).map_err(|_| PrefaceError::Field(field))
}

/// An IPv4 address that came through a dual-stack socket is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preface() -> Preface {
        Preface {
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.1:443".parse().unwrap(),
            gateway: GatewayId::from_bytes([1; 16]),
            relay: None,
            connection: ConnectionId([2; 16]),
            service: ServiceId::from_bytes([3; 16]),
            target: TargetId::from_bytes([4; 16]),
            tls: Some(TlsFacts {
                version: "TLSv1.3".to_owned(),
                cipher: Some("TLS13_AES_128_GCM_SHA256".to_owned()),
                server_name: Some("www.example.net".parse().unwrap()),
                alpn: Some(b"h2".to_vec()),
            }),
            principal: Some(Principal::new("basic", "alice")),
        }
    }

    fn encode(preface: &Preface) -> Vec<u8> {
        let mut bytes = Vec::new();
        preface.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn prefaces_round_trip_in_any_cut() {
        let bare = Preface {
            source: "[2001:db8::7]:1".parse().unwrap(),
            destination: "[2001:db8::1]:443".parse().unwrap(),
            tls: None,
            principal: None,
            ..preface()
        };
        let relayed = Preface {
            relay: Some(GatewayId::from_bytes([5; 16])),
            ..preface()
        };
        for preface in [preface(), bare, relayed] {
            let bytes = encode(&preface);
            for end in 0..bytes.len() {
                assert_eq!(Preface::parse(&bytes[..end]), Ok(None), "cut at {end}");
            }
            let followed = [bytes.as_slice(), b"GET / HTTP/1.1"].concat();
            assert_eq!(Preface::parse(&followed), Ok(Some((preface, bytes.len()))));
        }
    }

    /// A datagram is read whole: what is cut short is no preface, nor is that of a stream.
    #[test]
    fn prefaces_of_datagrams_round_trip_and_are_no_others() {
        let preface = Preface {
            tls: None,
            ..preface()
        };
        let mut bytes = Vec::new();
        preface.encode_datagram(&mut bytes).unwrap();
        let length = bytes.len();
        let followed = [bytes.as_slice(), b"query"].concat();
        assert_eq!(Preface::parse_datagram(&followed), Ok((preface.clone(), length)));
        for end in 0..length {
            assert!(Preface::parse_datagram(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(is_of_datagrams(&bytes) && !is_of_datagrams(&encode(&preface)));
        assert!(!is_of_datagrams(&bytes[..length - 1]) && !is_of_datagrams(b""));
        assert_eq!(Preface::parse(&bytes), Err(PrefaceError::Addresses));
        assert_eq!(
            Preface::parse_datagram(&encode(&preface)),
            Err(PrefaceError::Addresses)
        );
    }

    #[test]
    fn mixed_families_stay_what_they_are() {
        let mixed = Preface {
            source: "[::ffff:198.51.100.7]:40000".parse().unwrap(),
            destination: "[2001:db8::1]:443".parse().unwrap(),
            ..preface()
        };
        let (parsed, _) = Preface::parse(&encode(&mixed)).unwrap().unwrap();
        assert_eq!(parsed.source, "198.51.100.7:40000".parse().unwrap());
        assert_eq!(parsed.destination, mixed.destination);
    }

    /// LESSONS, advisory 7: garbage is refused early, and nothing is waited for without a bound.
    #[test]
    fn garbage_is_refused_early() {
        assert!(Preface::parse(b"GET").is_err());
        assert!(Preface::parse(&[0x0d, 0x0a, 0x0d, 0x0a, 0x01]).is_err());
        let mut long = encode(&preface());
        long[14..16].copy_from_slice(&2000u16.to_be_bytes());
        assert_eq!(
            Preface::parse(&long[..16]),
            Err(HeaderError::TooLong(2016).into())
        );
    }

    #[test]
    fn a_preface_says_all_that_is_needed_and_each_thing_once() {
        let bytes = encode(&preface());
        let tlv = |kind: u8, value: &[u8]| [&[kind, 0, value.len() as u8], value].concat();
        let with = |bytes: &[u8], extra: &[u8]| {
            let mut bytes = [bytes, extra].concat();
            let length = (bytes.len() - 16) as u16;
            bytes[14..16].copy_from_slice(&length.to_be_bytes());
            Preface::parse(&bytes).map(|parsed| parsed.map(|(preface, _)| preface))
        };
        assert_eq!(
            with(&bytes, &tlv(own::SERVICE, &[9; 16])),
            Err(PrefaceError::Twice("service"))
        );
        assert_eq!(with(&bytes, &tlv(0xef, b"newer")), Ok(Some(preface())));
        assert_eq!(with(&bytes[..28], &[]), Err(PrefaceError::Missing("connection")));
        assert_eq!(with(&bytes, &[0xef, 0, 9]), Err(HeaderError::Tlv.into()));
    }

    #[test]
    fn texts_are_bounded() {
        let long = Preface {
            principal: Some(Principal::new("oidc", "a".repeat(MAX_SUBJECT + 1))),
            ..preface()
        };
        let mut out = b"before".to_vec();
        assert_eq!(long.encode(&mut out), Err(PrefaceError::Field("subject")));
        assert_eq!(out, b"before");
        let longest = Preface {
            source: "[2001:db8::7]:1".parse().unwrap(),
            relay: Some(GatewayId::from_bytes([5; 16])),
            tls: Some(TlsFacts {
                version: "v".repeat(MAX_TLS_NAME),
                cipher: Some("c".repeat(MAX_TLS_NAME)),
                server_name: Some(vec!["a".repeat(62); 4].join(".").parse().unwrap()),
                alpn: Some(vec![b'h'; MAX_ALPN]),
            }),
            principal: Some(Principal::new("a".repeat(MAX_AUTHORITY), "s".repeat(MAX_SUBJECT))),
            ..preface()
        };
        assert!(encode(&longest).len() <= MAX_PREFACE);
    }
}
