//! The chain of the audit.
//!
//! There is one for the whole Control, in the order of the feed: one pinned head covers everything, and the deeds
//! in an organization cannot be taken out together with the organization. The hash of an entry is
//!
//! ```text
//! SHA-256(domain, hash of the entry before, canonical bytes of the entry and its place)
//! ```
//!
//! Whoever can write to the database can make a whole new chain. What shows that is a head that was kept
//! elsewhere: it must still be in the chain. The same is true of entries that are cut off at the end together
//! with the head that stands for them.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use kakuremichi_core::{
    audit::{AuditEntry, AuditLink, AuditQuery, AuditRow},
    store::{Sequence, Store, StoreError},
};
use sha2::{Digest as _, Sha256};

use crate::service::{UseCaseError, UseCases};

const DOMAIN: &[u8] = b"kakuremichi audit chain 1\0";

/// The link of an entry behind another.
pub(super) fn link(before: &AuditLink, sequence: Sequence, entry: &AuditEntry) -> AuditLink {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(before.hash);
    hash.update(entry.canonical(sequence));
    AuditLink {
        sequence,
        hash: hash.finalize().into(),
    }
}

/// A link as text: the place, a colon, and the hash in hexadecimal. This is what is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkText(pub AuditLink);

/// A text is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head of the audit is a number, a colon and 64 hexadecimal digits, as `audit verify` prints it")]
pub struct ParseLinkError;

impl fmt::Display for LinkText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.sequence.0, HEXLOWER.encode(&self.0.hash))
    }
}

impl FromStr for LinkText {
    type Err = ParseLinkError;

    fn from_str(text: &str) -> Result<Self, ParseLinkError> {
        let (sequence, hash) = text.split_once(':').ok_or(ParseLinkError)?;
        let hash = HEXLOWER.decode(hash.as_bytes()).map_err(|_| ParseLinkError)?;
        Ok(Self(AuditLink {
            sequence: Sequence(sequence.parse().map_err(|_| ParseLinkError)?),
            hash: hash.try_into().map_err(|_| ParseLinkError)?,
        }))
    }
}

/// A chain without a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// How many entries are sealed.
    pub sealed: u64,
    /// How many are not yet: the newest, of the last moments or since Control ran last.
    pub unsealed: u64,
    /// The link behind which it begins: what was before was pruned.
    pub start: AuditLink,
    /// The newest link: keep it elsewhere, and give it to a later check.
    pub head: AuditLink,
}

/// The first thing that is not as it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFault {
    /// An entry does not follow from the one before it.
    #[error("entry {} was changed, or entries between {} and it were removed or inserted", .at.0, .behind.0)]
    Broken {
        /// The last entry that is as it was.
        behind: Sequence,
        /// The entry.
        at: Sequence,
    },
    /// An entry without a link stands among sealed ones.
    #[error("entry {} was inserted, or its link was removed", .0.0)]
    Inserted(Sequence),
    /// The newest sealed entries are gone.
    #[error("the entries behind {} are gone: the chain went on to {}", .behind.0, .head.0)]
    Removed {
        /// The last entry that is there.
        behind: Sequence,
        /// The head.
        head: Sequence,
    },
    /// Entries have links beyond the head.
    #[error("the chain goes on behind its head {}: the head was put back, or entries were inserted", .0.0)]
    Beyond(Sequence),
    /// The chain begins where Control did not prune it to.
    #[error("the entries up to {} are gone, and it was not this Control that pruned them", .0.0)]
    Start(Sequence),
    /// The pinned head is from before what is kept.
    #[error("the pinned head {} was pruned: the audit begins behind {}, so pin a newer head", .pin.0, .start.0)]
    Pruned {
        /// The pinned head.
        pin: Sequence,
        /// The last entry that was pruned.
        start: Sequence,
    },
    /// The pinned head is not in the chain.
    #[error("the pinned head {} is not in the chain: entries were cut off, or the chain was made anew", .0.0)]
    Pin(Sequence),
}

