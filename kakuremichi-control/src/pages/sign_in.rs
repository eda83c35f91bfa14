//! The page on which people sign in with a browser, and the way out.

use askama::Template;
use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Query, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kakuremichi_core::{model::User, name::Label, secret::Secret};
use serde::Deserialize;

use super::{
    passkeys::person,
    providers::{Button, buttons},
    rendered::{check_own, page, page_with_script, refused},
};
use crate::{
    api::{App, At, status_of, written},
    browser::{Browser, ReturnPath, signed_in, to_sign_in},
    service::{NewSession, SignInStep, UseCaseError, parse_email},
};

/// The path of the page.
const SIGN_IN: &str = "/sign-in";
const CODE: &str = "/sign-in/code";
const SIGN_OUT: &str = "/sign-out";
pub(super) const ACCOUNT: &str = "/account";
/// The largest form, in bytes. A larger one is refused.
pub(super) const MAX_FORM: usize = 16 * 1024;

/// What the page is asked with.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// Where to go back to: a [`ReturnPath`].
    #[serde(rename = "return")]
    pub(super) back: Option<String>,
    /// The name of the organization whose identity providers are shown too.
    organization: Option<String>,
}

#[derive(Deserialize)]
struct PasswordForm {
    email: String,
    password: String,
    #[serde(rename = "return")]
    back: Option<String>,
}

#[derive(Deserialize)]
struct CodeForm {
    continuation: String,
    code: String,
    #[serde(rename = "return")]
    back: Option<String>,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    base: &'a str,
    problem: Option<&'a str>,
    back: Option<&'a ReturnPath>,
    email: &'a str,
    /// The same as a query, for links.
    query: &'a str,
    /// Whether there can be passkeys.
    passkeys: bool,
    providers: &'a [Button],
}

#[derive(Template)]
#[template(path = "code.html")]
struct CodePage<'a> {
    base: &'a str,
    problem: Option<&'a str>,
    back: Option<&'a ReturnPath>,
    again: &'a str,
    continuation: &'a str,
    /// For a passkey of the account, in the place of the code.
    passkey: Option<Ask>,
}

/// What a script asks an authenticator.
struct Ask {
    text: String,
    options: String,
}

#[derive(Deserialize)]
struct SignOutForm {
    #[serde(rename = "return")]
    back: Option<String>,
}

#[derive(Template)]
#[template(path = "onward.html")]
pub(super) struct OnwardPage<'a> {
    pub(super) base: &'a str,
    pub(super) onward: &'a str,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    base: &'a str,
    user: &'a User,
    until: String,
    /// Whether it was not an organization's provider that let the person in, who may then change nothing.
    own: bool,
    /// Whether there can be passkeys.
    passkeys: bool,
    /// Whether the sign-in is recent enough to add and remove them.
    recent: bool,
    /// Those to which the account can be linked.
    providers: &'a [Button],
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route(SIGN_IN, get(show).post(with_password))
        .route(CODE, get(show).post(with_code))
        .route(SIGN_OUT, post(sign_out))
        .route(ACCOUNT, get(account))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}

/// The path of the page, with where to go back to from it.
pub(crate) fn sign_in_path(back: Option<&ReturnPath>) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    match back {
        Some(back) => format!(
            "{SIGN_IN}?return={}",
            utf8_percent_encode(back.as_str(), NON_ALPHANUMERIC)
        ),
        None => SIGN_IN.to_owned(),
    }
}

/// Shows the form; whoever is signed in already goes on from here.
///
/// By a page and not by a redirect: `form-action` also counts for where a form is redirected to, and whoever signs in
/// for a service goes on to the service's host.
async fn show(State(app): State<App>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    let back = match return_path(&app, asked.back) {
        Ok(back) => back,
        Err(refusal) => return *refusal,
    };
    match signed_in(&app, &headers).await {
        Ok(Some(_)) => {
            let back = back.as_ref().map_or(ACCOUNT, ReturnPath::as_str);
            let onward = format!("{}{back}", app.public_url);
            let (base, onward) = (app.public_url.path(), onward.as_str());
            page(StatusCode::OK, &OnwardPage { base, onward })
        }
        Ok(None) => {
            let organization = asked.organization.and_then(|name| name.parse().ok());
            form(
                &app,
                StatusCode::OK,
                None,
                back.as_ref(),
                "",
                organization.as_ref(),
            )
            .await
        }
        Err(error) => failed(error, |status, problem| refused(&app, status, problem)),
    }
}

