//! Who may reach a service, and the one function that decides it.
//!
//! [`evaluate`] is pure: it consumes a policy and the facts about a visitor, and nothing but it makes
//! a [`Permit`], without which no upstream connection is opened. It runs in the gateway's process, and
//! again when the plan changes. [`explain`] runs the same code, and says what it looked at.
//!
//! # How it decides
//!
//! A [`CompiledPolicy`] has lists of rules: those of the [shared policies](SharedPolicy) that are attached
//! to the service, in order, those attached to the route, and the service's own. The first rule whose
//! condition holds decides: it lets the visitor past, denies them, or has them go on to the methods of
//! the [`Access`] without looking at further rules. If no rule decides, the access does. Where nobody
//! says anything, everybody is denied.
//!
//! A condition has one of [three values](Truth). What cannot be known opens nothing:
//!
//! - a rule that allows needs its condition to be true;
//! - a rule that denies does so when its condition is true or unknown;
//! - after an unknown rule that would have the visitor go on, later rules can deny but not allow, so that
//!   the outcome is never better than it would be if the condition were true, or false.
//!
//! Who a visitor is, is unknown until they prove it. Where that is all that is missing, and the proof can
//! be asked for, the visitor is challenged instead of denied; they get past neither way.
//!
//! How strongly somebody signed in is known, so for someone who signed in by one factor, "at least two factors" is false.
//! But they may be able to prove more: who would be denied, and would not be if they had signed in more strongly, is
//! challenged to do so, as strongly as it takes and no more. That goes for rules that allow the strong as for rules that
//! deny the weak, and lets nobody past who has not done it.

mod compiled;
mod condition;
mod decision;
mod explanation;
mod judge;
mod shared;
mod step_up;
mod time_window;
mod truth;

pub use compiled::{CompiledPolicy, Needs};
pub use condition::{
    Condition, ConditionError, CountryCode, HeaderTest, MAX_CONDITION_DEPTH, MAX_CONDITION_NODES,
    MAX_CONDITION_TEXT,
};
pub use decision::{Challenge, Decision, Denial, Facts, Permit, Proof, Subject, evaluate};
pub use explanation::{DecidedBy, Explanation, Outcome, Step, explain};
pub use shared::{MAX_ATTACHED, PolicySet, SharedPolicy, UnknownPolicy};
pub use time_window::{MINUTES_PER_DAY, TimeWindow, TimeWindowError, Weekday, Weekdays};
pub use truth::{Missing, Truth};

use std::time::Duration;

use crate::{
    auth::{Identity, Strength},
    id::ServiceTokenId,
    name::Label,
    time::Timestamp,
};

/// The most rules of one policy.
pub const MAX_RULES: usize = 256;
/// The most methods of one policy.
pub const MAX_METHODS: usize = 16;
/// The most users of one Basic method.
pub const MAX_BASIC_USERS: usize = 256;
/// The most service tokens that one method names.
pub const MAX_NAMED_TOKENS: usize = 64;
/// The most roles, and the most groups, of one requirement.
pub const MAX_REQUIRED: usize = 64;
/// The shortest time that a requirement gives to a sign-in. Clocks of gateways and of Control that differ within what
/// tickets allow never send anybody round and round.
pub const MIN_SIGN_IN_AGE: Duration = Duration::from_secs(5 * 60);
/// The longest time that a requirement gives to a sign-in: sessions at gateways last no longer.
pub const MAX_SIGN_IN_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Rules first, in order; then, for whom no rule decided, the methods.
///
/// The default policy has neither and denies everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules; the first whose condition holds decides.
    pub rules: Vec<Rule>,
    /// What is asked of a visitor for whom no rule decided.
    pub access: Access,
}

impl Policy {
    /// Everybody may pass.
    #[must_use]
    pub const fn public() -> Self {
        Self {
            rules: Vec::new(),
            access: Access::Public,
        }
    }

    /// Nobody may pass.
    #[must_use]
    pub const fn deny() -> Self {
        Self {
            rules: Vec::new(),
            access: Access::Deny,
        }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// When there are too many rules, methods or users, a condition is too large, or a rule that does not
    /// deny looks at a header.
    pub fn validate(&self) -> Result<(), PolicyError> {
        validate_rules(&self.rules)?;
        self.access.validate()
    }
}

fn validate_rules(rules: &[Rule]) -> Result<(), PolicyError> {
    if rules.len() > MAX_RULES {
        return Err(PolicyError::Rules);
    }
    rules.iter().try_for_each(Rule::validate)
}

/// Why a policy cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too many rules.
    #[error("a policy has at most {MAX_RULES} rules")]
    Rules,
    /// No method, or too many.
    #[error("a policy that asks for a method has 1 to {MAX_METHODS} of them")]
    Methods,
    /// No user, or too many.
    #[error("a password method has 1 to {MAX_BASIC_USERS} users")]
    Users,
    /// Too many roles or groups, or a group without a name.
    #[error("a method requires at most {MAX_REQUIRED} roles and as many groups, each of which has a name")]
    Required,
    /// A sign-in may be too short or too long ago.
    #[error("the maximum age of a sign-in is from {} to {} seconds", MIN_SIGN_IN_AGE.as_secs(), MAX_SIGN_IN_AGE.as_secs())]
    Age,
    /// Too many service tokens.
    #[error("a method names at most {MAX_NAMED_TOKENS} service tokens")]
    Tokens,
    /// A condition is too large.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// A rule would let past whoever writes the right header (LESSONS, advisory 4).
    #[error(
        "the rule {0} looks at a header, which every visitor writes as they like: only a rule that denies can"
    )]
    Header(Label),
}

