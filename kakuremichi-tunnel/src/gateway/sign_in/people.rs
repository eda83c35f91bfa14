//! Who people and programs are, and whose word counts for it, as the plan says.

use std::sync::{Arc, Mutex, PoisonError};

use kakuremichi_core::{
    auth::{Identity, Principal},
    id::{GatewayId, OrganizationId, ServiceTokenId, UserId},
    key::SigningKey,
    name::Hostname,
    plan::{GatewayMember, GatewayPlan, GatewayServiceToken, GatewaySignIn},
    time::Timestamp,
};
use kakuremichi_proto::{
    identity::{SecretHash, sha256},
    sign_in::{GatewaySession, SignedError},
};
use rustc_hash::FxHashMap;

use crate::{gateway::identity::Assertions, keys::RingVerifier};

/// Verified sessions that are kept, so that a request costs no signature. Beyond, all are verified again.
const VERIFIED: usize = 16_384;

/// What a plan says about people and programs. Like the table that it is in, it never changes.
#[derive(Debug, Default)]
pub(crate) struct People {
    sign_in: Option<GatewaySignIn>,
    own: Vec<SigningKey>,
    signers: Vec<SigningKey>,
    members: FxHashMap<(OrganizationId, UserId), GatewayMember>,
    /// By the hash of the secret.
    service_tokens: FxHashMap<[u8; 32], GatewayServiceToken>,
    /// One of the service tokens ends at some time.
    tokens_end: bool,
    /// By the hash of the cookie's value.
    verified: Mutex<FxHashMap<[u8; 32], Arc<GatewaySession>>>,
    /// What targets were told under this plan.
    assertions: Assertions,
}

impl People {
    /// The authority that vouches for people who signed in at Control.
    pub(crate) const AUTHORITY: &str = "user";

    /// Reads a plan.
    pub(crate) fn new(plan: &GatewayPlan) -> Self {
        let own: Option<GatewayId> = plan.node().map(|node| node.id);
        let mut people = Self {
            sign_in: plan.sign_in().cloned(),
            ..Self::default()
        };
        for signer in plan.signers() {
            if Some(signer.id) == own {
                people.own.clone_from(&signer.keys);
            }
            people.signers.extend_from_slice(&signer.keys);
        }
        let members = plan.members().cloned();
        people.members = members
            .map(|member| ((member.organization, member.user), member))
            .collect();
        people.tokens_end = plan.service_tokens().any(|token| token.expires.is_some());
        let tokens = plan.service_tokens().cloned();
        people.service_tokens = tokens
            .map(|token| (*token.secret_hash.as_bytes(), token))
            .collect();
        people
    }

    /// Where visitors sign in, and whose tickets count; none where nobody can.
    pub(crate) const fn sign_in(&self) -> Option<&GatewaySignIn> {
        self.sign_in.as_ref()
    }

    /// The keys that other gateways take this gateway's signatures by.
    pub(crate) fn own_keys(&self) -> &[SigningKey] {
        &self.own
    }

    /// The keys that the gateways of the plan sign with.
    pub(crate) fn signers(&self) -> &[SigningKey] {
        &self.signers
    }

    /// What targets were told under this plan.
    pub(crate) const fn assertions(&self) -> &Assertions {
        &self.assertions
    }

    /// A person of an organization.
    pub(crate) fn member(&self, organization: OrganizationId, user: UserId) -> Option<&GatewayMember> {
        self.members.get(&(organization, user))
    }

    /// Whether a session or a service token can end, without another plan.
    pub(crate) fn depends_on_time(&self) -> bool {
        !self.members.is_empty() || self.tokens_end
    }

    /// Whether there is a service token with this hash, of whichever organization, perhaps one that is over.
    pub(crate) fn knows_service_token(&self, hash: &SecretHash) -> bool {
        let known = self.service_tokens.get(hash.as_bytes());
        known.is_some_and(|token| token.secret_hash == *hash)
    }

    /// Which service token of an organization has this hash and is good now.
    pub(crate) fn service_token(
        &self,
        organization: OrganizationId,
        hash: &SecretHash,
        now: Timestamp,
    ) -> Option<ServiceTokenId> {
        let token = self.service_tokens.get(hash.as_bytes())?;
        let good = token.organization == organization
            && token.secret_hash == *hash
            && token.expires.is_none_or(|expires| now < expires);
        good.then_some(token.id)
    }

    /// The session of this text, if it was verified under this plan, and is good at `host` now.
    pub(crate) fn known(&self, text: &str, host: &Hostname, now: Timestamp) -> Option<Arc<GatewaySession>> {
        let session = self.verified().get(&sha256(text.as_bytes())).cloned()?;
        (session.host == *host && session.expires > now).then_some(session)
    }

    /// Verifies the session that a browser shows at `host`, and [knows](Self::known) it from then on.
    ///
    /// # Errors
    /// When it is none, or not of this host or time.
    pub(crate) fn session(
        &self,
        text: &str,
        host: &Hostname,
        now: Timestamp,
    ) -> Result<Arc<GatewaySession>, SignedError> {
        let session = Arc::new(GatewaySession::open(
            text,
            &self.signers,
            &RingVerifier,
            host,
            now,
        )?);
        let mut verified = self.verified();
        if verified.len() >= VERIFIED {
            verified.clear();
        }
        verified.insert(sha256(text.as_bytes()), Arc::clone(&session));
        Ok(session)
    }