async fn with_password(
    State(app): State<App>,
    At(at): At,
    headers: HeaderMap,
    sent: Result<Form<PasswordForm>, FormRejection>,
) -> Response {
    let (sent, back) = match sent_form(&app, &headers, sent, |form| form.back.take()) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    // What is no address is nobody's: it is told apart from a wrong one by nothing.
    let step = match parse_email(&sent.email) {
        Ok(email) => {
            let password = Secret::new(sent.password);
            app.use_cases.sign_in_stepwise(email, password, at).await
        }
        Err(_) => Err(UseCaseError::WrongCredentials),
    };
    match step {
        Ok(SignInStep::In(begun)) => go_on(&app, &begun, back.as_ref()),
        Ok(SignInStep::Code(continuation)) => {
            code_form(&app, StatusCode::OK, None, back.as_ref(), &continuation).await
        }
        Err(error) => again(&app, error, back.as_ref(), &sent.email).await,
    }
}

async fn with_code(
    State(app): State<App>,
    At(at): At,
    headers: HeaderMap,
    sent: Result<Form<CodeForm>, FormRejection>,
) -> Response {
    let (sent, back) = match sent_form(&app, &headers, sent, |form| form.back.take()) {
        Ok(sent) => sent,
        Err(refusal) => return *refusal,
    };
    let (continuation, code) = (Secret::new(sent.continuation), Secret::new(sent.code));
    match app.use_cases.enter_code(&continuation, &code, at).await {
        Ok(begun) => go_on(&app, &begun, back.as_ref()),
        Err(error @ (UseCaseError::WrongCredentials | UseCaseError::TooManyAttempts(_))) => {
            let failure = Failure::of(error);
            let problem = Some(failure.problem.as_str());
            let mut response = code_form(&app, failure.status, problem, back.as_ref(), &continuation).await;
            failure.mark(&mut response);
            response
        }
        Err(error) => again(&app, error, back.as_ref(), "").await,
    }
}

