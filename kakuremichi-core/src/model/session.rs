//! Sessions of people who signed in to Control.

use std::net::IpAddr;

use crate::{
    auth::Strength,
    id::{OrganizationId, SessionId, UserId},
    secret::SecretHash,
    time::Timestamp,
};

/// The longest description of a browser or a program that is kept, in bytes.
pub const MAX_USER_AGENT: usize = 256;

/// By what a person signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignIn {
    /// A password.
    Password,
    /// A password, and a code of the second factor.
    PasswordAndTotp,
    /// A password, and a recovery code in the place of the second factor.
    PasswordAndRecoveryCode,
    /// A passkey.
    Passkey,
    /// A password, and a passkey.
    PasswordAndPasskey,
    /// An identity provider.
    Provider,
    /// An identity provider that asks for a second factor.
    ProviderAndSecondFactor,
}

impl SignIn {
    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::PasswordAndTotp => "password+totp",
            Self::PasswordAndRecoveryCode => "password+recovery-code",
            Self::Passkey => "passkey",
            Self::PasswordAndPasskey => "password+passkey",
            Self::Provider => "identity-provider",
            Self::ProviderAndSecondFactor => "identity-provider+second-factor",
        }
    }

    /// How strong it is, for policies.
    #[must_use]
    pub const fn strength(self) -> Strength {
        match self {
            Self::Passkey | Self::PasswordAndPasskey => Strength::PhishingResistant,
            Self::PasswordAndTotp | Self::PasswordAndRecoveryCode | Self::ProviderAndSecondFactor => {
                Strength::TwoFactors
            }
            Self::Password | Self::Provider => Strength::OneFactor,
        }
    }

    /// Whether there were two factors: a passkey is two, since its authenticator knows its person.
    #[must_use]
    pub const fn is_multi_factor(self) -> bool {
        !matches!(self.strength(), Strength::OneFactor)
    }

    /// What it is once a code of the second factor has confirmed it.
    #[must_use]
    pub const fn with_code(self) -> Self {
        match self {
            Self::Password | Self::PasswordAndRecoveryCode => Self::PasswordAndTotp,
            Self::Provider => Self::ProviderAndSecondFactor,
            Self::PasswordAndTotp
            | Self::Passkey
            | Self::PasswordAndPasskey
            | Self::ProviderAndSecondFactor => self,
        }
    }

    /// What it is once a passkey has confirmed it.
    #[must_use]
    pub const fn with_passkey(self) -> Self {
        if self.is_by_password() {
            Self::PasswordAndPasskey
        } else {
            Self::Passkey
        }
    }

    /// Whether it began with a password.
    #[must_use]
    pub const fn is_by_password(self) -> bool {
        match self {
            Self::Password
            | Self::PasswordAndTotp
            | Self::PasswordAndRecoveryCode
            | Self::PasswordAndPasskey => true,
            Self::Passkey | Self::Provider | Self::ProviderAndSecondFactor => false,
        }
    }
}

/// A person is signed in, somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its identifier, which is no secret.
    pub id: SessionId,
    /// Who signed in.
    pub user: UserId,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// By what.
    pub sign_in: SignIn,
    /// The only organization in which the session counts, if there is one: the one by whose identity provider it
    /// began.
    pub organization: Option<OrganizationId>,
    /// From which address, if it is known.
    pub source: Option<IpAddr>,
    /// What the browser or the program called itself; at most [`MAX_USER_AGENT`] bytes.
    pub user_agent: String,
    /// When it began.
    pub created: Timestamp,
    /// When the person last proved to be there: as it began, or when they confirmed it.
    pub authenticated: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}
