//! Notification channels: where an organization hears of what happens.

use crate::{
    email::EmailAddress,
    id::{ChannelId, OrganizationId},
    name::Label,
    time::Timestamp,
};

/// The most kinds of events that a channel chooses.
pub const MAX_CHANNEL_EVENTS: usize = 32;
/// The most addresses of one channel.
pub const MAX_CHANNEL_ADDRESSES: usize = 16;
/// The most bytes of the URL of a webhook.
pub const MAX_WEBHOOK_URL: usize = 2048;

/// A notification channel: it is sent the events of its organization, in their order, each at least once. An event
/// is an entry of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its identifier.
    pub id: ChannelId,
    /// The organization.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// Where it leads.
    pub target: ChannelTarget,
    /// The events that it is sent, by their actions: `node.down`, or all that begin with `node.`. None means all: the
    /// channel is a stream of the audit.
    pub events: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// Where a channel leads.
#[derive(Clone, PartialEq, Eq)]
pub enum ChannelTarget {
    /// To an HTTPS server.
    Webhook {
        /// Where it is.
        url: String,
        /// What requests are signed with, sealed.
        sealed_secret: Vec<u8>,
    },
    /// To people.
    Mail(Vec<EmailAddress>),
}

impl std::fmt::Debug for ChannelTarget {
    /// Without the URL, which can have a secret in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Webhook { .. } => f.write_str("Webhook"),
            Self::Mail(to) => f.debug_tuple("Mail").field(&to.len()).finish(),
        }
    }
}

impl Channel {
    /// Whether it streams the whole audit of its organization.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether it is sent events of an action.
    #[must_use]
    pub fn wants(&self, action: &str) -> bool {
        let chosen = |event: &String| match event.ends_with('.') {
            true => action.starts_with(event.as_str()),
            false => action == event,
        };
        self.is_stream() || self.events.iter().any(chosen)
    }
}