impl AuditFault {
    /// The entry at which it shows.
    #[must_use]
    pub const fn at(&self) -> Sequence {
        match self {
            Self::Broken { at, .. } => *at,
            Self::Inserted(at) | Self::Beyond(at) | Self::Pin(at) | Self::Start(at) => *at,
            Self::Pruned { pin, .. } => *pin,
            Self::Removed { head, .. } => *head,
        }
    }
}

impl UseCases {
    /// Reads the whole audit, and checks that it is what was sealed, and that `pin`, if there is one, is in it.
    ///
    /// # Errors
    /// When too many look through the audit already, or the storage fails.
    pub async fn verify_audit(
        &self,
        pin: Option<AuditLink>,
    ) -> Result<Result<Verified, AuditFault>, UseCaseError> {
        let _turn = self.0.exports.enter()?;
        loop {
            let chain = self.store().audit_chain().await?;
            if !self.0.audit_start.proves(&chain) {
                return Ok(Err(AuditFault::Start(chain.start.sequence)));
            }
            if let Some(pin) = pin.filter(|pin| pin.sequence < chain.start.sequence) {
                let (pin, start) = (pin.sequence, chain.start.sequence);
                return Ok(Err(AuditFault::Pruned { pin, start }));
            }
            let outcome = verify(self.store(), pin).await?;
            // What is missing may have been pruned meanwhile, which is seldom.
            if outcome.is_ok() || self.store().audit_chain().await?.start == chain.start {
                return Ok(outcome);
            }
        }
    }
}

async fn verify(
    store: &dyn Store,
    pin: Option<AuditLink>,
) -> Result<Result<Verified, AuditFault>, StoreError> {
    let start = store.audit_chain().await?.start;
    if let Some(first) = rows(store, None, 1).await?.first()
        && first.sequence <= start.sequence
    {
        return Ok(Err(AuditFault::Inserted(first.sequence)));
    }
    let mut pin = pin.filter(|pin| *pin != start);
    let (mut last, mut sealed) = (start, 0);
    loop {
        let before = sealed;
        for row in rows(store, Some(last.sequence), 0).await? {
            let Some(hash) = row.hash else { break };
            let next = link(&last, row.sequence, &row.entry);
            if next.hash != hash {
                return Ok(Err(AuditFault::Broken {
                    behind: last.sequence,
                    at: row.sequence,
                }));
            }
            pin = pin.filter(|pin| *pin != next);
            (last, sealed) = (next, sealed + 1);
        }
        if sealed > before {
            continue;
        }
        // Nothing more is sealed here. Whoever seals may have gone on meanwhile.
        let head = store.audit_chain().await?.head;
        if head == last {
            break;
        }
        if head.sequence <= last.sequence {
            return Ok(Err(AuditFault::Beyond(last.sequence)));
        }
        match rows(store, Some(last.sequence), 1).await?.first() {
            Some(row) if row.hash.is_some() => {}
            Some(row) if row.sequence <= head.sequence => return Ok(Err(AuditFault::Inserted(row.sequence))),
            Some(_) | None => {
                return Ok(Err(AuditFault::Removed {
                    behind: last.sequence,
                    head: head.sequence,
                }));
            }
        }
    }
    if let Some(pin) = pin {
        return Ok(Err(AuditFault::Pin(pin.sequence)));
    }
    let (mut unsealed, mut after) = (0, last.sequence);
    while let Some((count, newest)) = counted(&rows(store, Some(after), 0).await?) {
        (unsealed, after) = (unsealed + count, newest);
    }
    Ok(Ok(Verified {
        sealed,
        unsealed,
        start,
        head: last,
    }))
}

async fn rows(store: &dyn Store, after: Option<Sequence>, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
    let query = AuditQuery {
        after,
        limit,
        ..AuditQuery::default()
    };
    store.audit_rows(&query).await
}

fn counted(rows: &[AuditRow]) -> Option<(u64, Sequence)> {
    let newest = rows.last()?.sequence;
    Some((rows.len() as u64, newest))
}

#[cfg(test)]
mod tests;
