//! Notification channels: where an organization hears of what happens.

mod delivery;
mod message;
mod position;
mod sending;

pub(super) use delivery::LEASE as DELIVERY;
pub(crate) use delivery::deliver_for_ever;
pub use position::DeliveryState;
pub(super) use position::position;
#[cfg(test)]
pub(super) use position::stand_at;
pub(super) use sending::Deliveries;
pub use sending::MAX_DELIVERIES;

use data_encoding::BASE64;
use kakuremichi_core::{
    email::EmailAddress,
    id::ChannelId,
    model::{Channel, ChannelTarget, MAX_CHANNEL_ADDRESSES, MAX_CHANNEL_EVENTS, Permission, Permissions},
    name::Label,
    secret::Secret,
    store::{Mutation, Stored, UniqueKey, Version},
};

use super::{Actor, UseCaseError, UseCases, at_version, now, random, update, written};

/// The most bytes of the name of an event.
const MAX_EVENT: usize = 64;
/// What the text of a webhook's secret begins with, as Standard Webhooks has it.
const SECRET: &str = "whsec_";

/// A notification channel to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelDraft {
    /// Its name.
    pub name: Label,
    /// Where it leads.
    pub target: ChannelTargetDraft,
    /// The events that it is sent, or the beginnings of some that end in a dot; none means the whole audit.
    pub events: Vec<String>,
    /// Whether a webhook that has a secret gets another one.
    pub new_secret: bool,
}

/// Where a notification channel is to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelTargetDraft {
    /// To an HTTPS server.
    Webhook(String),
    /// To members of the organization.
    Mail(Vec<EmailAddress>),
}

/// A notification channel that was made or changed.
#[derive(Debug, Clone)]
pub struct WrittenChannel {
    /// What is stored.
    pub channel: Stored<Channel>,
    /// What requests are signed with, when it is new. It is shown this once.
    pub secret: Option<Secret<String>>,
}

impl UseCases {
    /// Makes a channel. It is sent what happens from now on.
    ///
    /// # Errors
    /// When the draft is not valid, the actor may not read the audit, there are too many, its name is taken, or the
    /// storage fails.
    pub async fn create_channel(
        &self,
        actor: &Actor,
        draft: ChannelDraft,
    ) -> Result<WrittenChannel, UseCaseError> {
        let id = ChannelId::from_bytes(random()?);
        let (channel, secret) = self.described_channel(actor, id, draft, None).await?;
        let create = vec![Mutation::Create(channel.clone().into())];
        self.commit(actor, delivery::CREATE, id, create).await?;
        Ok(WrittenChannel {
            channel: written(channel, None),
            secret,
        })
    }

