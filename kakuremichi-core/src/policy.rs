//! Who may reach a service, and the one function that decides it.
//!
//! [`evaluate`] is pure: it consumes a policy and the facts about a visitor, and nothing but it makes
//! a [`Permit`], without which no upstream connection is opened. It runs in the gateway's process, and
//! again when the plan changes.

mod condition;
mod decision;

pub use condition::{Condition, ConditionError, MAX_CONDITION_DEPTH, MAX_CONDITION_NODES};
pub use decision::{Challenge, Decision, Denial, Facts, Permit, Proof, Subject, evaluate};

use crate::name::Label;

/// The most rules of one policy.
pub const MAX_RULES: usize = 256;
/// The most methods of one policy.
pub const MAX_METHODS: usize = 16;
/// The most users of one Basic method.
pub const MAX_BASIC_USERS: usize = 256;

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
    /// When there are too many rules, methods or users, or a condition is too large.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.rules.len() > MAX_RULES {
            return Err(PolicyError::Rules);
        }
        self.rules.iter().try_for_each(|rule| rule.when.validate())?;
        let Access::AnyOf(methods) = &self.access else {
            return Ok(());
        };
        if methods.is_empty() || methods.len() > MAX_METHODS {
            return Err(PolicyError::Methods);
        }
        methods.iter().try_for_each(|method| match method {
            Method::Basic { users } if users.is_empty() || users.len() > MAX_BASIC_USERS => {
                Err(PolicyError::Users)
            }
            Method::Basic { .. } | Method::SignedIn => Ok(()),
        })
    }
}

/// Why a policy cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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
    /// A condition is too large.
    #[error(transparent)]
    Condition(#[from] ConditionError),
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
}

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Name and password by HTTP Basic authentication (RFC 7617).
    Basic {
        /// Who may pass.
        users: Vec<BasicUser>,
    },
    /// Any principal that the gateway's [`Authenticator`](crate::auth::Authenticator) proves.
    SignedIn,
}

/// A name and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicUser {
    /// The name; case matters.
    pub name: String,
    /// The password's Argon2id hash in PHC string format.
    pub password_hash: String,
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
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The visitor passes, without a method.
    Allow,
    /// The visitor is denied.
    Deny,
}

#[cfg(test)]
mod tests;
