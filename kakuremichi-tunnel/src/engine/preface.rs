//! How long the preface of a flow is: all that the engine wants to know about it.

/// What a PROXY protocol header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A flow does not begin with a preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow does not begin with a preface")]
pub struct InvalidPreface;

/// Tells how long the preface at the start of some bytes is; `None` while there are too few bytes to
/// tell. The length may exceed the bytes.
pub type PrefaceLength = fn(&[u8]) -> Result<Option<usize>, InvalidPreface>;

/// Whether a datagram begins as a PROXY protocol header of version 2 does.
pub(super) fn is_proxy_v2(datagram: &[u8]) -> bool {
    datagram.starts_with(SIGNATURE)
}

/// The length of a PROXY protocol header of version 2.
///
/// # Errors
/// When the bytes begin differently.
pub fn proxy_v2_length(bytes: &[u8]) -> Result<Option<usize>, InvalidPreface> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] || bytes.get(12).is_some_and(|version| version >> 4 != 2) {
        return Err(InvalidPreface);
    }
    let Some(&[high, low]) = bytes.get(14..16) else {
        return Ok(None);
    };
    Ok(Some(16 + usize::from(u16::from_be_bytes([high, low]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_measured_at_any_cut() {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        bytes.extend_from_slice(&[0; 20]);
        for cut in 0..bytes.len() {
            let expected = if cut < 16 { None } else { Some(28) };
            assert_eq!(proxy_v2_length(&bytes[..cut]), Ok(expected));
        }
        assert_eq!(proxy_v2_length(b"GET /"), Err(InvalidPreface));
        bytes[12] = 0x11;
        assert_eq!(proxy_v2_length(&bytes), Err(InvalidPreface));
    }
}
