//! What somebody is asked for who has signed in, and not strongly enough for what rules look at.
//!
//! How strongly somebody signed in is known, so a rule that looks at it is judged as it stands: it is true or false, never
//! unknown. But it is the visitor who can change it. Who does not get past as they are is therefore judged once more as if
//! they had signed in more strongly, and if that leads further, they are asked to. They get nothing before they have.

use super::{
    Challenge, CompiledPolicy, Facts, Proof, Subject,
    judge::{Judgement, Ruling, join, judge_as_they_are},
};
use crate::auth::Strength;

/// A judgement, or in the place of a denial what the visitor can do about it. A challenge to sign in also takes what would
/// do instead of what it asks for; one for a password or a token stays what it is, as whoever is sent away to sign in is
/// not asked for those.
pub(super) fn or_step_up<'a>(
    policy: &CompiledPolicy,
    subject: Subject,
    facts: &Facts<'_>,
    mut judgement: Judgement<'a>,
) -> Judgement<'a> {
    let Some(step) = step_up(policy, subject, facts, &judgement.ruling) else {
        return judgement;
    };
    match judgement.ruling {
        Ruling::Permit { .. } => {}
        Ruling::Challenge(challenge) if challenge.signed_in => {
            judgement.ruling = Ruling::Challenge(join(challenge, step, false));
        }
        Ruling::Challenge(_) => {}
        Ruling::Deny(denial) => {
            judgement.ruling = Ruling::Challenge(step);
            judgement.instead_of = Some(denial);
        }
    }
    judgement
}

/// The weakest sign-in that leads further: from a denial to anything else, from a challenge to a permit.
fn step_up(
    policy: &CompiledPolicy,
    subject: Subject,
    facts: &Facts<'_>,
    ruling: &Ruling<'_>,
) -> Option<Challenge> {
    let denied = match ruling {
        Ruling::Permit { .. } => return None,
        Ruling::Challenge(_) => false,
        Ruling::Deny(_) => true,
    };
    if facts.request.is_none() || !policy.can_permit || !policy.looks_at_strength {
        return None;
    }
    Strength::ALL.into_iter().find_map(|strength| {
        let proofs = raised(facts.proofs, strength)?;
        let facts = Facts {
            proofs: &proofs,
            ..*facts
        };
        let asked = Challenge {
            basic: false,
            signed_in: true,
            service_token: false,
            strength,
            max_age: None,
        };
        match judge_as_they_are(policy, subject, &facts, &mut ()).ruling {
            Ruling::Permit { .. } => Some(asked),
            // What a method wants of the same sign-in is asked for at once, too.
            Ruling::Challenge(then) if denied && then.signed_in => Some(Challenge {
                strength: strength.max(then.strength),
                max_age: then.max_age,
                ..asked
            }),
            Ruling::Challenge(then) if denied && then.basic => Some(asked),
            Ruling::Challenge(_) | Ruling::Deny(_) => None,
        }
    })
}

/// The proofs, with all who signed in at least as strong as this; none if all are already.
fn raised(proofs: &[Proof], strength: Strength) -> Option<Vec<Proof>> {
    let is_weaker = |proof: &Proof| match proof {
        Proof::SignedIn(identity) => identity.strength() < strength,
        Proof::Basic { .. } | Proof::ServiceToken { .. } => false,
    };
    if !proofs.iter().any(is_weaker) {
        return None;
    }
    let raise = |proof: &Proof| match proof {
        Proof::SignedIn(identity) if is_weaker(proof) => {
            Proof::SignedIn(identity.clone().with_strength(strength))
        }
        Proof::Basic { .. } | Proof::SignedIn(_) | Proof::ServiceToken { .. } => proof.clone(),
    };
    Some(proofs.iter().map(raise).collect())
}
