//! The PROXY protocol, version 2, as HAProxy's `proxy-protocol.txt` has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header starts with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes before the addresses.
const FIXED: usize = 16;
const VERSION: u8 = 0x20;

/// The types of the protocol's own TLVs.
pub mod tlv {
    /// The protocol of ALPN.
    pub const ALPN: u8 = 0x01;
    /// The name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// CRC-32C of the header.
    pub const CRC32C: u8 = 0x03;
    /// The identifier of the connection, at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// TLS facts, with TLVs of their own.
    pub const SSL: u8 = 0x20;
    /// Inside [`SSL`]: the version.
    pub const SSL_VERSION: u8 = 0x21;
    /// Inside [`SSL`]: the cipher suite.
    pub const SSL_CIPHER: u8 = 0x23;
}

/// The client came by TLS.
const CLIENT_SSL: u8 = 0x01;
/// The client's certificate was not verified: none was asked for.
const NOT_VERIFIED: [u8; 4] = 1u32.to_be_bytes();

/// Why bytes are not a header, or one cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// They do not start as one.
    #[error("this is not a PROXY protocol v2 header")]
    Signature,
    /// A version, command, family or transport that does not exist.
    #[error("the PROXY protocol header has an unknown version, command or family")]
    Unknown,
    /// It is longer than is taken here.
    #[error("a PROXY protocol header of {0} bytes is too long")]
    TooLong(usize),
    /// It is shorter than its addresses.
    #[error("the PROXY protocol header is shorter than its addresses")]
    Addresses,
    /// A TLV goes past the end.
    #[error("a field of the PROXY protocol header goes past its end")]
    Tlv,
    /// The checksum is wrong.
    #[error("the checksum of the PROXY protocol header is wrong")]
    Checksum,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The proxy for itself: the addresses say nothing.
    Local,
    /// The proxy for a client.
    Proxy,
}

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Unknown.
    Unspecified,
    /// TCP, or a Unix stream socket.
    Stream,
    /// UDP, or a Unix datagram socket.
    Datagram,
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Who speaks.
    pub command: Command,
    /// What the client speaks.
    pub transport: Transport,
    /// Where the client comes from and what it reached; none of a family without IP addresses.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    tlvs: &'a [u8],
}

/// Reads a header of at most `limit` bytes from the head of a stream, and its length. `None` when there
/// are not yet enough bytes. Foreign bytes are told as soon as one of them is wrong; a checksum is
/// verified if there is one.
///
/// # Errors
/// When the bytes are not a header, or one that is too long.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<(Header<'_>, usize)>, HeaderError> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Err(HeaderError::Signature);
    }
    let command = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(_) => return Err(HeaderError::Unknown),
    };
    let Some(&family) = bytes.get(13) else {
        return Ok(None);
    };
    let transport = match family & 0x0f {
        0 => Transport::Unspecified,
        1 => Transport::Stream,
        2 => Transport::Datagram,
        _ => return Err(HeaderError::Unknown),
    };
    let family = family >> 4;
    let addresses_len = match family {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(HeaderError::Unknown),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > limit {
        return Err(HeaderError::TooLong(length));
    }
    if FIXED + addresses_len > length {
        return Err(HeaderError::Addresses);
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(None);
    };
    let (addresses, tlvs) = whole[FIXED..].split_at(addresses_len);
    let header = Header {
        command,
        transport,
        addresses: match family {
            1 => read_v4(addresses),
            2 => read_v6(addresses),
            _ => None,
        },
        tlvs,
    };
    header.verify(whole)?;
    Ok(Some((header, length)))
}