/// What happens to visitors for whom no rule decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// They are denied.
    #[default]
    Deny,
    /// They pass.
    Public,
    /// They pass once they have proven themselves by one of these.
    AnyOf(Vec<Method>),
    /// They pass once they have proven themselves by each of these.
    AllOf(Vec<Method>),
}

impl Access {
    /// The methods; none where none is asked for.
    #[must_use]
    pub fn methods(&self) -> &[Method] {
        match self {
            Self::AnyOf(methods) | Self::AllOf(methods) => methods,
            Self::Deny | Self::Public => &[],
        }
    }

    /// The users of all Basic methods.
    pub fn basic_users(&self) -> impl Iterator<Item = &BasicUser> {
        self.methods().iter().flat_map(|method| match method {
            Method::Basic { users } => users.as_slice(),
            Method::SignedIn(_) | Method::ServiceToken { .. } => &[],
        })
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// When there are too many methods or users, or none.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let methods = match self {
            Self::Deny | Self::Public => return Ok(()),
            Self::AnyOf(methods) | Self::AllOf(methods) => methods,
        };
        if methods.is_empty() || methods.len() > MAX_METHODS {
            return Err(PolicyError::Methods);
        }
        methods.iter().try_for_each(|method| match method {
            Method::Basic { users } if users.is_empty() || users.len() > MAX_BASIC_USERS => {
                Err(PolicyError::Users)
            }
            Method::SignedIn(requirement) => requirement.validate(),
            Method::ServiceToken { tokens } if tokens.len() > MAX_NAMED_TOKENS => Err(PolicyError::Tokens),
            Method::Basic { .. } | Method::ServiceToken { .. } => Ok(()),
        })
    }
}

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Name and password by HTTP Basic authentication (RFC 7617).
    Basic {
        /// Who may pass.
        users: Vec<BasicUser>,
    },
    /// A principal that the gateway's [`Authenticator`](crate::auth::Authenticator) proves, and that meets
    /// this.
    SignedIn(Requirement),
    /// A service token of the organization, which a program shows with each request.
    ServiceToken {
        /// One of these; any of the organization's if there are none here.
        tokens: Vec<ServiceTokenId>,
    },
}

impl Method {
    /// Any principal that is proven, whatever is known of it.
    #[must_use]
    pub const fn signed_in() -> Self {
        Self::SignedIn(Requirement {
            roles: Vec::new(),
            groups: Vec::new(),
            strength: Strength::OneFactor,
            max_age: None,
        })
    }
}

/// A name and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicUser {
    /// The name; case matters.
    pub name: String,
    /// The password's Argon2id hash in PHC string format.
    pub password_hash: String,
}

/// What somebody who signed in must be, too. The default asks for nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirement {
    /// One of these roles, if there are any here.
    pub roles: Vec<Label>,
    /// In one of these groups, if there are any here.
    pub groups: Vec<String>,
    /// At least this strongly proven.
    pub strength: Strength,
    /// The person signed in, or confirmed it, no longer ago than this, in whole seconds from [`MIN_SIGN_IN_AGE`] to
    /// [`MAX_SIGN_IN_AGE`].
    pub max_age: Option<Duration>,
}

impl Requirement {
    /// Whether somebody has signed in as strongly, and as recently, as this asks. When somebody did of whom that is not
    /// known was too long ago.
    pub(crate) fn is_proven(&self, identity: &Identity, now: Timestamp) -> bool {
        let recent = |age| identity.authenticated().is_some_and(|at| now < at.after(age));
        identity.strength() >= self.strength && self.max_age.is_none_or(recent)
    }

    fn validate(&self) -> Result<(), PolicyError> {
        let named = |group: &String| (1..=MAX_CONDITION_TEXT).contains(&group.len());
        if self.roles.len().max(self.groups.len()) > MAX_REQUIRED || !self.groups.iter().all(named) {
            return Err(PolicyError::Required);
        }
        let possible =
            |age: Duration| (MIN_SIGN_IN_AGE..=MAX_SIGN_IN_AGE).contains(&age) && age.subsec_nanos() == 0;
        if !self.max_age.is_none_or(possible) {
            return Err(PolicyError::Age);
        }
        Ok(())
    }
}

/// Decides about the visitors for whom its condition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, for logs and the audit.
    pub name: Label,
    /// When it holds.
    pub when: Condition,
    /// What it does.
    pub effect: Effect,
    /// It is looked at and reported, and decides nothing.
    pub dry_run: bool,
}

impl Rule {
    /// A rule that counts.
    #[must_use]
    pub const fn new(name: Label, when: Condition, effect: Effect) -> Self {
        Self {
            name,
            when,
            effect,
            dry_run: false,
        }
    }

    /// Checks the condition.
    ///
    /// # Errors
    /// When it is too large, or looks at a header although the rule does not deny.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.when.validate()?;
        // Going on can lead past a later rule that denies, so it counts as letting past.
        if self.effect != Effect::Deny && self.when.looks_at_headers() {
            return Err(PolicyError::Header(self.name.clone()));
        }
        Ok(())
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The visitor passes, without a method.
    Allow,
    /// The visitor is denied.
    Deny,
    /// The visitor goes on to the methods, past all rules behind this one.
    Continue,
}

#[cfg(test)]
mod tests;