    /// Who somebody with a session is in an organization now; nobody, once the session, or the membership, is over.
    pub(crate) fn identity(
        &self,
        organization: OrganizationId,
        session: &GatewaySession,
        now: Timestamp,
    ) -> Option<Identity> {
        let member = self.members.get(&(organization, session.user))?;
        if session.expires <= now || !member.counts(session.session, session.made) {
            return None;
        }
        let principal = Principal::new(Self::AUTHORITY, member.user.to_string());
        let groups = member.groups.iter().map(|group| group.as_str().to_owned());
        let identity = Identity::new(principal)
            .with_roles(member.roles.iter().cloned())
            .with_groups(groups)
            .with_strength(session.strength);
        Some(match session.authenticated {
            Some(at) => identity.with_authenticated(at),
            None => identity,
        })
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, FxHashMap<[u8; 32], Arc<GatewaySession>>> {
        // Nothing that is done under the lock panics half way.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kakuremichi_core::{
        auth::Strength,
        id::SessionId,
        plan::{GatewayRecord, GatewaySigner, Revision},
    };
    use kakuremichi_proto::identity::Signer as _;

    use super::*;
    use crate::keys::NodeKeys;

    const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([9; 16]);
    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn member() -> GatewayMember {
        GatewayMember {
            organization: ORGANIZATION,
            user: UserId::from_bytes([1; 16]),
            email: "anna@example.net".parse().unwrap(),
            roles: vec!["developer".parse().unwrap()],
            groups: vec!["berlin".parse().unwrap()],
            tickets_since: Timestamp::default(),
            ended: Vec::new(),
        }
    }

    fn session() -> GatewaySession {
        GatewaySession {
            host: "h.example".parse().unwrap(),
            user: UserId::from_bytes([1; 16]),
            session: SessionId::from_bytes([2; 16]),
            strength: Strength::OneFactor,
            authenticated: None,
            made: NOW,
            expires: NOW.after(Duration::from_secs(60)),
        }
    }

    fn people(member: Option<GatewayMember>, keys: Vec<SigningKey>) -> People {
        let signer = GatewaySigner {
            id: GatewayId::from_bytes([3; 16]),
            keys,
        };
        let records = member.map(GatewayRecord::Member).into_iter();
        People::new(&GatewayPlan::new(
            Revision(1),
            records.chain([GatewayRecord::Signer(signer)]),
        ))
    }

    /// Sessions are verified with what is in the plan, and end with what is in the plan.
    #[test]
    fn a_session_counts_for_as_long_as_the_plan_says() {
        let identity = |member: Option<GatewayMember>, organization, now| {
            people(member, Vec::new())
                .identity(organization, &session(), now)
                .map(|identity| (identity.roles().unwrap().len(), identity.groups().unwrap().len()))
        };
        assert_eq!(identity(Some(member()), ORGANIZATION, NOW), Some((1, 1)));
        assert_eq!(identity(None, ORGANIZATION, NOW), None, "the member is gone");
        let other = OrganizationId::from_bytes([8; 16]);
        assert_eq!(identity(Some(member()), other, NOW), None, "another tenant's");
        assert_eq!(identity(Some(member()), ORGANIZATION, session().expires), None);
        let mut ended = member();
        ended.ended.push(session().session);
        assert_eq!(identity(Some(ended), ORGANIZATION, NOW), None);
        let mut all = member();
        all.tickets_since = Timestamp::from_millis(NOW.as_millis() + 1);
        assert_eq!(identity(Some(all), ORGANIZATION, NOW), None);
    }

    #[test]
    fn a_service_token_is_of_one_organization_and_ends() {
        let hash = SecretHash::from_bytes([5; 32]);
        let token = GatewayServiceToken {
            id: ServiceTokenId::from_bytes([7; 16]),
            organization: ORGANIZATION,
            secret_hash: hash,
            expires: Some(NOW),
        };
        let people = |token: GatewayServiceToken| {
            People::new(&GatewayPlan::new(
                Revision(1),
                [GatewayRecord::ServiceToken(token)],
            ))
        };
        let with = people(token.clone());
        let before = Timestamp::from_millis(NOW.as_millis() - 1);
        assert_eq!(with.service_token(ORGANIZATION, &hash, before), Some(token.id));
        assert_eq!(with.service_token(ORGANIZATION, &hash, NOW), None, "it is over");
        assert!(with.depends_on_time() && with.knows_service_token(&hash));
        let other = OrganizationId::from_bytes([8; 16]);
        assert_eq!(with.service_token(other, &hash, before), None, "another tenant's");
        assert!(!with.knows_service_token(&SecretHash::from_bytes([6; 32])));
        let endless = people(GatewayServiceToken {
            expires: None,
            ..token
        });
        assert_eq!(endless.service_token(ORGANIZATION, &hash, NOW), Some(token.id));
        assert!(!endless.depends_on_time());
    }

    #[test]
    fn a_gateways_session_is_taken_while_its_key_is_in_the_plan() {
        let keys = NodeKeys::generate().unwrap();
        let public = SigningKey::from_bytes(*keys.public_key().as_bytes());
        let text = session().seal(&keys);
        let host: Hostname = "h.example".parse().unwrap();
        let with = people(None, vec![public]);
        let other: Hostname = "other.example".parse().unwrap();
        assert_eq!(with.known(&text, &host, NOW), None);
        assert_eq!(*with.session(&text, &host, NOW).unwrap(), session());
        assert_eq!(*with.known(&text, &host, NOW).unwrap(), session());
        assert_eq!(with.known(&text, &other, NOW), None);
        assert_eq!(with.known(&text, &host, session().expires), None);
        assert_eq!(with.session(&text, &other, NOW), Err(SignedError::Host));
        let late = session().expires;
        assert_eq!(with.session(&text, &host, late), Err(SignedError::Expired));
        let without = people(None, Vec::new());
        assert_eq!(without.session(&text, &host, NOW), Err(SignedError::UnknownKey));
    }
}
