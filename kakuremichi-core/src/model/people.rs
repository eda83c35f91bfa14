//! People, and what they are in organizations.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{
    auth::Principal,
    email::EmailAddress,
    id::{GroupId, InvitationId, MemberId, OrganizationId, RoleId, SessionId, UserId},
    model::{LinkedIdentity, Passkey, Permissions},
    name::Label,
    plan::MAX_ENDED_SESSIONS,
    secret::SecretHash,
    time::Timestamp,
};

/// The most roles of one member, and of one invitation.
pub const MAX_MEMBER_ROLES: usize = 32;
/// The most groups of one member, and of one invitation.
pub const MAX_MEMBER_GROUPS: usize = 128;
/// The most recovery codes of one user.
pub const MAX_RECOVERY_CODES: usize = 10;

/// What a person is called, as they write it: 1 to 100 characters, no control characters, no white space at either
/// end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonName(String);

/// A text is no name of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 100 characters, and none that cannot be seen")]
pub struct PersonNameError;

impl PersonName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PersonName {
    type Err = PersonNameError;

    fn from_str(text: &str) -> Result<Self, PersonNameError> {
        let text = text.trim();
        // Bytes first: counting the characters of an endless text costs its length.
        if text.is_empty() || text.len() > 400 || text.chars().count() > 100 || text.chars().any(hidden) {
            return Err(PersonNameError);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Controls, and the marks that turn the direction of what follows: both make a name look like another.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A person. Users belong to the whole Control; what they may do, they may as members of organizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its identifier.
    pub id: UserId,
    /// What the person signs in with; nobody else has it.
    pub email: EmailAddress,
    /// What the person is called.
    pub name: PersonName,
    /// The password's Argon2id hash in PHC string format; without one the person signs in in other ways.
    pub password_hash: Option<String>,
    /// The second factor that an app is, once it is set up.
    pub totp: Option<Totp>,
    /// Passkeys: at most [`MAX_PASSKEYS`](super::MAX_PASSKEYS). Each is a way to sign in, and a second factor.
    pub passkeys: Vec<Passkey>,
    /// Challenges for another passkey from before are good no more.
    pub passkeys_since: Timestamp,
    /// SHA-256 of each recovery code that was not used yet: at most [`MAX_RECOVERY_CODES`].
    pub recovery_codes: Vec<SecretHash>,
    /// The last link to a new password, while it is good.
    pub reset: Option<MailedSecret>,
    /// The last link that proves who reads the address, while it is good.
    pub verification: Option<MailedSecret>,
    /// Whether the person administers this Control: every right in every organization, and over users.
    pub administrator: bool,
    /// Who the person is at identity providers: at most [`MAX_IDENTITIES`](super::MAX_IDENTITIES).
    pub identities: Vec<LinkedIdentity>,
    /// When the person proved to receive mail at the address.
    pub verified: Option<Timestamp>,
    /// When the account was disabled, if it is: it cannot sign in, and its sessions are over.
    pub disabled: Option<Timestamp>,
    /// Tickets of before this count no more at gateways.
    pub tickets_since: Timestamp,
    /// Sessions that ended before their time, until then; at most [`MAX_ENDED_SESSIONS`].
    pub ended: Vec<EndedSession>,
    /// When it was made.
    pub created: Timestamp,
}

impl User {
    /// Whether there is a second factor, without which a password is not enough.
    #[must_use]
    pub const fn has_second_factor(&self) -> bool {
        self.totp.is_some() || !self.passkeys.is_empty()
    }

    /// Notes that a session ended at `now`, so that what gateways still hold of it counts no more. Of more than
    /// [`MAX_ENDED_SESSIONS`] the one that would have ended first is forgotten; for that every ticket of before `now`
    /// counts no more, and who has a cookie is sent for another.
    pub fn end_session(&mut self, session: EndedSession, now: Timestamp) {
        self.ended
            .retain(|ended| ended.expires > now && ended.id != session.id);
        if session.expires <= now {
            return;
        }
        if self.ended.len() >= MAX_ENDED_SESSIONS {
            self.ended.sort_by_key(|ended| ended.expires);
            self.ended.remove(0);
            self.tickets_since = self.tickets_since.max(now);
        }
        self.ended.push(session);
    }
}

/// A session that ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedSession {
    /// The session.
    pub id: SessionId,
    /// When it would have ended.
    pub expires: Timestamp,
}

/// A time-based one-time password (RFC 6238).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totp {
    /// The shared secret, sealed with a key that is not stored here.
    pub sealed_secret: Vec<u8>,
    /// The step of the code that was used last, in units of 30 seconds since 1970: no code is good twice.
    pub last_step: u64,
}