impl<'a> Header<'a> {
    /// The fields behind the addresses, in their order.
    pub fn tlvs(&self) -> impl Iterator<Item = Result<(u8, &'a [u8]), HeaderError>> + use<'a> {
        read_tlvs(self.tlvs)
    }

    /// Verifies the checksum, if there is one; a broken TLV is left to whoever reads them.
    fn verify(&self, whole: &[u8]) -> Result<(), HeaderError> {
        let mut at = whole.len() - self.tlvs.len();
        for item in self.tlvs() {
            let Ok((kind, value)) = item else { break };
            at += 3;
            if kind == tlv::CRC32C {
                let claimed: [u8; 4] = value.try_into().map_err(|_| HeaderError::Checksum)?;
                let sum = crc32c(&[&whole[..at], &[0; 4], &whole[at + 4..]]);
                if sum != u32::from_be_bytes(claimed) {
                    return Err(HeaderError::Checksum);
                }
            }
            at += value.len();
        }
        Ok(())
    }
}

fn read_tlvs(mut rest: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), HeaderError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let item = rest.split_first_chunk().and_then(|(&[kind, high, low], value)| {
            let (value, after) = value.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            rest = after;
            Some((kind, value))
        });
        if item.is_none() {
            rest = &[];
        }
        Some(item.ok_or(HeaderError::Tlv))
    })
}

/// Reads the version and the cipher suite out of the value of a [`tlv::SSL`].
///
/// # Errors
/// When the value is cut short or says that there was no TLS.
pub fn read_ssl(value: &[u8]) -> Result<(&[u8], Option<&[u8]>), HeaderError> {
    let (&[client, _, _, _, _], inner) = value.split_first_chunk().ok_or(HeaderError::Tlv)?;
    if client & CLIENT_SSL == 0 {
        return Err(HeaderError::Unknown);
    }
    let (mut version, mut cipher) = (&[][..], None);
    for item in read_tlvs(inner) {
        match item? {
            (tlv::SSL_VERSION, value) => version = value,
            (tlv::SSL_CIPHER, value) => cipher = Some(value),
            _ => {}
        }
    }
    Ok((version, cipher))
}

/// Writes a header for a client's TCP connection, or for its datagrams.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Starts a header behind what `out` has. Addresses of two families are both written as IPv6.
    #[must_use]
    pub fn new(out: &'a mut Vec<u8>, source: SocketAddr, destination: SocketAddr) -> Self {
        Self::with_transport(out, source, destination, 1)
    }

    /// Starts a header before a datagram, as [`new`](Self::new) does before a stream.
    #[must_use]
    pub fn datagram(out: &'a mut Vec<u8>, source: SocketAddr, destination: SocketAddr) -> Self {
        Self::with_transport(out, source, destination, 2)
    }

    fn with_transport(
        out: &'a mut Vec<u8>,
        source: SocketAddr,
        destination: SocketAddr,
        transport: u8,
    ) -> Self {
        let start = out.len();
        out.extend_from_slice(&SIGNATURE);
        out.push(VERSION | 1);
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend_from_slice(&[0x10 | transport, 0, 0]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            (from, to) => {
                let wide = |address| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                out.extend_from_slice(&[0x20 | transport, 0, 0]);
                out.extend_from_slice(&wide(from));
                out.extend_from_slice(&wide(to));
            }
        }
        out.extend_from_slice(&source.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
        Self { out, start }
    }

    /// Appends a field. A value of more than 65535 bytes makes [`finish`](Self::finish) fail.
    pub fn tlv(&mut self, kind: u8, value: &[u8]) {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.out.push(kind);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(value);
    }

    /// Appends TLS facts: version and cipher suite.
    pub fn ssl(&mut self, version: &[u8], cipher: Option<&[u8]>) {
        let mut value = vec![CLIENT_SSL];
        value.extend_from_slice(&NOT_VERIFIED);
        let mut inner = Writer {
            out: &mut value,
            start: 0,
        };
        inner.tlv(tlv::SSL_VERSION, version);
        if let Some(cipher) = cipher {
            inner.tlv(tlv::SSL_CIPHER, cipher);
        }
        self.tlv(tlv::SSL, &value);
    }

    /// Appends a checksum over the header. Nothing may follow but [`finish`](Self::finish).
    pub fn checksum(&mut self) {
        self.tlv(tlv::CRC32C, &[0; 4]);
        self.write_length();
        let sum = crc32c(&[&self.out[self.start..]]).to_be_bytes();
        let at = self.out.len() - sum.len();
        self.out[at..].copy_from_slice(&sum);
    }

    /// Ends the header.
    ///
    /// # Errors
    /// When it is longer than `limit`, or than a header can be; what was written stays.
    pub fn finish(mut self, limit: usize) -> Result<(), HeaderError> {
        let length = self.out.len() - self.start;
        if length > limit.min(FIXED + usize::from(u16::MAX)) {
            return Err(HeaderError::TooLong(length));
        }
        self.write_length();
        Ok(())
    }

    fn write_length(&mut self) {
        let length = self.out.len() - self.start - FIXED;
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        self.out[self.start + 14..self.start + FIXED].copy_from_slice(&length);
    }
}