    /// Reads a channel.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn channel(&self, actor: &Actor, id: ChannelId) -> Result<Stored<Channel>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Reads how far a channel has come.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn delivery_state(&self, channel: &Channel) -> Result<DeliveryState, UseCaseError> {
        let position = position(self.store(), channel.id).await?;
        Ok(position.map(|position| position.state()).unwrap_or_default())
    }

    /// Changes a channel. One that was a webhook and stays one keeps its secret, unless another one is asked for. It
    /// goes on where it was.
    ///
    /// # Errors
    /// As for [`create_channel`](Self::create_channel), and when it changed since `expected`.
    pub async fn change_channel(
        &self,
        actor: &Actor,
        id: ChannelId,
        draft: ChannelDraft,
        expected: Option<Version>,
    ) -> Result<WrittenChannel, UseCaseError> {
        let before = self.channel(actor, id).await?;
        at_version(&before, expected)?;
        let version = before.version;
        let (channel, secret) = self
            .described_channel(actor, id, draft, Some(before.value))
            .await?;
        let mutations = vec![update(channel.clone(), version)];
        self.commit(actor, "notification_channel.update", id, mutations)
            .await?;
        Ok(WrittenChannel {
            channel: written(channel, Some(version)),
            secret,
        })
    }

    /// Deletes a channel.
    ///
    /// # Errors
    /// When it is not there, changed since `expected`, or the storage fails.
    pub async fn delete_channel(
        &self,
        actor: &Actor,
        id: ChannelId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let channel = self.channel(actor, id).await?;
        at_version(&channel, expected)?;
        let delete = vec![Mutation::Delete(id.into(), Some(channel.version))];
        self.commit(actor, "notification_channel.delete", id, delete)
            .await?;
        Ok(())
    }

    /// Sends a test on a channel, at once and once. Returns why it was not delivered, if it was not.
    ///
    /// # Errors
    /// When it is not there, too much is being sent, or the storage fails.
    pub async fn test_channel(&self, actor: &Actor, id: ChannelId) -> Result<Option<String>, UseCaseError> {
        let channel = self.channel(actor, id).await?.value;
        let _slot = self.0.deliveries.try_enter()?;
        self.commit(actor, "notification_channel.test", id, Vec::new())
            .await?;
        let message = message::Message::test(&channel, now());
        let sent = self.send_on(&channel, &message).await;
        Ok(sent.err().map(|error| error.sentence()))
    }

    async fn described_channel(
        &self,
        actor: &Actor,
        id: ChannelId,
        draft: ChannelDraft,
        before: Option<Channel>,
    ) -> Result<(Channel, Option<Secret<String>>), UseCaseError> {
        // Whoever gets events reads the audit.
        actor.may_give(Permissions::NONE.with(Permission::AuditRead))?;
        check_events(&draft.events)?;
        let (created, target) = before.map(|before| (before.created, before.target)).unzip();
        let mut fresh = None;
        let target = match (draft.target, target) {
            (ChannelTargetDraft::Webhook(url), before) => {
                let checked = self.0.webhooks.check(&url);
                checked.map_err(|error| UseCaseError::field("webhook", error))?;
                let sealed_secret = match before {
                    Some(ChannelTarget::Webhook { sealed_secret, .. }) if !draft.new_secret => sealed_secret,
                    Some(_) | None => {
                        let secret = random::<32>()?;
                        fresh = Some(Secret::new(format!("{SECRET}{}", BASE64.encode(&secret))));
                        self.0.seal.seal(id.as_bytes(), &secret)?
                    }
                };
                ChannelTarget::Webhook { url, sealed_secret }
            }
            (ChannelTargetDraft::Mail(to), _) => {
                self.check_recipients(actor, &to).await?;
                ChannelTarget::Mail(to)
            }
        };
        let channel = Channel {
            id,
            organization: actor.organization,
            name: draft.name,
            target,
            events: draft.events,
            created: created.unwrap_or_else(now),
        };
        Ok((channel, fresh))
    }

    /// Mail goes to members only: nobody has Control write to strangers.
    async fn check_recipients(&self, actor: &Actor, to: &[EmailAddress]) -> Result<(), UseCaseError> {
        if self.0.mail.is_none() {
            return Err(UseCaseError::NoMail);
        }
        if to.is_empty() || to.len() > MAX_CHANNEL_ADDRESSES {
            let message = format!("1 to {MAX_CHANNEL_ADDRESSES} addresses");
            return Err(UseCaseError::field("mail", message));
        }
        for (at, address) in to.iter().enumerate() {
            if !self.is_member(actor, address).await? {
                return Err(UseCaseError::field(
                    format!("mail[{at}]"),
                    "no member of the organization has this address",
                ));
            }
        }
        Ok(())
    }

    async fn is_member(&self, actor: &Actor, address: &EmailAddress) -> Result<bool, UseCaseError> {
        let Some(user) = self.user_by_email(address).await? else {
            return Ok(false);
        };
        let key = UniqueKey::Membership(actor.organization, user.value.id);
        Ok(self.store().find(&key).await?.is_some())
    }
}

fn check_events(events: &[String]) -> Result<(), UseCaseError> {
    if events.len() > MAX_CHANNEL_EVENTS {
        let message = format!("at most {MAX_CHANNEL_EVENTS} events");
        return Err(UseCaseError::field("events", message));
    }
    let fine = |event: &String| {
        let letters = event
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || b".-_".contains(&byte));
        letters && event.contains('.') && event.len() <= MAX_EVENT && !event.starts_with('.')
    };
    match events.iter().position(|event| !fine(event)) {
        None => Ok(()),
        Some(at) => Err(UseCaseError::field(
            format!("events[{at}]"),
            "an event such as `node.down`, or the beginning of some such as `node.`",
        )),
    }
}
