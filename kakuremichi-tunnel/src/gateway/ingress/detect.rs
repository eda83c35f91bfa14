//! What a visitor begins with on the HTTPS port, told by its first byte.

/// What the first byte begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A TLS record with a handshake (RFC 8446, section 5.1).
    Tls,
    /// A request in the clear: somebody typed `http://` with the HTTPS port.
    PlainHttp,
    /// Something else.
    Unknown,
}

/// Tells what `first` begins.
pub(crate) const fn opening(first: u8) -> Opening {
    match first {
        0x16 => Opening::Tls,
        b'A'..=b'Z' | b'\r' => Opening::PlainHttp,
        _ => Opening::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_http_and_the_rest_are_told_apart() {
        assert_eq!(opening(0x16), Opening::Tls);
        assert_eq!(opening(b'G'), Opening::PlainHttp);
        assert_eq!(opening(0), Opening::Unknown);
        assert_eq!(opening(b'\n'), Opening::Unknown);
    }
}
