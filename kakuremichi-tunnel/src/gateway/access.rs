//! Decides about a visitor: finds out what there is to know, lets the pure function of core decide,
//! and hands out the permit.

#![expect(
    clippy::disallowed_methods,
    reason = "the clock is read here, where facts about a visitor are gathered"
)]

mod attempts;
mod credential;
mod judgement;
mod remembered;
mod service_token;
mod verify;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue};
use kakuremichi_core::{
    auth::{
        Authentication, AuthenticationRequest, Authenticator, AuthorizationRequest, Authorizer, Credential,
        Identity, Principal,
    },
    model::Transport,
    policy::{BasicUser, Challenge, CompiledPolicy, CountryCode, Decision, Denial, Permit, Proof, Subject},
    request::CanonicalRequest,
    secret::Secret,
    time::Timestamp,
};
use kakuremichi_proto::{
    identity::{ParseSecretError, ServiceTokenText},
    sign_in::{GatewaySession, SignedError},
};

use self::{
    attempts::Attempts,
    judgement::{Judgements, Unjudged},
    remembered::{CredentialNamer, Remembered},
    verify::Verifier,
};
use super::{
    flows::{AskedFor, KnownFacts},
    geo::Geo,
    metrics::Counters,
    settings::{Limits, Timeouts},
    sign_in::{People, cookies},
    table::{Matched, ServiceEntry},
};

/// Decides about visitors, on all shards: who was wrong at one is known to the others.
#[derive(Debug)]
pub(crate) struct AccessControl {
    verifier: Arc<Verifier>,
    namer: CredentialNamer,
    remembered: Mutex<Remembered>,
    attempts: Mutex<Attempts>,
    /// How many plans came: what was found out under an older one is not remembered.
    plans: AtomicU64,
    hooks: Hooks,
    judgements: Judgements,
    counters: Arc<Counters>,
}

/// What an embedder adds to the decision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks {
    /// Proves principals.
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
    /// Objects.
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    /// Knows where addresses are.
    pub(crate) geo: Geo,
}

/// The outcome.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The visitor may pass.
    Admitted(Box<Admission>),
    /// The visitor has to prove something first.
    Challenged(Challenge, Known),
    /// The visitor may not pass.
    Denied(Denial),
    /// Too many wrong credentials came from the visitor's address.
    Throttled(Duration),
    /// Too many passwords wait to be verified.
    Overloaded,
}

/// What is known of a visitor who has to prove something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    Nobody,
    /// They have signed in at Control, and may do so more strongly, or again.
    BySession,
    /// They have signed in by a credential, which their client shows again, whatever else they sign in with.
    ByCredential,
}

/// A visitor that may pass.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The right to open an upstream connection.
    pub(crate) permit: Permit,
    /// What it follows from.
    pub(crate) facts: KnownFacts,
    /// The `Authorization` field was for the gateway: it is not forwarded.
    pub(crate) authorization_used: bool,
}

/// What a credential proved.
#[derive(Debug)]
enum Proven {
    Nothing,
    Basic(Proof, String),
    SignedIn(Identity),
    Wrong,
    Throttled(Duration),
    Overloaded,
}

/// What a session's cookie shows.
#[derive(Debug)]
enum Shown {
    Nothing,
    Session(Arc<GatewaySession>),
    Throttled(Duration),
}

