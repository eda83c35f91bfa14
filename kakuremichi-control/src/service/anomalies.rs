//! Sign-ins that somebody may want to hear of: told to each organization of the user, by entries of the audit, which
//! notification channels send on.
//!
//! What is known of a user's sign-ins is a memo about the user. The same about the same is not told again for a
//! while. Nothing here makes a sign-in fail.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use kakuremichi_core::{
    email::EmailAddress,
    id::{OrganizationId, UserId},
    model::{Member, Session, SignIn},
    net::subscriber,
    store::{Query, RecordId, RecordKind, StoreRecord},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{ATTEMPTS, Actor, UseCaseError, UseCases, now};
use crate::memo;

/// The name of the memo.
const MEMO: &str = "sign-ins";
/// Addresses (an IPv6 /64 is one) of a user that are remembered; the one that was not used for longest gives way.
const MAX_ADDRESSES: usize = 32;
/// How long the same about the same user is not told again.
const QUIET: Duration = Duration::from_secs(60 * 60);
/// After so many wrong guesses at an account, without a right one, the next one is told.
pub(super) const MANY_FAILURES: u32 = 5;
/// The most organizations of one user that are told.
const MAX_TOLD: usize = 64;
/// Accounts with many failures that are looked at, at once. More are passed over: they fail again.
const MAX_LOOKS: usize = 4;

/// Many guesses at an account failed.
const FAILURES: &str = "sign_in.failures";
/// Somebody signed in from an address that is new.
const NEW_ADDRESS: &str = "sign_in.new_address";
/// Somebody signed in with a recovery code.
const RECOVERY_CODE: &str = "sign_in.recovery_code";
/// Somebody signed in without a second factor, who had one the last time.
const WITHOUT_SECOND_FACTOR: &str = "sign_in.without_second_factor";

/// The places of those who look at failures.
#[derive(Debug)]
pub(super) struct Looks(Semaphore);

impl Default for Looks {
    fn default() -> Self {
        Self(Semaphore::new(MAX_LOOKS))
    }
}

/// What is known of a user's sign-ins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIns {
    /// From where, and when last.
    addresses: BTreeMap<IpAddr, i64>,
    /// Whether the last one had two factors.
    multi_factor: bool,
    /// When many failures were told last.
    failures: Option<i64>,
}

impl SignIns {
    /// A session began. Returns what is to be told of it.
    fn began(&mut self, session: &Session) -> Vec<&'static str> {
        let mut told = Vec::new();
        if session.sign_in == SignIn::PasswordAndRecoveryCode {
            told.push(RECOVERY_CODE);
        }
        if self.multi_factor && !session.sign_in.is_multi_factor() {
            told.push(WITHOUT_SECOND_FACTOR);
        }
        self.multi_factor = session.sign_in.is_multi_factor();
        if let Some(source) = session.source.map(subscriber) {
            // The first one of all is no surprise.
            if !self.addresses.is_empty() && !self.addresses.contains_key(&source) {
                told.push(NEW_ADDRESS);
            }
            self.addresses.insert(source, session.created.as_millis());
            if self.addresses.len() > MAX_ADDRESSES
                && let Some(oldest) = self.addresses.iter().min_by_key(|(_, at)| **at)
            {
                let oldest = *oldest.0;
                self.addresses.remove(&oldest);
            }
        }
        told
    }

    /// Many guesses failed. Returns whether that is to be told.
    fn failed(&mut self, now: Timestamp) -> bool {
        let quiet = |at: i64| now < Timestamp::from_millis(at).after(QUIET);
        if self.failures.is_some_and(quiet) {
            return false;
        }
        self.failures = Some(now.as_millis());
        true
    }
}

impl UseCases {
    /// Looks at a session that began.
    pub(super) async fn look_at_sign_in(&self, session: &Session) {
        let learned = self.learn(session.user, |known| known.began(session)).await;
        let told = match learned {
            Ok(events) => self.tell_of_user(session.user, session.id.into(), &events).await,
            Err(error) => Err(error),
        };
        said(told);
    }

    /// Looks, in the background, at an account at which was guessed too often: whoever guesses does not learn by the
    /// time of an answer whether there is one.
    pub(super) fn look_at_failures(&self, account: EmailAddress) {
        let use_cases = self.clone();
        tokio::spawn(async move {
            let Ok(_place) = use_cases.0.looks.0.try_acquire() else {
                return;
            };
            said(use_cases.tell_of_failures(&account).await);
        });
    }

