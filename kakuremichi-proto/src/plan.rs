//! Plans on the wire and on the disk.
//!
//! A plan is a set of records: a tag, a key, the service that the record belongs to, and a body. A
//! [`WirePlan`] keeps the records as they were sent, those too whose tag it does not know, so that its
//! hash is the sender's hash, whichever of the two is newer. [`WirePlan::to_plan`] makes the domain's
//! plan of it, in which a service is missing if any record of it was not understood.
//!
//! The hash is SHA-256 over the digests of the records in the order of their keys. Digests are kept, so
//! that a change costs the hashing of what changed and 32 bytes for each other record.

mod build;
mod disk;
mod domain;
pub mod record;
mod stream;

pub use build::{MAX_KEY, MAX_PLAN_BYTES, MAX_RECORD, MAX_RECORDS};
pub use build::{PlanBuilder, PlanError, PlanHash, RecordKey, WirePlan, WireRecord};
pub use disk::DiskError;
pub use domain::{Decoded, EncodePlanError, PlanRecord, Rejected, Rejection, WrongNode};
pub use record::RecordTag;
pub use stream::{Change, ChangeParser, ChangeWriter, StreamError};
