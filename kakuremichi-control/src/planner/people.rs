//! What Control knows of the people of one organization, as far as gateways have to.

use std::collections::{BTreeMap, BTreeSet};

use kakuremichi_core::{
    email::EmailAddress,
    id::{GroupId, MemberId, RoleId, SessionId, UserId},
    model::{Group, Member, User, UserRole},
    name::Label,
    plan::GatewayMember,
    store::RecordId,
    time::Timestamp,
};

/// The people of one organization.
#[derive(Debug, Clone, Default)]
pub(super) struct People {
    members: BTreeMap<UserId, Member>,
    users_of: BTreeMap<MemberId, UserId>,
    /// Those who can sign in.
    persons: BTreeMap<UserId, Person>,
    roles: BTreeMap<RoleId, Label>,
    groups: BTreeMap<GroupId, Label>,
    /// The services and policies that ask who a visitor is. Without one, gateways are told of nobody.
    asking: BTreeSet<RecordId>,
}

/// What of a user matters to gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Person {
    email: EmailAddress,
    tickets_since: Timestamp,
    ended: Vec<SessionId>,
}

impl Person {
    /// None of somebody who cannot sign in.
    fn of(user: &User) -> Option<Self> {
        user.disabled.is_none().then(|| Self {
            email: user.email.clone(),
            tickets_since: user.tickets_since,
            ended: user.ended.iter().map(|ended| ended.id).collect(),
        })
    }
}

impl People {
    /// Whether the user is a member.
    pub(super) fn has(&self, user: UserId) -> bool {
        self.members.contains_key(&user)
    }

    /// Takes a member as it is now, and adds to `touched` of whom gateways may have to be told otherwise.
    pub(super) fn set_member(
        &mut self,
        id: MemberId,
        member: Option<Member>,
        touched: &mut BTreeSet<UserId>,
    ) {
        if let Some(user) = self.users_of.remove(&id) {
            self.members.remove(&user);
            touched.insert(user);
        }
        if let Some(member) = member {
            touched.insert(member.user);
            self.users_of.insert(id, member.user);
            self.members.insert(member.user, member);
        }
    }

    /// Takes a user as it is now.
    pub(super) fn set_user(&mut self, id: UserId, user: Option<&User>, touched: &mut BTreeSet<UserId>) {
        let now = user.and_then(Person::of);
        if self.persons.get(&id) == now.as_ref() {
            return;
        }
        match now {
            Some(person) => self.persons.insert(id, person),
            None => self.persons.remove(&id),
        };
        touched.insert(id);
    }

    /// Takes a role as it is now.
    pub(super) fn set_role(&mut self, id: RoleId, role: Option<&UserRole>, touched: &mut BTreeSet<UserId>) {
        if rename(&mut self.roles, id, role.map(|role| &role.name)) {
            let with = self.members.values().filter(|member| member.roles.contains(&id));
            touched.extend(with.map(|member| member.user));
        }
    }

    /// Takes a group as it is now.
    pub(super) fn set_group(&mut self, id: GroupId, group: Option<&Group>, touched: &mut BTreeSet<UserId>) {
        if rename(&mut self.groups, id, group.map(|group| &group.name)) {
            let with = self.members.values().filter(|member| member.groups.contains(&id));
            touched.extend(with.map(|member| member.user));
        }
    }

    /// Says whether a service, or a policy, asks who a visitor is.
    pub(super) fn set_asking(&mut self, id: RecordId, asks: bool, touched: &mut BTreeSet<UserId>) {
        let before = self.asking.is_empty();
        if asks {
            self.asking.insert(id);
        } else {
            self.asking.remove(&id);
        }
        if before != self.asking.is_empty() {
            touched.extend(self.members.keys());
        }
    }

    /// What gateways are told of a user, if the user can sign in to anything.
    pub(super) fn told(&self, user: UserId) -> Option<GatewayMember> {
        let member = self.members.get(&user).filter(|_| !self.asking.is_empty())?;
        let person = self.persons.get(&user)?;
        let roles = member.roles.iter().filter_map(|role| self.roles.get(role));
        let groups = member.groups.iter().filter_map(|group| self.groups.get(group));
        Some(GatewayMember {
            organization: member.organization,
            user,
            email: person.email.clone(),
            roles: roles.cloned().collect(),
            groups: groups.cloned().collect(),
            tickets_since: person.tickets_since,
            ended: person.ended.clone(),
        })
    }
}

/// Gives a thing its name of now; whether that is another one.
fn rename<K: Ord>(names: &mut BTreeMap<K, Label>, id: K, name: Option<&Label>) -> bool {
    if names.get(&id) == name {
        return false;
    }
    match name {
        Some(name) => names.insert(id, name.clone()),
        None => names.remove(&id),
    };
    true
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::store::conformance::sample;

    use super::*;

    #[test]
    fn gateways_are_told_of_members_when_something_asks_who_a_visitor_is() {
        let mut people = People::default();
        let (user, mut member, role, group) = (
            sample::user(1),
            sample::member(0, 1),
            sample::role(0, 1),
            sample::group(0, 1),
        );
        member.user = user.id;
        member.roles = BTreeSet::from([role.id]);
        member.groups = BTreeSet::from([group.id]);
        let service = RecordId::from(sample::http_service(0, 1).id);
        let mut touched = BTreeSet::new();
        people.set_role(role.id, Some(&role), &mut touched);
        people.set_group(group.id, Some(&group), &mut touched);
        people.set_user(user.id, Some(&user), &mut touched);
        people.set_member(member.id, Some(member.clone()), &mut touched);
        assert_eq!(people.told(user.id), None, "nothing asks");
        touched.clear();
        people.set_asking(service, true, &mut touched);
        assert_eq!(touched, BTreeSet::from([user.id]));
        let told = people.told(user.id).unwrap();
        assert_eq!(
            (told.roles, told.groups),
            (vec![role.name.clone()], vec![group.name])
        );

        // What gateways are not told changes nothing.
        touched.clear();
        let mut signed_in = user.clone();
        signed_in.totp = None;
        people.set_user(user.id, Some(&signed_in), &mut touched);
        assert!(touched.is_empty());
        let mut disabled = user.clone();
        disabled.disabled = Some(sample::NOW);
        people.set_user(user.id, Some(&disabled), &mut touched);
        assert!(people.told(user.id).is_none() && !touched.is_empty());
        people.set_user(user.id, Some(&user), &mut touched);
        people.set_role(role.id, None, &mut touched);
        assert!(people.told(user.id).unwrap().roles.is_empty());
        people.set_member(member.id, None, &mut touched);
        assert!(people.told(user.id).is_none() && !people.has(user.id));
    }
}
