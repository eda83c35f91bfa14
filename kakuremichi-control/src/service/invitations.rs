//! How people join: by an invitation, and the first one by the link of the first start.

use std::time::Duration;

use kakuremichi_core::{
    email::EmailAddress,
    id::{InvitationId, MemberId, UserId},
    model::{Invitation, Member, PersonName, SignIn, User},
    secret::Secret,
    store::{CommitError, Mutation, Query, RecordKind, Stored, UniqueKey, Version},
    time::Timestamp,
};
use kakuremichi_proto::identity::InvitationText;

use super::{
    ATTEMPTS, Actor, UseCaseError, UseCases, at_version,
    members::Place,
    now, random,
    sign_in::{NewSession, Others, Whereabouts},
    users::check_password,
    written,
};
use crate::mail::Mail;

/// How long an invitation is good.
pub const INVITATION_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long the link of the first start is good. Each start without a user makes another one.
pub const SET_UP_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// An invitation to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationDraft {
    /// Who is meant.
    pub email: EmailAddress,
    /// What the person is to be.
    pub place: Place,
}

/// An invitation that was made.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// What is stored.
    pub invitation: Stored<Invitation>,
    /// The text for the person. It is shown this once: only a hash is stored.
    pub text: Secret<String>,
}

/// What somebody gives to accept an invitation.
#[derive(Debug)]
pub struct AcceptDraft {
    /// The invitation.
    pub invitation: InvitationText,
    /// The address of the account, where the invitation has none.
    pub email: Option<EmailAddress>,
    /// What the person is called.
    pub name: PersonName,
    /// The password of the account.
    pub password: Secret<String>,
}

impl UseCases {
    /// Invites somebody.
    ///
    /// # Errors
    /// When the person would have what the actor has not, a role or a group is not there, or the storage fails.
    pub async fn invite(&self, actor: &Actor, draft: InvitationDraft) -> Result<NewInvitation, UseCaseError> {
        self.check_place(actor, &draft.place).await?;
        let (text, created) = (InvitationText::new(Secret::new(random()?)), now());
        let invitation = Invitation {
            id: InvitationId::from_bytes(random()?),
            organization: actor.organization,
            email: Some(draft.email),
            roles: draft.place.roles,
            groups: draft.place.groups,
            administrator: false,
            secret_hash: text.secret_hash(),
            inviter: actor.principal.clone(),
            maker: actor.behind,
            expires: created.after(INVITATION_LIFE),
            created,
        };
        let create = vec![Mutation::Create(invitation.clone().into())];
        self.commit(actor, "invitation.create", invitation.id, create)
            .await?;
        if let Some(to) = invitation.email.clone() {
            let link = self.link(crate::pages::JOIN, &text.to_text());
            let organization = self.organization(actor).await?.value.name;
            self.mail(Mail {
                to,
                subject: "You are invited",
                text: format!(
                    "You are invited to join {organization}. Make your account here within a week:\n\n{}\n\n\
                     If you have an account already, sign in and accept the invitation there.\n",
                    link.expose()
                ),
            });
        }
        Ok(NewInvitation {
            invitation: written(invitation, None),
            text: text.to_text(),
        })
    }