fn read_v4(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, rest) = bytes.split_first_chunk::<4>()?;
    let (destination, ports) = rest.split_first_chunk::<4>()?;
    let (from, to) = read_ports(ports)?;
    Some((
        (Ipv4Addr::from(*source), from).into(),
        (Ipv4Addr::from(*destination), to).into(),
    ))
}

fn read_v6(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (destination, ports) = rest.split_first_chunk::<16>()?;
    let (from, to) = read_ports(ports)?;
    Some((
        (Ipv6Addr::from(*source), from).into(),
        (Ipv6Addr::from(*destination), to).into(),
    ))
}

fn read_ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d] = bytes.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: headers are short and seldom carry one.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let carry = if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
            (sum >> 1) ^ carry
        })
    };
    !parts.iter().copied().flatten().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_crc_32c() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    }

    #[test]
    fn a_checksum_is_verified() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(
            &mut bytes,
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:2".parse().unwrap(),
        );
        writer.tlv(tlv::UNIQUE_ID, b"abc");
        writer.checksum();
        writer.finish(256).unwrap();
        assert!(parse(&bytes, 256).unwrap().is_some());
        for index in FIXED..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x40;
            let noticed = match parse(&damaged, 256) {
                Err(_) => true,
                // The type or length of a field was hit: then it is the checksum that is not found.
                Ok(Some((header, _))) => header
                    .tlvs()
                    .all(|item| item.is_err() || item.is_ok_and(|(kind, _)| kind != tlv::CRC32C)),
                Ok(None) => false,
            };
            assert!(noticed, "flipped at {index}");
        }
    }

    #[test]
    fn other_families_and_local_headers_are_read() {
        let header = |command: u8, family: u8, body: &[u8]| {
            let length = (body.len() as u16).to_be_bytes();
            [&SIGNATURE[..], &[command, family], &length, body].concat()
        };
        let local = header(0x20, 0x00, &[]);
        let (read, length) = parse(&local, 64).unwrap().unwrap();
        assert_eq!((read.command, read.addresses, length), (Command::Local, None, 16));
        let unix = header(0x21, 0x31, &[0; 216]);
        assert!(
            parse(&unix, 256)
                .unwrap()
                .is_some_and(|(read, _)| read.addresses.is_none())
        );
        assert_eq!(
            parse(&header(0x21, 0x11, &[0; 11]), 64),
            Err(HeaderError::Addresses)
        );
        assert_eq!(
            parse(&header(0x11, 0x11, &[0; 12]), 64),
            Err(HeaderError::Unknown)
        );
        assert_eq!(
            parse(&header(0x22, 0x11, &[0; 12]), 64),
            Err(HeaderError::Unknown)
        );
        assert_eq!(
            parse(&header(0x21, 0x41, &[0; 12]), 64),
            Err(HeaderError::Unknown)
        );
        assert_eq!(
            parse(&header(0x21, 0x13, &[0; 12]), 64),
            Err(HeaderError::Unknown)
        );
    }
}
