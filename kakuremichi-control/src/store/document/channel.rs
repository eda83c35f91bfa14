//! Notification channels.

use data_encoding::BASE64;
use kakuremichi_core::{
    email::EmailAddress,
    id::{ChannelId, OrganizationId},
    model::{Channel, ChannelTarget},
    name::Label,
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::text::{Text, texts, untexts};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct ChannelDocument {
    id: Text<ChannelId>,
    organization: Text<OrganizationId>,
    name: Text<Label>,
    target: TargetDocument,
    events: Vec<String>,
    created: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum TargetDocument {
    Webhook { url: String, sealed_secret: Base64 },
    Mail(Vec<Text<EmailAddress>>),
}

#[derive(Debug)]
struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

impl From<&Channel> for ChannelDocument {
    fn from(channel: &Channel) -> Self {
        Self {
            id: Text(channel.id),
            organization: Text(channel.organization),
            name: Text(channel.name.clone()),
            target: match &channel.target {
                ChannelTarget::Webhook { url, sealed_secret } => TargetDocument::Webhook {
                    url: url.clone(),
                    sealed_secret: Base64(sealed_secret.clone()),
                },
                ChannelTarget::Mail(to) => TargetDocument::Mail(texts(to)),
            },
            events: channel.events.clone(),
            created: channel.created.as_millis(),
        }
    }
}

impl From<ChannelDocument> for Channel {
    fn from(document: ChannelDocument) -> Self {
        Self {
            id: document.id.0,
            organization: document.organization.0,
            name: document.name.0,
            target: match document.target {
                TargetDocument::Webhook { url, sealed_secret } => ChannelTarget::Webhook {
                    url,
                    sealed_secret: sealed_secret.0,
                },
                TargetDocument::Mail(to) => ChannelTarget::Mail(untexts(to)),
            },
            events: document.events,
            created: Timestamp::from_millis(document.created),
        }
    }
}