    async fn tell_of_failures(&self, account: &EmailAddress) -> Result<(), UseCaseError> {
        let Some(user) = self.user_by_email(account).await? else {
            return Ok(());
        };
        let id = user.value.id;
        let learn = |known: &mut SignIns| known.failed(now()).then_some(FAILURES).into_iter().collect();
        let events = self.learn(id, learn).await?;
        self.tell_of_user(id, id.into(), &events).await
    }

    /// Changes what is known of a user's sign-ins.
    async fn learn(
        &self,
        user: UserId,
        change: impl Fn(&mut SignIns) -> Vec<&'static str>,
    ) -> Result<Vec<&'static str>, UseCaseError> {
        for _ in 0..ATTEMPTS {
            let before = self.store().memo(user.into(), MEMO).await?;
            let known = before.as_deref().map(|text| memo::read::<SignIns>(MEMO, text));
            let mut known = known.transpose()?.unwrap_or_default();
            let events = change(&mut known);
            let after = memo::text(&known);
            let store = self.store();
            if before.as_ref() == Some(&after)
                || store
                    .set_memo(user.into(), MEMO, before.as_deref(), &after)
                    .await?
            {
                return Ok(events);
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Tells each organization of a user.
    async fn tell_of_user(
        &self,
        user: UserId,
        subject: RecordId,
        events: &[&'static str],
    ) -> Result<(), UseCaseError> {
        if events.is_empty() {
            return Ok(());
        }
        let query = Query {
            limit: MAX_TOLD,
            ..Query::all(RecordKind::Member).owned_by(user)
        };
        let members = self.store().list(query).await?.records;
        let mut organizations: Vec<OrganizationId> = members
            .into_iter()
            .filter_map(|member| match member.value {
                StoreRecord::Member(Member { organization, .. }) => Some(organization),
                _ => None,
            })
            .collect();
        if organizations.is_empty() {
            organizations.push(self.start().await?.organization);
        }
        for organization in organizations {
            for event in events {
                self.note_event(organization, event, subject).await?;
            }
        }
        Ok(())
    }

    /// Writes into the audit of an organization what nobody did, but happened.
    pub(crate) async fn note_event(
        &self,
        organization: OrganizationId,
        event: &'static str,
        subject: impl Into<RecordId>,
    ) -> Result<(), UseCaseError> {
        let actor = Actor::control(organization);
        self.commit(&actor, event, subject, Vec::new()).await?;
        Ok(())
    }
}

fn said(told: Result<(), UseCaseError>) {
    if let Err(error) = told {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a sign-in cannot be looked at"
        );
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::store::conformance::sample;

    use super::*;

    fn session(source: &str, sign_in: SignIn, minute: u64) -> Session {
        Session {
            source: source.parse().ok(),
            sign_in,
            created: sample::NOW.after(Duration::from_secs(60 * minute)),
            ..sample::session(1, 1)
        }
    }

    #[test]
    fn an_address_is_new_once() {
        let mut known = SignIns::default();
        let mut began = |source: &str, minute| known.began(&session(source, SignIn::Password, minute));
        assert_eq!(began("192.0.2.1", 0), [""; 0]);
        assert_eq!(began("192.0.2.2", 1), [NEW_ADDRESS]);
        assert_eq!(began("192.0.2.2", 2), [""; 0]);
        assert_eq!(began("2001:db8::1", 3), [NEW_ADDRESS]);
        assert_eq!(began("2001:db8::2", 4), [""; 0], "a /64 is one address");
        assert_eq!(began("", 5), [""; 0], "it is not known");
        for n in 0..100 {
            began(&format!("198.51.100.{n}"), 10 + n);
        }
        assert_eq!(began("192.0.2.1", 200), [NEW_ADDRESS], "it was forgotten");
        assert_eq!(known.addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_second_factor_that_is_gone_is_told() {
        let mut known = SignIns::default();
        let mut began = |sign_in| known.began(&session("192.0.2.1", sign_in, 0));
        assert_eq!(began(SignIn::Password), [""; 0]);
        assert_eq!(began(SignIn::PasswordAndTotp), [""; 0]);
        assert_eq!(began(SignIn::PasswordAndRecoveryCode), [RECOVERY_CODE]);
        assert_eq!(began(SignIn::Password), [WITHOUT_SECOND_FACTOR]);
        assert_eq!(began(SignIn::Password), [""; 0]);
    }

    #[test]
    fn failures_are_not_told_again_for_a_while() {
        let mut known = SignIns::default();
        let mut failed = |minute: u64| known.failed(sample::NOW.after(Duration::from_secs(60 * minute)));
        assert_eq!(
            [0, 1, 59, 60, 61].map(&mut failed),
            [true, false, false, true, false]
        );
    }
}