/// A secret that was mailed to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailedSecret {
    /// Its SHA-256.
    pub hash: SecretHash,
    /// When it ends to be of use.
    pub expires: Timestamp,
}

/// A role of people: permissions under a name. What a node is, is a [`Role`](super::Role).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRole {
    /// Its identifier.
    pub id: RoleId,
    /// The organization in which it means something.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// What whoever has it may do.
    pub permissions: Permissions,
    /// Whether it came with the organization: it can be neither changed nor deleted.
    pub built_in: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// People under a name, for policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its identifier.
    pub id: GroupId,
    /// The organization in which it means something.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// When it was made.
    pub created: Timestamp,
}

/// A user in an organization. There is at most one for the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identifier.
    pub id: MemberId,
    /// The organization.
    pub organization: OrganizationId,
    /// The user.
    pub user: UserId,
    /// What the user may do: at most [`MAX_MEMBER_ROLES`], whose permissions add up.
    pub roles: BTreeSet<RoleId>,
    /// At most [`MAX_MEMBER_GROUPS`].
    pub groups: BTreeSet<GroupId>,
    /// When the user joined.
    pub created: Timestamp,
}

/// Lets one person join an organization, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its identifier, which is no secret.
    pub id: InvitationId,
    /// The organization that the person joins.
    pub organization: OrganizationId,
    /// Who is meant. Whoever holds the link of the first start gives an address of their own.
    pub email: Option<EmailAddress>,
    /// Roles that the person gets.
    pub roles: BTreeSet<RoleId>,
    /// Groups that the person gets.
    pub groups: BTreeSet<GroupId>,
    /// Whether the person becomes an administrator of this Control.
    pub administrator: bool,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// Who invited; nobody at the first start.
    pub inviter: Option<Principal>,
    /// The person behind it, if there is one: the inviter, or who made the inviter's key. They must still be able to give
    /// what the invitation gives when it is accepted.
    pub maker: Option<UserId>,
    /// When it ends to be of use.
    pub expires: Timestamp,
    /// When it was made.
    pub created: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_ended_is_remembered_until_it_would_have() {
        let at = Timestamp::from_millis;
        let mut user = User {
            id: UserId::from_bytes([1; 16]),
            email: "anna@example.net".parse().unwrap(),
            name: "Anna".parse().unwrap(),
            password_hash: None,
            totp: None,
            passkeys: Vec::new(),
            passkeys_since: Timestamp::default(),
            recovery_codes: Vec::new(),
            reset: None,
            verification: None,
            administrator: false,
            verified: None,
            identities: Vec::new(),
            disabled: None,
            tickets_since: Timestamp::default(),
            ended: Vec::new(),
            created: Timestamp::default(),
        };
        let session = |n: u8, expires| EndedSession {
            id: SessionId::from_bytes([n; 16]),
            expires: at(expires),
        };
        user.end_session(session(1, 100), at(10));
        user.end_session(session(1, 100), at(11));
        user.end_session(session(2, 5), at(12));
        assert_eq!((user.ended.len(), user.tickets_since), (1, Timestamp::default()));
        for n in 0..64 {
            user.end_session(session(100 + n, 1000 + i64::from(n)), at(20));
        }
        // The first is forgotten, so tickets of its time count no more.
        assert_eq!(
            (user.ended.len(), user.tickets_since),
            (MAX_ENDED_SESSIONS, at(20))
        );
        assert!(user.ended.iter().all(|ended| ended.expires >= at(1000)));
        user.end_session(session(1, 5000), at(3000));
        assert_eq!(user.ended.len(), 1);
    }

    #[test]
    fn a_name_of_a_person_can_be_seen() {
        let name = |text: &str| text.parse::<PersonName>();
        assert_eq!(name(" 山田 花子 ").unwrap().as_str(), "山田 花子");
        assert!(name(&"é".repeat(100)).is_ok());
        for bad in ["", " ", "a\nb", "a\u{202e}b", "\u{feff}x"] {
            assert_eq!(name(bad), Err(PersonNameError), "{bad:?}");
        }
        assert!(name(&"é".repeat(101)).is_err() && name(&"x".repeat(100_000)).is_err());
    }
}
