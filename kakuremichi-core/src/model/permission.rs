//! What a person or a credential may do through the API.

use std::{fmt, str::FromStr};

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One right in an organization. Its text, such as `services.write`, is stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Permission {
            $($(#[$doc])* $name,)*
        }

        impl Permission {
            /// Every permission.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

permissions! {
    /// To see enrolment tokens, never their secrets.
    TokensRead = "tokens.read";
    /// To make and to revoke enrolment tokens.
    TokensWrite = "tokens.write";
    /// To see nodes and their state.
    NodesRead = "nodes.read";
    /// To rename, revoke and delete nodes.
    NodesWrite = "nodes.write";
    /// To see sites.
    SitesRead = "sites.read";
    /// To add, change and delete sites.
    SitesWrite = "sites.write";
    /// To see services and their usage.
    ServicesRead = "services.read";
    /// To publish, change and delete services.
    ServicesWrite = "services.write";
    /// To see shared policies, and to try what services would decide.
    PoliciesRead = "policies.read";
    /// To make, change and delete shared policies.
    PoliciesWrite = "policies.write";
    /// To see API keys, never their secrets.
    ApiKeysRead = "api-keys.read";
    /// To make and to delete API keys.
    ApiKeysWrite = "api-keys.write";
    /// To see members, groups and invitations.
    MembersRead = "members.read";
    /// To invite and to remove members, and to change their roles and groups.
    MembersWrite = "members.write";
    /// To see roles.
    RolesRead = "roles.read";
    /// To make, change and delete roles.
    RolesWrite = "roles.write";
    /// To read and to export the audit of the organization.
    AuditRead = "audit.read";
    /// To see identity providers, never their secrets.
    ProvidersRead = "identity-providers.read";
    /// To add, change and delete identity providers.
    ProvidersWrite = "identity-providers.write";
    /// To approve and to refuse nodes that wait for it.
    NodesApprove = "nodes.approve";
    /// To see service tokens, never their secrets.
    ServiceTokensRead = "service-tokens.read";
    /// To make, change and delete service tokens.
    ServiceTokensWrite = "service-tokens.write";
    /// To say what the organization asks of its members' accounts.
    OrganizationWrite = "organization.write";
    /// To see notification channels, never their secrets.
    ChannelsRead = "notification-channels.read";
    /// To make, change, test and delete notification channels; whoever makes one reads the audit, too.
    ChannelsWrite = "notification-channels.write";
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such permission")]
pub struct UnknownPermission;

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        let found = Self::ALL.iter().find(|permission| permission.as_str() == text);
        found.copied().ok_or(UnknownPermission)
    }
}

/// A set of permissions.
///
/// [`EVERYTHING`](Self::EVERYTHING) is more than the set of all there are: it has those that later versions add,
/// too.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u64);

impl Permissions {
    /// No permission.
    pub const NONE: Self = Self(0);
    /// Each permission, whatever will be added.
    pub const EVERYTHING: Self = Self(u64::MAX);

    /// Whether `permission` is in it.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & Self::bit(permission) != 0
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, permission: Permission) -> Self {
        Self(self.0 | Self::bit(permission))
    }

    /// Without this one. What was everything is then the rest of what there is today.
    #[must_use]
    pub fn without(self, permission: Permission) -> Self {
        self.iter().filter(|other| *other != permission).collect()
    }

    /// What is in one of the two.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is everything.
    #[must_use]
    pub const fn is_everything(self) -> bool {
        self.0 == u64::MAX
    }

    /// The permissions in it.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        let all = Permission::ALL.iter().copied();
        all.filter(move |permission| self.contains(*permission))
    }

    const fn bit(permission: Permission) -> u64 {
        1 << permission as u8
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        permissions.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_is_found_by_its_text() {
        for permission in Permission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
        }
        assert_eq!("everything".parse::<Permission>(), Err(UnknownPermission));
    }

    #[test]
    fn everything_is_more_than_all() {
        let all: Permissions = Permission::ALL.iter().copied().collect();
        assert!(!all.covers(Permissions::EVERYTHING) && Permissions::EVERYTHING.covers(all));
        let less = Permissions::EVERYTHING.without(Permission::NodesRead);
        assert_eq!(less, all.without(Permission::NodesRead));
        assert!(!less.contains(Permission::NodesRead) && less.contains(Permission::NodesWrite));
        assert_eq!(less.union(all), all);
        assert_eq!(
            less.intersection(Permissions::NONE.with(Permission::NodesRead)),
            Permissions::NONE
        );
    }
}
