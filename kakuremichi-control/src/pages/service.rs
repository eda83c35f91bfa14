//! Where gateways send people who are to sign in to a service, and who go back there with a ticket.

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use kakuremichi_proto::sign_in::{CONTROL_PATH, SignInQuery};

use super::{
    rendered::{HEADERS, refused},
    step_up,
};
use crate::{
    api::{App, status_of},
    browser::{signed_in, to_sign_in},
    service::{TicketDraft, TicketError},
};

pub(super) fn router() -> Router<App> {
    Router::new().route(CONTROL_PATH, get(service))
}

/// Sends whoever is signed in back with a ticket, and all others to sign in first. The browser comes from another
/// site: what it can do here is to go back where the ticket is good.
async fn service(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    asked: Result<Query<SignInQuery>, QueryRejection>,
) -> Response {
    let draft = asked.ok().and_then(|Query(asked)| TicketDraft::read(&asked));
    let Some(draft) = draft else {
        let problem = "This is no link of a gateway. Go to the page that you wanted, and try again.";
        return refused(&app, StatusCode::BAD_REQUEST, problem);
    };
    let (session, user) = match signed_in(&app, &headers).await {
        Ok(Some(found)) => found,
        Ok(None) => return to_sign_in(&app, &uri),
        Err(error) => {
            let (status, problem) = status_of(error);
            return refused(&app, status, &problem);
        }
    };
    match app.use_cases.ticket((&session.value, &user.value), &draft).await {
        Ok(url) => match HeaderValue::try_from(url) {
            Ok(url) => {
                let location = [(header::LOCATION, url), (header::REFERRER_POLICY, NO_REFERRER)];
                (StatusCode::SEE_OTHER, HEADERS, location).into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(TicketError::Failed(error)) => {
            let (status, problem) = status_of(error);
            refused(&app, status, &problem)
        }
        Err(TicketError::StepUp(wanted)) => {
            let back = uri.path_and_query().and_then(|asked| asked.as_str().parse().ok());
            let Some(back) = back else {
                let problem = "The link is too long. Go to the page that you wanted, and try again.";
                return refused(&app, StatusCode::BAD_REQUEST, problem);
            };
            step_up::show(&app, (&session.value, &user.value), wanted, &back, None)
        }
        Err(error) => {
            tracing::info!(service = %draft.service, user = %user.value.id, %error, "no ticket is given");
            let status = match error {
                TicketError::NoService => StatusCode::NOT_FOUND,
                _ => StatusCode::FORBIDDEN,
            };
            refused(&app, status, &sentence(&error.to_string()))
        }
    }
}

const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

/// A message as a sentence.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}
