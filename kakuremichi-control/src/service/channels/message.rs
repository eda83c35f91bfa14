//! What is sent on a notification channel: events, as JSON for programs or as text for people.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use kakuremichi_core::{
    audit::{AuditEntry, AuditRow},
    model::Channel,
    store::{RecordId, Sequence, Store, StoreError, StoreRecord},
    time::Timestamp,
};
use ring::hmac;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Events on their way.
#[derive(Debug)]
pub(super) struct Message {
    /// The same for each attempt to send it.
    pub(super) id: String,
    channel: String,
    name: String,
    organization: String,
    at: String,
    kind: &'static str,
    events: Vec<Event>,
}

/// An event: an entry of the audit.
#[derive(Debug, Serialize)]
struct Event {
    /// Its place in the audit: the same event has the same one, and later ones have greater ones.
    sequence: String,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// What the subject is called, if it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_name: Option<String>,
    /// The subject is an organization.
    #[serde(skip)]
    of_organization: bool,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: &'a str,
    data: Data<'a>,
}

#[derive(Debug, Serialize)]
struct Data<'a> {
    channel: &'a str,
    organization: &'a str,
    events: &'a [Event],
}

impl Message {
    /// A message of what happened, which is something.
    pub(super) async fn of(
        store: &dyn Store,
        channel: &Channel,
        rows: &[AuditRow],
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut names = BTreeMap::new();
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let name = match row.entry.subject {
                Some(subject) => match names.get(&subject) {
                    Some(name) => Option::clone(name),
                    None => names
                        .entry(subject)
                        .or_insert(name_of(store, subject).await?)
                        .clone(),
                },
                None => None,
            };
            events.push(Event::new(row.sequence, &row.entry, name));
        }
        let (first, last) = (rows.first(), rows.last());
        let number = |row: Option<&AuditRow>| row.map_or(0, |row| row.sequence.0);
        let id = format!("{}.{}-{}", channel.id, number(first), number(last));
        Ok(Self::new(channel, id, "events", events, now))
    }

    /// A message of something that did not happen.
    pub(super) fn test(channel: &Channel, now: Timestamp) -> Self {
        let entry = AuditEntry {
            at: now,
            actor: None,
            organization: Some(channel.organization),
            action: "notification_channel.test".to_owned(),
            subject: Some(channel.id.into()),
        };
        let event = Event::new(Sequence::START, &entry, Some(channel.name.to_string()));
        let id = format!("{}.test-{}", channel.id, now.as_millis());
        Self::new(channel, id, "test", vec![event], now)
    }

    fn new(channel: &Channel, id: String, kind: &'static str, events: Vec<Event>, now: Timestamp) -> Self {
        Self {
            id,
            channel: channel.id.to_string(),
            name: channel.name.to_string(),
            organization: channel.organization.to_string(),
            at: written(now),
            kind,
            events,
        }
    }

    /// The body of a request.
    pub(super) fn json(&self) -> String {
        let body = Body {
            kind: self.kind,
            timestamp: &self.at,
            data: Data {
                channel: &self.channel,
                organization: &self.organization,
                events: &self.events,
            },
        };
        // Texts only: nothing in it can fail.
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The text of a mail.
    pub(super) fn text(&self) -> String {
        let mut text = format!("On the notification channel {}:\n\n", self.name);
        for event in &self.events {
            text.push_str(&format!("{}  {}\n", event.at, event.sentence()));
        }
        text
    }
}

impl Event {
    fn new(sequence: Sequence, entry: &AuditEntry, subject_name: Option<String>) -> Self {
        let actor = entry.actor.as_ref();
        Self {
            sequence: sequence.0.to_string(),
            at: written(entry.at),
            authority: actor.map(|actor| actor.authority().to_owned()),
            actor: actor.map(|actor| actor.subject().to_owned()),
            action: entry.action.clone(),
            subject: entry.subject.map(|id| id.to_string()),
            subject_name,
            of_organization: matches!(entry.subject, Some(RecordId::Organization(_))),
        }
    }

    /// What happened, in words.
    fn sentence(&self) -> String {
        let name = self.subject_name.as_deref().or(self.subject.as_deref());
        let name = name.unwrap_or("nothing");
        match self.action.as_str() {
            "notification_channel.test" => "This is a test: mail arrives.".to_owned(),
            "node.down" => format!("The node {name} is down."),
            "node.up" => format!("The node {name} is up again."),
            "node.flapping" => format!("The node {name} goes up and down; more is said once it has settled."),
            "certificate.expiring" if self.of_organization => {
                "The certificate that Control itself serves is about to end.".to_owned()
            }
            "certificate.expired" if self.of_organization => {
                "The certificate that Control itself serves has ended.".to_owned()
            }
            "certificate.expiring" => {
                format!(
                    "A certificate of the gateway {name} is about to end; the status of the node says which."
                )
            }
            "certificate.expired" => {
                format!("A certificate of the gateway {name} has ended; the status of the node says which.")
            }
            "sign_in.failures" => format!("Somebody tries to sign in as {name}, and fails."),
            "sign_in.new_address" => format!("A sign-in from an address that is new: {name}."),
            "sign_in.recovery_code" => format!("A sign-in with a recovery code: {name}."),
            "sign_in.without_second_factor" => {
                format!("A sign-in without the second factor that there was before: {name}.")
            }
            action => {
                let by = self.actor.as_deref().unwrap_or("Control itself");
                format!("{action}  {name}, by {by}")
            }
        }
    }
}

/// What something is called by people.
async fn name_of(store: &dyn Store, id: RecordId) -> Result<Option<String>, StoreError> {
    let Some(stored) = store.get(id).await? else {
        return Ok(None);
    };
    Ok(match stored.value {
        StoreRecord::Session(session) => {
            let user = store.get(session.user.into()).await?;
            let user = match user.map(|user| user.value) {
                Some(StoreRecord::User(user)) => user.email.to_string(),
                _ => session.user.to_string(),
            };
            let from = session.source.map(|source| format!(" from {source}"));
            Some(format!("{user}{}", from.unwrap_or_default()))
        }
        StoreRecord::Organization(organization) => Some(organization.name.to_string()),
        StoreRecord::Node(node) => Some(node.name.to_string()),
        StoreRecord::Site(site) => Some(site.name.to_string()),
        StoreRecord::Service(service) => Some(service.name.to_string()),
        StoreRecord::User(user) => Some(user.email.to_string()),
        StoreRecord::Channel(channel) => Some(channel.name.to_string()),
        _ => None,
    })
}

/// What a request is signed with, as Standard Webhooks has it.
pub(super) fn sign(secret: &[u8], id: &str, seconds: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(tag.as_ref()))
}

fn written(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_millis()) * 1_000_000);
    let at = at.ok().and_then(|at| at.format(&Rfc3339).ok());
    at.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification (Standard Webhooks 1.0, "Signature scheme").
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = "{\"test\": 2432232314}";
        let signed = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
