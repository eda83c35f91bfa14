//! What is known of somebody who signed in.

use super::Principal;
use crate::{name::Label, time::Timestamp};

/// How strongly somebody proved who they are. The order is that of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Strength {
    /// By one factor, such as a password or a token. Whoever does not know better has this.
    #[default]
    OneFactor,
    /// By two factors, such as a password and a code.
    TwoFactors,
    /// In a way that no other site can pass on: a passkey that verified its user.
    PhishingResistant,
}

impl Strength {
    /// Every strength, the weakest first.
    pub const ALL: [Self; 3] = [Self::OneFactor, Self::TwoFactors, Self::PhishingResistant];

    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneFactor => "one-factor",
            Self::TwoFactors => "two-factors",
            Self::PhishingResistant => "phishing-resistant",
        }
    }

    /// The strength of this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strength| strength.as_str() == text)
    }
}

/// Somebody who signed in, and what the authority that vouches for them says about them.
///
/// An authority that says nothing about roles, or groups, is not one that says there are none: what a
/// policy asks about them is then unknown, and what cannot be known opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    principal: Principal,
    roles: Option<Vec<Label>>,
    groups: Option<Vec<String>>,
    strength: Strength,
    authenticated: Option<Timestamp>,
}

impl Identity {
    /// Somebody of whom nothing else is known, proven by one factor.
    #[must_use]
    pub const fn new(principal: Principal) -> Self {
        Self {
            principal,
            roles: None,
            groups: None,
            strength: Strength::OneFactor,
            authenticated: None,
        }
    }

    /// Says which roles it has, all of them.
    #[must_use]
    pub fn with_roles(mut self, roles: impl IntoIterator<Item = Label>) -> Self {
        self.roles = Some(roles.into_iter().collect());
        self
    }

    /// Says which groups it is in, all of them, in the spelling of its directory.
    #[must_use]
    pub fn with_groups<T: Into<String>>(mut self, groups: impl IntoIterator<Item = T>) -> Self {
        self.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Says how strongly it was proven.
    #[must_use]
    pub const fn with_strength(mut self, strength: Strength) -> Self {
        self.strength = strength;
        self
    }

    /// Says when it was last proven by the person themselves.
    #[must_use]
    pub const fn with_authenticated(mut self, at: Timestamp) -> Self {
        self.authenticated = Some(at);
        self
    }

    /// Who it is.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The roles; `None` when nothing is known of them.
    #[must_use]
    pub fn roles(&self) -> Option<&[Label]> {
        self.roles.as_deref()
    }

    /// The groups; `None` when nothing is known of them.
    #[must_use]
    pub fn groups(&self) -> Option<&[String]> {
        self.groups.as_deref()
    }

    /// How strongly it was proven.
    #[must_use]
    pub const fn strength(&self) -> Strength {
        self.strength
    }

    /// When it was last proven by the person themselves; `None` when that is not known.
    #[must_use]
    pub const fn authenticated(&self) -> Option<Timestamp> {
        self.authenticated
    }
}

impl From<Principal> for Identity {
    fn from(principal: Principal) -> Self {
        Self::new(principal)
    }
}
