//! Sending a message on a notification channel, once.

use http::HeaderName;
use kakuremichi_core::{
    model::{Channel, ChannelTarget},
    secret::Secret,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::message::{self, Message};
use crate::{
    mail::{Mail, MailFailure},
    service::{UseCaseError, UseCases, now},
    webhook::WebhookError,
};

/// Requests and mails of channels that are under way at once. More wait; a test is told to come back.
pub const MAX_DELIVERIES: usize = 64;

/// The headers of Standard Webhooks 1.0: the same identifier for each attempt, the time in seconds since 1970, and
/// `v1,` with HMAC-SHA256 over identifier, time and body with dots in between, in base64.
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The places of messages that are under way.
#[derive(Debug)]
pub(in crate::service) struct Deliveries(Semaphore);

impl Default for Deliveries {
    fn default() -> Self {
        Self(Semaphore::new(MAX_DELIVERIES))
    }
}

impl Deliveries {
    pub(super) fn try_enter(&self) -> Result<SemaphorePermit<'_>, UseCaseError> {
        self.0.try_acquire().map_err(|_| UseCaseError::Busy)
    }

    /// Waits for a place; nothing comes back only from what was closed, which this never is.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.0.acquire().await.ok()
    }
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The server did not take it.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The mail was not sent.
    #[error(transparent)]
    Mail(#[from] MailFailure),
    /// The secret cannot be opened.
    #[error("the secret was sealed by another Control: change the channel with a new secret")]
    Secret,
}

impl SendError {
    /// What it says to people, with its causes.
    pub(super) fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            sentence = format!("{sentence}: {cause}");
            source = cause.source();
        }
        sentence
    }
}

impl UseCases {
    /// Sends a message on a channel, once. It may be taken with a complaint: an address of several that the mail
    /// server refuses for good.
    pub(super) async fn send_on(
        &self,
        channel: &Channel,
        message: &Message,
    ) -> Result<Option<String>, SendError> {
        match &channel.target {
            ChannelTarget::Webhook { url, sealed_secret } => {
                let secret = self.0.seal.open(channel.id.as_bytes(), sealed_secret);
                let secret = Secret::new(secret.ok_or(SendError::Secret)?);
                let seconds = now().as_millis() / 1000;
                let body = message.json();
                let signature = message::sign(secret.expose(), &message.id, seconds, &body);
                let headers = [
                    (ID, message.id.clone()),
                    (TIMESTAMP, seconds.to_string()),
                    (SIGNATURE, signature),
                ];
                self.0.webhooks.post(url, headers, body).await?;
                Ok(None)
            }
            ChannelTarget::Mail(to) => {
                let mailer = self.0.mail.as_ref().ok_or(MailFailure::NoServer)?;
                let (mut taken, mut refused) = (false, None);
                for to in to {
                    let mail = Mail {
                        to: to.clone(),
                        subject: "What happened in kakuremichi",
                        text: message.text(),
                    };
                    match mailer.send_now(&mail).await {
                        Err(error) if error.is_permanent() => refused = Some(error),
                        sent => taken = sent.map(|()| true)?,
                    }
                }
                match refused {
                    Some(error) if !taken => Err(error.into()),
                    refused => Ok(refused.map(|error| SendError::Mail(error).sentence())),
                }
            }
        }
    }
}