    /// Reads an invitation.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn invitation(
        &self,
        actor: &Actor,
        id: InvitationId,
    ) -> Result<Stored<Invitation>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Takes an invitation back. Whoever may invite may take back every invitation, also one that gives what they cannot
    /// give: that gives them nothing.
    ///
    /// # Errors
    /// When it is not there, changed since `expected`, or the storage fails.
    pub async fn delete_invitation(
        &self,
        actor: &Actor,
        id: InvitationId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let invitation = self.invitation(actor, id).await?;
        at_version(&invitation, expected)?;
        let delete = vec![Mutation::Delete(id.into(), Some(invitation.version))];
        self.commit(actor, "invitation.delete", id, delete).await?;
        Ok(())
    }

    /// A link for whoever sets this Control up, as long as it has no user (LESSONS, advisory 16): good once,
    /// and for [`SET_UP_LIFE`]. Those of earlier starts are taken back.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn set_up(&self) -> Result<Option<Secret<String>>, UseCaseError> {
        for _ in 0..ATTEMPTS {
            if self.has_users().await? {
                return Ok(None);
            }
            match self.make_set_up().await {
                // Another instance, on the same database, did it at the same time: its link is good no more.
                Err(UseCaseError::Contended | UseCaseError::Taken(_)) => {}
                Err(error) => return Err(error),
                Ok(text) => return Ok(Some(self.link(crate::pages::JOIN, &text))),
            }
        }
        Err(UseCaseError::Contended)
    }

    async fn has_users(&self) -> Result<bool, UseCaseError> {
        let users = Query {
            limit: 1,
            ..Query::all(RecordKind::User)
        };
        Ok(!self.store().list(users).await?.records.is_empty())
    }

    /// Replaces the invitation of the first start, of which the store keeps one at most.
    async fn make_set_up(&self) -> Result<Secret<String>, UseCaseError> {
        let actor = self.control().await?;
        let (text, created) = (InvitationText::new(Secret::new(random()?)), now());
        let invitation = Invitation {
            id: InvitationId::from_bytes(random()?),
            organization: actor.organization,
            email: None,
            roles: [self.owner_role_of(actor.organization).await?].into(),
            groups: Default::default(),
            administrator: true,
            secret_hash: text.secret_hash(),
            inviter: None,
            maker: None,
            expires: created.after(SET_UP_LIFE),
            created,
        };
        let earlier = self.store().find(&UniqueKey::SetUp).await?;
        let mut mutations: Vec<_> = earlier
            .iter()
            .map(|earlier| Mutation::Delete(earlier.value.id(), Some(earlier.version)))
            .collect();
        let id = invitation.id;
        mutations.push(Mutation::Create(invitation.into()));
        self.commit(&actor, "invitation.create", id, mutations).await?;
        Ok(text.to_text())
    }

    /// Accepts an invitation with a new account, which is signed in.
    ///
    /// # Errors
    /// When the invitation is not good, the address has an account already, the password is too short, or the
    /// storage fails.
    pub async fn accept_invitation(
        &self,
        draft: AcceptDraft,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let invitation = self.open_invitation(&draft.invitation).await?;
        if invitation.value.administrator && self.has_users().await? {
            return Err(UseCaseError::Invitation);
        }
        let email = match (&invitation.value.email, draft.email) {
            (Some(meant), None) => meant.clone(),
            (Some(meant), Some(given)) if *meant == given => given,
            (Some(_), Some(_)) => {
                return Err(UseCaseError::field(
                    "email",
                    "the invitation is for another address",
                ));
            }
            (None, Some(given)) => given,
            (None, None) => return Err(UseCaseError::field("email", "give the address of the account")),
        };
        check_password("password", &draft.password)?;
        let user = User {
            id: UserId::from_bytes(random()?),
            email,
            name: draft.name,
            password_hash: Some(self.0.passwords.hash(draft.password).await?),
            totp: None,
            passkeys: Vec::new(),
            passkeys_since: Timestamp::default(),
            recovery_codes: Vec::new(),
            administrator: invitation.value.administrator,
            reset: None,
            verification: None,
            identities: Vec::new(),
            verified: None,
            disabled: None,
            tickets_since: Timestamp::default(),
            ended: Vec::new(),
            created: now(),
        };
        let id = user.id;
        let mutations = vec![
            // One conditional statement (LESSONS, advisory 11): of two who accept at once one does.
            Mutation::Delete(invitation.value.id.into(), Some(invitation.version)),
            Mutation::Create(user.into()),
            Mutation::Create(member(&invitation.value, id)?.into()),
        ];
        let begun = self
            .begin_session(
                id,
                SignIn::Password,
                at,
                mutations,
                Others::Stay,
                "invitation.accept",
            )
            .await;
        match begun {
            Err(UseCaseError::Contended) => Err(UseCaseError::Invitation),
            begun => begun,
        }
    }

    /// Accepts an invitation as the person who is signed in.
    ///
    /// # Errors
    /// When the invitation is not good or for another address, the person is in the organization already, or the
    /// storage fails.
    pub async fn join(&self, actor: &Actor, text: &InvitationText) -> Result<Stored<Member>, UseCaseError> {
        actor.everywhere()?;
        let user = self.own_user(actor).await?;
        let invitation = self.open_invitation(text).await?;
        if invitation.value.email.as_ref() != Some(&user.value.email) {
            return Err(UseCaseError::Invitation);
        }
        let member = member(&invitation.value, user.value.id)?;
        let mutations = vec![
            Mutation::Delete(invitation.value.id.into(), Some(invitation.version)),
            Mutation::Create(member.clone().into()),
        ];
        let actor = Actor {
            organization: member.organization,
            ..actor.clone()
        };
        match self
            .commit(&actor, "invitation.accept", member.id, mutations)
            .await
        {
            Err(CommitError::Stale(_) | CommitError::Missing(_)) => Err(UseCaseError::Invitation),
            committed => {
                committed?;
                Ok(written(member, None))
            }
        }
    }

    /// The invitation of this text, if it is good now: if the person who made it can still give what it gives.
    async fn open_invitation(&self, text: &InvitationText) -> Result<Stored<Invitation>, UseCaseError> {
        let hash = text.secret_hash();
        let found = self
            .store()
            .find(&UniqueKey::InvitationSecret(*hash.as_bytes()))
            .await?;
        let found = found
            .and_then(Stored::narrow::<Invitation>)
            .filter(|found| found.value.secret_hash == hash && now() < found.value.expires)
            .ok_or(UseCaseError::Invitation)?;
        let Some(maker) = found.value.maker else {
            return Ok(found);
        };
        let organization = found.value.organization;
        let may = self.rights_of(maker, organization).await?;
        let gives = self.permissions_in(organization, &found.value.roles).await?;
        if may.is_some_and(|may| may.covers(gives)) {
            Ok(found)
        } else {
            Err(UseCaseError::Invitation)
        }
    }
}

fn member(invitation: &Invitation, user: UserId) -> Result<Member, UseCaseError> {
    Ok(Member {
        id: MemberId::from_bytes(random()?),
        organization: invitation.organization,
        user,
        roles: invitation.roles.clone(),
        groups: invitation.groups.clone(),
        created: now(),
    })
}
