//! Bodies: postcard, strict, with the limits of each field in its type.
//!
//! Postcard never takes more bytes than there are, so a text or a byte string is bounded by the frame
//! that carries it. A sequence could name a length far beyond what follows, so sequences are [`List`]s,
//! which refuse before they allocate.

use std::{fmt, marker::PhantomData};

use kakuremichi_core::secret::Secret;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
    ser::SerializeTuple,
};

/// Why bytes are not a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They do not decode.
    #[error("the body does not decode")]
    Malformed,
    /// Bytes follow the end of the body. Structs are frozen, so none may.
    #[error("bytes follow the end of the body")]
    Trailing,
}

/// Encodes a body.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "postcard fails only on sequences of unknown length, which no wire type has"
    )]
    postcard::to_allocvec(value).expect("wire types encode")
}

/// Decodes a body, all of it.
///
/// # Errors
/// When it does not decode, or when something is left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(CodecError::Trailing),
        Err(_) => Err(CodecError::Malformed),
    }
}

/// At most `MAX` items. A longer sequence does not decode; whoever makes one uses [`List::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// Takes the items, unless there are more than `MAX`.
    #[must_use]
    pub fn new(items: Vec<T>) -> Option<Self> {
        (items.len() <= MAX).then_some(Self(items))
    }

    /// Takes the first `MAX` items.
    #[must_use]
    pub fn truncated(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(MAX).collect())
    }

    /// The items.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }

    /// The items.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let claimed = items.size_hint().unwrap_or(0);
                if claimed > MAX {
                    return Err(A::Error::invalid_length(claimed, &self));
                }
                // The claim is not trusted with memory: what comes in is.
                let mut taken = Vec::with_capacity(claimed.min(16));
                while let Some(item) = items.next_element()? {
                    if taken.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    taken.push(item);
                }
                Ok(taken)
            }
        }

        deserializer
            .deserialize_seq(Items::<T, MAX>(PhantomData))
            .map(Self)
    }
}

/// A byte string.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Buffer;

        impl Visitor<'_> for Buffer {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }

        deserializer.deserialize_bytes(Buffer).map(Self)
    }
}

/// `N` bytes, without a length before them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Array<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for Array<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<const N: usize> Serialize for Array<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de, const N: usize> Deserialize<'de> for Array<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<const N: usize>;

        impl<'de, const N: usize> Visitor<'de> for Elements<N> {
            type Value = [u8; N];

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<[u8; N], A::Error> {
                let mut array = [0; N];
                for (index, byte) in array.iter_mut().enumerate() {
                    *byte = bytes
                        .next_element()?
                        .ok_or_else(|| A::Error::invalid_length(index, &self))?;
                }
                Ok(array)
            }
        }

        deserializer.deserialize_tuple(N, Elements::<N>).map(Self)
    }
}

/// 32 secret bytes: not printed, and wiped when dropped.
#[derive(Debug, Clone)]
pub struct SecretArray(pub Secret<[u8; 32]>);

impl PartialEq for SecretArray {
    fn eq(&self, other: &Self) -> bool {
        crate::identity::constant_time_eq(self.0.expose(), other.0.expose())
    }
}

impl Eq for SecretArray {}

impl Serialize for SecretArray {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.expose().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SecretArray {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(|bytes| Self(Secret::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_refuses_before_it_allocates() {
        let claim = encode(&(1u64 << 40));
        assert_eq!(decode::<List<u64, 8>>(&claim), Err(CodecError::Malformed));
        let nine = encode(&vec![1u64; 9]);
        assert_eq!(decode::<List<u64, 8>>(&nine), Err(CodecError::Malformed));
        assert_eq!(decode::<List<u64, 9>>(&nine).unwrap().into_vec(), vec![1; 9]);
        assert!(List::<u8, 2>::new(vec![1; 3]).is_none());
    }

    #[test]
    fn nothing_may_follow_a_body() {
        let mut bytes = encode(&Array([7; 64]));
        assert_eq!(bytes.len(), 64);
        assert_eq!(decode::<Array<64>>(&bytes), Ok(Array([7; 64])));
        bytes.push(0);
        assert_eq!(decode::<Array<64>>(&bytes), Err(CodecError::Trailing));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = SecretArray(Secret::new([0x41; 32]));
        assert!(!format!("{secret:?}").contains("65"));
        assert_eq!(decode::<SecretArray>(&encode(&secret)), Ok(secret));
    }
}
