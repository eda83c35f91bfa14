//! Who did what.

use std::fmt;

use async_trait::async_trait;

use crate::{
    auth::Principal,
    id::OrganizationId,
    store::{MAX_PAGE, RecordId, Sequence},
    time::Timestamp,
};

/// One deed: written in the same transaction as what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who; nobody when Control itself did it.
    pub actor: Option<Principal>,
    /// The organization in which it was done.
    pub organization: Option<OrganizationId>,
    /// What, as `noun.verb`: `service.create`.
    pub action: String,
    /// What it was done to.
    pub subject: Option<RecordId>,
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place in the audit.
    pub sequence: Sequence,
    /// The entry.
    pub entry: AuditEntry,
    /// Its link of the chain; none as long as it is not sealed.
    pub hash: Option<[u8; 32]>,
}

/// A place in the chain of the audit: an entry, and the hash that stands for it and for each before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AuditLink {
    /// The entry; [`Sequence::START`] before the first.
    pub sequence: Sequence,
    /// Its hash; zeros before the first.
    pub hash: [u8; 32],
}

/// From where to where the audit is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditChain {
    /// Behind this link the stored part begins: what was before was [pruned](crate::store::Store::prune_audit).
    pub start: AuditLink,
    /// What shows that it was Control who pruned; none if nothing ever was.
    pub proof: Option<[u8; 32]>,
    /// The newest link.
    pub head: AuditLink,
}

/// Which entries to read. The default is all, a full page of the oldest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those behind this one: newer ones, or older ones when the newest come first.
    pub after: Option<Sequence>,
    /// Whether the newest come first.
    pub newest_first: bool,
    /// Only those of this organization.
    pub organization: Option<OrganizationId>,
    /// Only those by this [subject](Principal::subject).
    pub actor: Option<String>,
    /// Only those of this action, or, when it ends in a dot, of the actions that begin so.
    pub action: Option<String>,
    /// Only those that were done to this.
    pub subject: Option<RecordId>,
    /// Only those from this time on.
    pub from: Option<Timestamp>,
    /// Only those before this time.
    pub to: Option<Timestamp>,
    /// At most so many; a full page, [`MAX_PAGE`], when it is zero or more than that.
    pub limit: usize,
}

impl AuditQuery {
    /// Whether an entry at this place is one of those.
    #[must_use]
    pub fn matches(&self, sequence: Sequence, entry: &AuditEntry) -> bool {
        let behind = |after| match self.newest_first {
            true => sequence < after,
            false => sequence > after,
        };
        let actor = || entry.actor.as_ref().map(Principal::subject);
        let action = |action: &String| match action.ends_with('.') {
            true => entry.action.starts_with(action.as_str()),
            false => entry.action == *action,
        };
        self.after.is_none_or(behind)
            && (self.organization.is_none() || self.organization == entry.organization)
            && (self.actor.is_none() || self.actor.as_deref() == actor())
            && self.action.as_ref().is_none_or(action)
            && (self.subject.is_none() || self.subject == entry.subject)
            && self.from.is_none_or(|from| entry.at >= from)
            && self.to.is_none_or(|to| entry.at < to)
    }

    /// The limit that holds.
    #[must_use]
    pub const fn page(&self) -> usize {
        match self.limit {
            0 => MAX_PAGE,
            limit if limit > MAX_PAGE => MAX_PAGE,
            limit => limit,
        }
    }
}

impl AuditEntry {
    /// The bytes that stand for the entry at its place, the same for ever: what is hashed. Numbers are eight bytes,
    /// big-endian; each text and identifier has its length in front, as a number, and what is not there is the
    /// length 2^64 - 1. So no two entries have the same bytes.
    #[must_use]
    pub fn canonical(&self, sequence: Sequence) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(&sequence.0.to_be_bytes());
        bytes.extend_from_slice(&self.at.as_millis().to_be_bytes());
        let mut text = |text: Option<&str>| {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
        };
        text(self.actor.as_ref().map(Principal::authority));
        text(self.actor.as_ref().map(Principal::subject));
        text(self.organization.map(|id| id.to_string()).as_deref());
        text(Some(&self.action));
        text(self.subject.map(|id| id.to_string()).as_deref());
        bytes
    }
}

/// Hears of every deed after it was committed, in their order: for a log collector or a SIEM. The store
/// keeps the truth; a sink that fails loses only its own copy.
#[async_trait]
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Takes an entry. Nobody but this sink waits for it: a slow one hears of deeds later, from the store.
    async fn record(&self, entry: &AuditEntry);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are hashed into a chain that outlives versions: they must not change.
    #[test]
    fn the_canonical_bytes_are_frozen() {
        let entry = AuditEntry {
            at: Timestamp::from_millis(1),
            actor: Some(Principal::new("a", "bc")),
            organization: None,
            action: "x.y".to_owned(),
            subject: None,
        };
        let hex = data_encoding::HEXLOWER.encode(&entry.canonical(Sequence(2)));
        assert_eq!(
            hex,
            "00000000000000020000000000000001\
             000000000000000161\
             00000000000000026263\
             ffffffffffffffff\
             0000000000000003782e79\
             ffffffffffffffff"
        );
    }

    #[test]
    fn what_is_not_the_same_has_other_bytes() {
        let entry = |authority: &str, subject: &str, action: &str| AuditEntry {
            at: Timestamp::from_millis(1),
            actor: Some(Principal::new(authority, subject)),
            organization: None,
            action: action.to_owned(),
            subject: None,
        };
        let bytes = |entry: AuditEntry| entry.canonical(Sequence(1));
        assert_ne!(bytes(entry("ab", "c", "x")), bytes(entry("a", "bc", "x")));
        assert_ne!(bytes(entry("a", "b", "cx")), bytes(entry("a", "bc", "x")));
        let nobody = AuditEntry {
            actor: None,
            ..entry("", "", "x")
        };
        assert_ne!(bytes(nobody), bytes(entry("", "", "x")));
    }
}