impl AccessControl {
    /// `key` is random and names credentials in memory.
    pub(crate) fn new(
        limits: &Limits,
        timeouts: &Timeouts,
        hooks: Hooks,
        key: &[u8; 32],
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            verifier: Arc::new(Verifier::new(limits.verifications, limits.waiting_verifications)),
            namer: CredentialNamer::new(key),
            remembered: Mutex::new(Remembered::new(limits.remembered)),
            attempts: Mutex::default(),
            plans: AtomicU64::new(0),
            hooks,
            judgements: Judgements::new(limits.judgements, timeouts.judgement),
            counters,
        }
    }

    /// A new plan came: nothing that was verified before counts any more.
    pub(crate) fn plan_changed(&self) {
        self.plans.fetch_add(1, Ordering::AcqRel);
        lock(&self.remembered).clear();
    }

    /// Decides about a request.
    pub(crate) async fn decide(
        &self,
        source: IpAddr,
        headers: &HeaderMap,
        request: &CanonicalRequest,
        (people, matched): (&People, &Matched),
    ) -> Verdict {
        let service = &*matched.service;
        let policy = &*matched.route().policy;
        let needs = policy.needs();
        let mut noted = request.clone();
        for name in &needs.headers {
            let lines = headers.get_all(name.as_str()).iter();
            noted = noted.note(name.clone(), lines.map(HeaderValue::as_bytes));
        }
        let (source, country, asn) = self.locate(source, policy);
        let mut facts = KnownFacts {
            subject: Subject {
                service: service.id,
                route: Some(matched.route().id),
            },
            source,
            country,
            asn,
            asked: AskedFor::Http(noted),
            proofs: Vec::new(),
            password_hash: None,
            session: None,
            service_token: None,
        };
        // A password or a token of the gateway's is never shown to a target, needed for this request or not.
        let bears_token = service_token::is_authorization(headers);
        let mut authorization_used = bears_token || service.has_passwords && credential::is_basic(headers);
        let mut decision = facts.decide(policy, false);
        // Where no proof can change the outcome, none is looked at: an address that a rule denies
        // cannot make the gateway verify passwords.
        let open = matches!(decision, Decision::Challenge(_)) || needs.identity;
        if open && let Some(text) = cookies::session(headers) {
            match self.session(&facts, people, request, text) {
                Shown::Nothing => {}
                Shown::Session(session) => facts.session = Some(session),
                Shown::Throttled(wait) => return Verdict::Throttled(wait),
            }
            if facts.look_up(people, service.organization) {
                decision = facts.decide(policy, false);
            }
        }
        let open = matches!(decision, Decision::Challenge(_)) && needs.service_token || needs.identity;
        if open && let Some(shown) = service_token::read(headers) {
            if let Err(wait) = self.service_token(&mut facts, people, shown) {
                return Verdict::Throttled(wait);
            }
            if facts.look_up(people, service.organization) {
                decision = facts.decide(policy, false);
            }
        }
        let open = matches!(decision, Decision::Challenge(_)) || needs.identity;
        if open
            && !bears_token
            && let Some(credential) = credential::read(headers)
        {
            match self.prove(&facts, policy, request, &credential).await {
                Proven::Nothing | Proven::Wrong => {}
                Proven::Basic(proof, hash) => {
                    facts.proofs.push(proof);
                    facts.password_hash = Some(hash);
                }
                Proven::SignedIn(identity) => {
                    // Who shows both is who the credential says.
                    facts.session = None;
                    facts.proofs.retain(|proof| !matches!(proof, Proof::SignedIn(_)));
                    facts.proofs.push(Proof::SignedIn(identity));
                    authorization_used = true;
                }
                Proven::Throttled(wait) => return Verdict::Throttled(wait),
                Proven::Overloaded => return Verdict::Overloaded,
            }
            decision = facts.decide(policy, false);
        }
        let decision = self.second_opinion(decision, &facts, policy).await;
        tell_of_trials(policy, &facts);
        self.verdict(decision, facts, authorization_used)
    }

    /// Decides about a connection to a TCP service, or a session at a UDP service.
    pub(crate) async fn decide_port(
        &self,
        source: IpAddr,
        transport: Transport,
        port: u16,
        service: &ServiceEntry,
    ) -> Verdict {
        let (source, country, asn) = self.locate(source, &service.policy);
        let facts = KnownFacts {
            subject: Subject {
                service: service.id,
                route: None,
            },
            source,
            country,
            asn,
            asked: AskedFor::Port(transport, port),
            proofs: Vec::new(),
            password_hash: None,
            session: None,
            service_token: None,
        };
        let decision = facts.decide(&service.policy, false);
        let decision = self.second_opinion(decision, &facts, &service.policy).await;
        tell_of_trials(&service.policy, &facts);
        self.verdict(decision, facts, false)
    }

    /// Where an address is, as far as the policy asks.
    fn locate(&self, source: IpAddr, policy: &CompiledPolicy) -> (IpAddr, Option<CountryCode>, Option<u32>) {
        let (source, geo, needs) = (source.to_canonical(), &self.hooks.geo, policy.needs());
        let country = needs.country.then(|| geo.country(source)).flatten();
        (source, country, needs.asn.then(|| geo.asn(source)).flatten())
    }

    fn verdict(&self, decision: Decision, facts: KnownFacts, authorization_used: bool) -> Verdict {
        match decision {
            Decision::Permit(permit) => {
                self.counters.permitted.one();
                Verdict::Admitted(Box::new(Admission {
                    permit,
                    facts,
                    authorization_used,
                }))
            }
            Decision::Challenge(challenge) => {
                self.counters.challenged.one();
                let signed_in = facts
                    .proofs
                    .iter()
                    .any(|proof| matches!(proof, Proof::SignedIn(_)));
                let known = match (signed_in, &facts.session) {
                    (false, _) => Known::Nobody,
                    (true, Some(_)) => Known::BySession,
                    (true, None) => Known::ByCredential,
                };
                Verdict::Challenged(challenge, known)
            }
            Decision::Deny(denial) => {
                self.counters.denied.one();
                Verdict::Denied(denial)
            }
        }
    }

    /// Asks the authorizer about whom the policy permits. An authorizer that fails objects.
    async fn second_opinion(
        &self,
        decision: Decision,
        facts: &KnownFacts,
        policy: &CompiledPolicy,
    ) -> Decision {
        let (Decision::Permit(permit), Some(authorizer)) = (&decision, &self.hooks.authorizer) else {
            return decision;
        };
        let request = match &facts.asked {
            AskedFor::Http(request) => Some(request),
            AskedFor::Port(..) => None,
        };
        let principal = permit
            .principal()
            .or_else(|| facts.proofs.first().map(Proof::principal));
        let asked = AuthorizationRequest::new(facts.source, principal, facts.subject, request);
        match self.judgements.ask(authorizer.authorize(asked)).await {
            Ok(true) => decision,
            Ok(false) => facts.decide(policy, true),
            Err(error) => {
                self.counters.judgements_failed.one();
                tracing::warn!(error = %chain(&error), "the authorizer failed: the visitor is denied");
                facts.decide(policy, true)
            }
        }
    }

    /// Looks at a session's cookie. One that this gateway does not know any more, or that is over, shows nothing; one
    /// that somebody forged counts as a wrong credential.
    fn session(&self, facts: &KnownFacts, people: &People, request: &CanonicalRequest, text: &str) -> Shown {
        // Whoever is known is not held up by what others at the same address guess.
        if let Some(session) = people.known(text, request.host(), wall_clock()) {
            return Shown::Session(session);
        }
        if let Err(wait) = lock(&self.attempts).admit(facts.source, Instant::now()) {
            return Shown::Throttled(wait);
        }
        match people.session(text, request.host(), wall_clock()) {
            Ok(session) => Shown::Session(session),
            Err(SignedError::Signature) => {
                self.wrong(facts.source);
                Shown::Nothing
            }
            Err(error) => {
                tracing::debug!(%error, "a session is not taken");
                Shown::Nothing
            }
        }
    }

    /// Looks at a service token. One that no plan knows, or that is damaged, counts as a wrong credential.
    fn service_token(
        &self,
        facts: &mut KnownFacts,
        people: &People,
        shown: Result<ServiceTokenText, ParseSecretError>,
    ) -> Result<(), Duration> {
        let hash = shown.ok().map(|token| token.secret_hash());
        facts.service_token = hash.filter(|hash| people.knows_service_token(hash));
        // Whoever is known is not held up by what others at the same address guess.
        if facts.service_token.is_none() {
            lock(&self.attempts).admit(facts.source, Instant::now())?;
            self.wrong(facts.source);
        }
        Ok(())
    }

    async fn prove(
        &self,
        facts: &KnownFacts,
        policy: &CompiledPolicy,
        request: &CanonicalRequest,
        credential: &Credential,
    ) -> Proven {
        let now = Instant::now();
        if let Credential::Basic { name, password } = credential
            && policy.needs().basic
        {
            let user = policy.access().basic_users().find(|user| user.name == *name);
            if user.is_some() || self.hooks.authenticator.is_none() {
                return self.password(facts, policy, user, name, password).await;
            }
        }
        let Some(authenticator) = &self.hooks.authenticator else {
            return Proven::Nothing;
        };
        if !policy.needs().signed_in && !policy.needs().identity {
            return Proven::Nothing;
        }
        if let Err(wait) = lock(&self.attempts).admit(facts.source, now) {
            return Proven::Throttled(wait);
        }
        let asked =
            AuthenticationRequest::new(facts.source, credential).at_service(facts.subject.service, request);
        match self.judgements.ask(authenticator.authenticate(asked)).await {
            Ok(Authentication::Proven(identity)) => Proven::SignedIn(identity),
            Ok(Authentication::NotMine) => Proven::Nothing,
            Ok(Authentication::Refused) => self.wrong(facts.source),
            Err(error) => {
                self.counters.judgements_failed.one();
                tracing::warn!(error = %chain(&error), "the authenticator failed: nothing is proven");
                match error {
                    Unjudged::TooMany => Proven::Overloaded,
                    Unjudged::TimedOut | Unjudged::Failed(_) => Proven::Nothing,
                }
            }
        }
    }

    async fn password(
        &self,
        facts: &KnownFacts,
        policy: &CompiledPolicy,
        user: Option<&BasicUser>,
        name: &str,
        password: &Secret<String>,
    ) -> Proven {
        // A name that does not exist costs as much as one that does.
        let Some(tried) = user.or_else(|| policy.access().basic_users().next()) else {
            return Proven::Nothing;
        };
        let id = self.namer.name(
            facts.subject.service,
            name,
            password.expose(),
            &tried.password_hash,
        );
        let proven = |user: &BasicUser| {
            let principal = Principal::new("basic", user.name.clone());
            let proof = Proof::Basic {
                service: facts.subject.service,
                principal,
            };
            Proven::Basic(proof, user.password_hash.clone())
        };
        if let Some(user) = user
            && lock(&self.remembered).knows(id, Instant::now())
        {
            return proven(user);
        }
        if let Err(wait) = lock(&self.attempts).admit(facts.source, Instant::now()) {
            return Proven::Throttled(wait);
        }
        let plans = self.plans.load(Ordering::Acquire);
        self.counters.verifications.one();
        let verified = self.verifier.verify(id, password, &tried.password_hash).await;
        match (verified, user) {
            (Err(_), _) => Proven::Overloaded,
            (Ok(true), Some(user)) => {
                let mut remembered = lock(&self.remembered);
                if plans == self.plans.load(Ordering::Acquire) {
                    remembered.remember(id, Instant::now());
                }
                drop(remembered);
                proven(user)
            }
            (Ok(_), _) => self.wrong(facts.source),
        }
    }

    fn wrong(&self, source: IpAddr) -> Proven {
        self.counters.wrong_credentials.one();
        lock(&self.attempts).failed(source, Instant::now());
        Proven::Wrong
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under the locks panics half way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of day.
pub(super) fn wall_clock() -> Timestamp {
    SystemTime::now().into()
}

/// Logs the rules that are only tried out and would have acted on the visitor.
fn tell_of_trials(policy: &CompiledPolicy, facts: &KnownFacts) {
    if !policy.needs().dry_run {
        return;
    }
    for step in facts.explain(policy).dry_runs() {
        let (service, effect) = (facts.subject.service, step.effect);
        tracing::info!(%service, rule = %step.rule, ?effect, "a rule that is tried out would have acted");
    }
}

/// An error and what it was caused by, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
