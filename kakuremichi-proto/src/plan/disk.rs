//! A plan as it lies on a node's disk.
//!
//! A magic number with the version of the layout, the revision, the stream of records, and SHA-256 over
//! everything before it, so that a torn write is noticed.

use std::sync::Arc;

use kakuremichi_core::plan::Revision;

use super::{
    MAX_PLAN_BYTES, MAX_RECORDS, PlanBuilder, PlanError, WirePlan,
    stream::{Change, ChangeParser, StreamError, write_change},
};
use crate::identity::sha256;

const MAGIC: &[u8; 7] = b"KKMPLAN";
const VERSION: u8 = 1;
const CHECKSUM: usize = 32;
/// No file with a plan in it is larger: five bytes stand before each record.
const MAX_FILE: usize = MAX_PLAN_BYTES + MAX_RECORDS * 5 + 64;

/// Why bytes are not a stored plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// They are something else.
    #[error("this is not a stored plan")]
    Foreign,
    /// They are of a layout that this build does not know.
    #[error("the plan is stored in layout {0}, which this program does not know")]
    Layout(u8),
    /// They were changed, or not written to the end.
    #[error("the stored plan is damaged")]
    Damaged,
    /// A change in them does not decode.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The plan is past a bound.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl WirePlan {
    /// The plan as bytes for a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size() + self.records().len() * 5 + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.revision().0.to_be_bytes());
        for record in self.records() {
            write_change(&Change::Put(Arc::clone(record)), &mut bytes);
        }
        let sum = sha256(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// When the bytes are not a stored plan, or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DiskError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(DiskError::Foreign)?;
        let (&version, _) = rest.split_first().ok_or(DiskError::Damaged)?;
        if version != VERSION {
            return Err(DiskError::Layout(version));
        }
        if bytes.len() > MAX_FILE {
            return Err(PlanError::Bytes.into());
        }
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(DiskError::Damaged)?;
        if sha256(content) != *sum {
            return Err(DiskError::Damaged);
        }
        let header = MAGIC.len() + 1;
        let (revision, stream) = content
            .get(header..)
            .and_then(|rest| rest.split_first_chunk())
            .ok_or(DiskError::Damaged)?;
        let (mut builder, mut parser) = (PlanBuilder::default(), ChangeParser::default());
        parser.push(stream, |change| builder.apply(change).map_err(DiskError::from))?;
        parser.finish()?;
        Ok(builder.finish(Revision(u64::from_be_bytes(*revision))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{RecordKey, WireRecord};

    #[test]
    fn a_stored_plan_is_read_back_or_refused() {
        let record =
            |key: u8| WireRecord::new(9, None, RecordKey::new(&[key]).unwrap(), vec![key; 9]).unwrap();
        let plan = WirePlan::new(Revision(7), (0..5).map(record)).unwrap();
        let bytes = plan.to_bytes();
        assert_eq!(WirePlan::from_bytes(&bytes), Ok(plan));
        for end in 0..bytes.len() {
            assert!(WirePlan::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert!(WirePlan::from_bytes(&damaged).is_err(), "flipped at {index}");
        }
        assert_eq!(WirePlan::from_bytes(b"KKMPLAN\x02"), Err(DiskError::Layout(2)));
        assert_eq!(WirePlan::from_bytes(b"hello"), Err(DiskError::Foreign));
    }
}