/// Shows whose account the browser is signed in to.
async fn account(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Response {
    match signed_in(&app, &headers).await {
        Ok(Some((session, user))) => {
            let providers = match app.use_cases.providers_of_user(&session.value, &user.value).await {
                Ok(providers) => buttons(providers),
                Err(error) => return failed(error, |status, problem| refused(&app, status, problem)),
            };
            let recent = match person(&app, &headers).await {
                Ok(actor) => app.use_cases.check_recent(&actor).await.is_ok(),
                Err(error) => return failed(error, |status, problem| refused(&app, status, problem)),
            };
            let own = session.value.organization.is_none();
            let account = AccountPage {
                base: app.public_url.path(),
                user: &user.value,
                until: written(session.value.expires),
                own,
                passkeys: own && app.use_cases.has_passkeys(),
                recent,
                providers: &providers,
            };
            page_with_script(StatusCode::OK, &account)
        }
        Ok(None) => to_sign_in(&app, &uri),
        Err(error) => failed(error, |status, problem| refused(&app, status, problem)),
    }
}

/// Ends the browser's session; to begin another where a path is given to go back to.
async fn sign_out(
    State(app): State<App>,
    headers: HeaderMap,
    sent: Result<Form<SignOutForm>, FormRejection>,
) -> Response {
    if let Err(refusal) = check_own(&app, &headers) {
        return *refusal;
    }
    // Whatever else was sent, who wants to sign out is signed out.
    let back = sent.ok().and_then(|Form(sent)| sent.back);
    let back = back.and_then(|back| back.parse::<ReturnPath>().ok());
    let browser = Browser::of(&app.public_url);
    let ended = match browser.session_text(&headers) {
        Some(text) => app.use_cases.sign_out(text).await,
        None => Ok(()),
    };
    match ended {
        Ok(()) => (browser.no_session(), browser.see(&sign_in_path(back.as_ref()))).into_response(),
        Err(error) => failed(error, |status, problem| refused(&app, status, problem)),
    }
}

/// A form that a page of ours sent, and where to go back to after it.
pub(super) fn sent_form<T>(
    app: &App,
    headers: &HeaderMap,
    sent: Result<Form<T>, FormRejection>,
    back: impl FnOnce(&mut T) -> Option<String>,
) -> Result<(T, Option<ReturnPath>), Box<Response>> {
    check_own(app, headers)?;
    let Form(mut sent) =
        sent.map_err(|rejection| Box::new(refused(app, rejection.status(), "The form is not whole.")))?;
    let back = return_path(app, back(&mut sent))?;
    Ok((sent, back))
}

pub(super) fn return_path(app: &App, text: Option<String>) -> Result<Option<ReturnPath>, Box<Response>> {
    let path = text.map(|text| text.parse()).transpose();
    path.map_err(|_| {
        let problem = "The link is not good: `return` is no path on this Control.";
        Box::new(refused(app, StatusCode::BAD_REQUEST, problem))
    })
}

/// Gives the browser its cookie; a session that it had is another's business (LESSONS, advisory 12).
pub(super) fn go_on(app: &App, begun: &NewSession, back: Option<&ReturnPath>) -> Response {
    let browser = Browser::of(&app.public_url);
    (browser.session(begun), browser.see(&sign_in_path(back))).into_response()
}

/// The form anew, with what was wrong.
pub(super) async fn again(
    app: &App,
    error: UseCaseError,
    back: Option<&ReturnPath>,
    email: &str,
) -> Response {
    let failure = Failure::of(error);
    let mut response = form(app, failure.status, Some(&failure.problem), back, email, None).await;
    failure.mark(&mut response);
    response
}

async fn form(
    app: &App,
    status: StatusCode,
    problem: Option<&str>,
    back: Option<&ReturnPath>,
    email: &str,
    organization: Option<&Label>,
) -> Response {
    let base = app.public_url.path();
    let providers = match app.use_cases.providers_for(organization).await {
        Ok(providers) => buttons(providers),
        Err(error) => return failed(error, |status, problem| refused(app, status, problem)),
    };
    let path = sign_in_path(back);
    let query = &path[SIGN_IN.len()..];
    let form = SignInPage {
        base,
        problem,
        back,
        email,
        query,
        passkeys: app.use_cases.has_passkeys(),
        providers: &providers,
    };
    page_with_script(status, &form)
}

async fn code_form(
    app: &App,
    status: StatusCode,
    problem: Option<&str>,
    back: Option<&ReturnPath>,
    continuation: &Secret<String>,
) -> Response {
    let (base, again) = (app.public_url.path(), sign_in_path(back));
    let challenge = match app.use_cases.has_passkeys() {
        true => app.use_cases.challenge_after_password(continuation).await,
        false => Ok(None),
    };
    let passkey = match challenge {
        Ok(challenge) => challenge.map(|challenge| Ask {
            text: challenge.text,
            options: challenge.options.to_string(),
        }),
        Err(error) => return failed(error, |status, problem| refused(app, status, problem)),
    };
    let continuation = continuation.expose();
    let code = CodePage {
        base,
        problem,
        back,
        again: &again,
        continuation,
        passkey,
    };
    page_with_script(status, &code)
}

/// A refusal as the API has it, on a page.
pub(super) fn failed(error: UseCaseError, show: impl FnOnce(StatusCode, &str) -> Response) -> Response {
    let failure = Failure::of(error);
    let mut response = show(failure.status, &failure.problem);
    failure.mark(&mut response);
    response
}

pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) problem: String,
    /// Seconds after which the same may succeed.
    wait: Option<u64>,
}

impl Failure {
    pub(super) fn of(error: UseCaseError) -> Self {
        let wait = match &error {
            UseCaseError::TooManyAttempts(wait) => Some(wait.as_secs() + 1),
            _ => None,
        };
        let (status, problem) = status_of(error);
        Self {
            status,
            problem,
            wait,
        }
    }

    pub(super) fn mark(&self, response: &mut Response) {
        if let Some(seconds) = self.wait {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
    }
}
