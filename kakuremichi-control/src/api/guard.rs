//! Who asks, and whether they may.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE64;
use kakuremichi_core::{
    auth::{Authentication, AuthenticationRequest, Credential},
    code::Code,
    secret::Secret,
};

use super::{
    App, Requirement,
    extract::{client_address, organization_choice},
    idempotency::idempotent,
    problem::Problem,
    rate::Level,
};
use crate::{
    browser::Browser,
    service::{Acting, Actor, UseCaseError},
};

/// How a caller shows who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// In the header `Authorization`.
    Header,
    /// By the cookie of a browser.
    Cookie,
}

/// Lets a request through to its handler if its caller is allowed it. The handler finds the caller as
/// an `Actor` among the request's extensions, and how they showed it as [`Shown`].
pub(super) async fn guard(
    State((app, requirement)): State<(App, Requirement)>,
    mut request: Request,
    next: Next,
) -> Response {
    if requirement == Requirement::Link {
        // The hub counts the connections of nodes itself.
        return next.run(request).await;
    }
    let source = client_address(request.extensions());
    let paid = match app.meter.address(source, Instant::now()) {
        Ok(level) => level,
        Err(empty) => return empty.refuse(),
    };
    if requirement.is_open() {
        return told(paid, next.run(request).await);
    }
    let (actor, shown) = match caller(&app, requirement, request.headers(), source).await {
        Ok(caller) => caller,
        Err(problem) => return told(paid, problem.into_response()),
    };
    app.meter.give_back(source);
    let level = match app.meter.caller(&actor, Instant::now()) {
        Ok(level) => level,
        Err(empty) => return empty.refuse(),
    };
    if !requirement.is_met_by(&actor) {
        let problem = Problem::new(StatusCode::FORBIDDEN, Code::FORBIDDEN, requirement.refusal());
        return told(level, problem.into_response());
    }
    request.extensions_mut().insert(shown);
    told(level, idempotent(&app, actor, request, next).await)
}

fn told(level: Option<Level>, mut response: Response) -> Response {
    if let Some(level) = level {
        level.tell(response.headers_mut());
    }
    response
}

async fn caller(
    app: &App,
    requirement: Requirement,
    headers: &HeaderMap,
    source: Option<IpAddr>,
) -> Result<(Actor, Shown), Problem> {
    let (credential, shown) = match headers.contains_key(header::AUTHORIZATION) {
        true => (credential(headers), Shown::Header),
        false => (cookie(app, headers), Shown::Cookie),
    };
    let credential = credential.ok_or_else(Problem::unauthenticated)?;
    let actor = actor(app, requirement, headers, &credential, shown, source).await?;
    Ok((actor, shown))
}

/// The cookie of a browser, from a page of this Control only: another site has the browser send it too.
fn cookie(app: &App, headers: &HeaderMap) -> Option<Credential> {
    let browser = Browser::of(&app.public_url);
    let text = browser
        .session_text(headers)
        .filter(|_| browser.is_own(headers))?;
    Some(Credential::Bearer(Secret::new(text.to_owned())))
}

async fn actor(
    app: &App,
    requirement: Requirement,
    headers: &HeaderMap,
    credential: &Credential,
    shown: Shown,
    source: Option<IpAddr>,
) -> Result<Actor, Problem> {
    if let Credential::Bearer(text) = credential {
        let choice = organization_choice(headers)?;
        let acting = match requirement {
            Requirement::Person => Acting::Account,
            _ => Acting::In(choice.as_ref()),
        };
        if let Some(person) = app.use_cases.person_of(text.expose(), acting).await? {
            return Ok(person);
        }
        if shown == Shown::Cookie {
            return Err(Problem::unauthenticated());
        }
        if let Some(key) = app.use_cases.actor_of(text.expose()).await? {
            return match choice {
                Some(choice) if !app.use_cases.is_in(&key, &choice).await? => {
                    Err(UseCaseError::NoMember.into())
                }
                Some(_) | None => Ok(key),
            };
        }
    }
    let Some(authenticator) = &app.authenticator else {
        return Err(Problem::unauthenticated());
    };
    let source = source.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let asked = authenticator
        .authenticate(AuthenticationRequest::new(source, credential))
        .await;
    match asked {
        Ok(Authentication::Proven(identity)) => {
            let organization = app.use_cases.start().await?.organization;
            Ok(Actor::vouched_for(organization, identity.principal().clone()))
        }
        Ok(Authentication::NotMine | Authentication::Refused) => Err(Problem::unauthenticated()),
        // LESSONS, advisory 5: any error in a check is a denial.
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a caller cannot be authenticated"
            );
            Err(Problem::unauthenticated())
        }
    }
}

/// Reads the one `Authorization` header that there is. Two are none: nobody shall choose between them.
fn credential(headers: &HeaderMap) -> Option<Credential> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credential::Bearer(Secret::new(rest.to_owned())));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Secret::new(BASE64.decode(rest.as_bytes()).ok()?);
    let (name, password) = std::str::from_utf8(decoded.expose()).ok()?.split_once(':')?;
    Some(Credential::Basic {
        name: name.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_read_from_one_header() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            credential(&headers)
        };
        assert!(
            matches!(headers(&["bearer  abc"]), Some(Credential::Bearer(text)) if text.expose() == "abc")
        );
        assert!(
            matches!(headers(&["Basic YTpiOmM="]), Some(Credential::Basic { name, password })
            if name == "a" && password.expose() == "b:c")
        );
        for bad in [
            &[][..],
            &["Bearer"],
            &["Digest x"],
            &["Basic !"],
            &["Bearer a", "Bearer b"],
        ] {
            assert!(headers(bad).is_none(), "{bad:?}");
        }
    }
}
