//! What a visitor is told when the gateway itself answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use kakuremichi_core::{auth::Strength, code::Code};
use kakuremichi_proto::sign_in::SIGN_OUT_PATH;

/// Why the gateway answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// No service has the host.
    NoService,
    /// The service has no route for the path.
    NoRoute,
    /// The policy denies.
    Denied,
    /// The visitor has to prove who they are.
    Unauthenticated {
        /// HTTP Basic is one of the ways.
        basic: bool,
        /// A service token is one of the ways.
        bearer: bool,
    },
    /// The visitor is known, and has to sign in more strongly, or again.
    NotProvenEnough {
        /// How strongly.
        strength: Strength,
        /// How long ago that may be.
        max_age: Option<Duration>,
        /// HTTP Basic is another way.
        basic: bool,
    },
    /// Too many wrong credentials came from the visitor's address.
    TooManyAttempts {
        /// When it may try again, in seconds.
        retry_after: u64,
    },
    /// The gateway is at one of its bounds.
    Overloaded,
    /// The agent, or site, is offline.
    Offline,
    /// No target passes its health check.
    Unhealthy,
    /// The target refused the connection.
    Refused,
    /// The target did not take the connection, or did not answer, in time.
    TimedOut,
    /// The target closed without an answer, or broke HTTP.
    Broken,
    /// The target's certificate does not verify.
    Certificate,
    /// The agent does not accept the flow.
    AgentDenied,
    /// The browser came back from signing in without what it was sent away with.
    SignInFailed,
    /// Nobody can sign in here right now, or the gateway does not know the person yet.
    SignInUnavailable,
}

/// How often a visitor may try again when it is told to, in seconds.
const RETRY_AFTER: u64 = 5;

impl Problem {
    /// The stable code.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::BadRequest => Code::BAD_REQUEST,
            Self::NoService => Code::NO_SERVICE,
            Self::NoRoute => Code::NO_ROUTE,
            Self::Denied => Code::DENIED,
            Self::Unauthenticated { .. } => Code::AUTHENTICATION_REQUIRED,
            Self::NotProvenEnough { .. } => Code::STEP_UP_REQUIRED,
            Self::TooManyAttempts { .. } => Code::TOO_MANY_ATTEMPTS,
            Self::Overloaded => Code::OVERLOADED,
            Self::Offline => Code::AGENT_OFFLINE,
            Self::Unhealthy => Code::TARGET_UNHEALTHY,
            Self::Refused => Code::TARGET_REFUSED,
            Self::TimedOut => Code::TARGET_TIMEOUT,
            Self::Broken => Code::TARGET_BROKEN,
            Self::Certificate => Code::TARGET_CERTIFICATE,
            Self::AgentDenied => Code::AGENT_DENIED,
            Self::SignInFailed => Code::SIGN_IN_FAILED,
            Self::SignInUnavailable => Code::SIGN_IN_UNAVAILABLE,
        }
    }

    /// The status.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::SignInFailed => StatusCode::BAD_REQUEST,
            Self::NoService | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unauthenticated { .. } | Self::NotProvenEnough { .. } => StatusCode::UNAUTHORIZED,
            Self::TooManyAttempts { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::Offline | Self::Unhealthy | Self::SignInUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Refused | Self::Broken | Self::Certificate | Self::AgentDenied => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request cannot be understood",
            Self::NoService => "Nothing is published here",
            Self::NoRoute => "There is nothing at this path",
            Self::Denied => "You may not come in here",
            Self::Unauthenticated { .. } => "You have to sign in",
            Self::NotProvenEnough { .. } => "You have to confirm that it is you",
            Self::TooManyAttempts { .. } => "Too many wrong passwords",
            Self::Overloaded => "The gateway is busy",
            Self::Offline => "The agent is offline",
            Self::Unhealthy => "The target is unhealthy",
            Self::Refused => "The target refused the connection",
            Self::TimedOut => "The target did not answer in time",
            Self::Broken => "The target broke off",
            Self::Certificate => "The target's certificate cannot be trusted",
            Self::AgentDenied => "The agent does not know the target",
            Self::SignInFailed => "Signing in did not work",
            Self::SignInUnavailable => "You cannot sign in here right now",
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is malformed, or could be understood in two ways.",
            Self::NoService => "No service of this gateway has this host name.",
            Self::NoRoute => "The service has no route for this path.",
            Self::Denied => "The policy of this service does not let you in.",
            Self::Unauthenticated { .. } => "This service wants to know who you are.",
            Self::NotProvenEnough { .. } => {
                "This service wants you to have signed in more strongly, or more recently. Open it in a browser to \
                 confirm that it is you."
            }
            Self::TooManyAttempts { .. } => {
                "Too many wrong passwords came from your address. Try again later."
            }
            Self::Overloaded => "The gateway has as much to do as it allows itself. Try again in a moment.",
            Self::Offline => {
                "The machine that serves this is not connected to the gateway right now. It reconnects by \
                 itself as soon as it can."
            }
            Self::Unhealthy => "No target behind this service passes its health check right now.",
            Self::Refused => {
                "The agent is online, but the target behind it refused the connection. Is it running?"
            }
            Self::TimedOut => "The agent is online, but the target behind it did not answer in time.",
            Self::Broken => "The target closed the connection without a complete answer.",
            Self::Certificate => "The gateway could not verify the certificate of the target behind it.",
            Self::AgentDenied => {
                "The agent has not heard of this target yet. If it was added just now, try again in a moment."
            }
            Self::SignInFailed => {
                "Your browser did not bring back what it was given when it was sent to sign in, or too late. \
                 Cookies have to be allowed here. Go to the page that you wanted, and try again."
            }
            Self::SignInUnavailable => {
                "The gateway does not know you yet, or is just starting to take sign-ins. Try again in a moment."
            }
        }
    }

    const fn retry_after(self) -> Option<u64> {
        match self {
            Self::TooManyAttempts { retry_after } => Some(retry_after),
            Self::Overloaded
            | Self::Offline
            | Self::Unhealthy
            | Self::AgentDenied
            | Self::SignInUnavailable => Some(RETRY_AFTER),
            _ => None,
        }
    }
}

/// How HTTP Basic is asked for (RFC 7617).
const BASIC: &str = "Basic realm=\"kakuremichi\", charset=\"UTF-8\"";

/// How a stronger, or a more recent, sign-in is asked for (RFC 9470, section 3).
fn step_up(strength: Strength, max_age: Option<Duration>) -> Option<HeaderValue> {
    let mut challenge = format!(
        "Bearer realm=\"kakuremichi\", error=\"insufficient_user_authentication\", acr_values=\"{}\"",
        strength.as_str()
    );
    if let Some(age) = max_age {
        challenge.push_str(&format!(", max_age=\"{}\"", age.as_secs()));
    }
    HeaderValue::try_from(challenge).ok()
}

/// What a page is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Plain,
}

/// Writes the answer, in the form that the visitor's `Accept` prefers. For a `HEAD` request it has the
/// header of that page, its length included, and no body: over HTTP/2 hyper would send it.
pub(crate) fn page(problem: Problem, head: bool, request: &HeaderMap, request_id: &str) -> Response<Bytes> {
    let (body, kind) = match form(request) {
        Form::Html => (html(problem, request_id), "text/html; charset=utf-8"),
        Form::Json => (json(problem, request_id), "application/problem+json"),
        Form::Plain => (plain(problem, request_id), "text/plain; charset=utf-8"),
    };
    let length = body.len();
    let body = if head { Bytes::new() } else { Bytes::from(body) };
    let mut response = Response::new(body);
    *response.status_mut() = problem.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    protect(headers);
    if let Some(seconds) = problem.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Problem::Unauthenticated { basic, bearer } = problem {
        let schemes = [
            (basic, BASIC),
            (bearer, "Bearer realm=\"kakuremichi\""),
            // A proof that cannot be given in a header field has no scheme of its own (RFC 9110, section 11.6.1 wants
            // one).
            (!(basic || bearer), "Kakuremichi-Sign-In"),
        ];
        for (_, scheme) in schemes.into_iter().filter(|(offered, _)| *offered) {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
    }
    if let Problem::NotProvenEnough {
        strength,
        max_age,
        basic,
    } = problem
    {
        let challenge = step_up(strength, max_age);
        headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
        if basic {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(BASIC));
        }
    }
    // How a request that cannot be understood ends is not certain, so nothing may follow it.
    if problem == Problem::BadRequest {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A page that asks whether the visitor wants to sign out of the host, or says that they have.
pub(crate) fn sign_out(done: bool) -> Response<Bytes> {
    let (title, body) = if done {
        (
            "You have signed out",
            "<p>You have signed out here.</p>\n".to_owned(),
        )
    } else {
        let form =
            format!("<form method=\"post\" action=\"{SIGN_OUT_PATH}\"><button>Sign out</button></form>\n");
        ("Do you want to sign out?", form)
    };
    let mut response = Response::new(Bytes::from(document(title, title, &body, "")));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    protect(headers);
    response
}

/// What every page of ours is sent with: it is for nobody else, and runs nothing.
pub(crate) fn protect(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
        ),
    );
}

fn form(request: &HeaderMap) -> Form {
    let accepts = |kind: &str| {
        request.get_all(header::ACCEPT).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|value| value.to_ascii_lowercase().contains(kind))
        })
    };
    if accepts("text/html") {
        Form::Html
    } else if accepts("json") {
        Form::Json
    } else {
        Form::Plain
    }
}

// The texts are constants and a request id of ours: nothing in them needs escaping.

fn html(problem: Problem, request_id: &str) -> String {
    let (status, title, detail, code) = (
        problem.status(),
        problem.title(),
        problem.detail(),
        problem.code(),
    );
    let number = status.as_u16();
    let footer = format!("{number} &middot; <code>{code}</code> &middot; request <code>{request_id}</code>");
    document(
        &format!("{number} {title}"),
        title,
        &format!("<p>{detail}</p>\n"),
        &footer,
    )
}

fn document(name: &str, title: &str, body: &str, footer: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}</title>\n<style>\n\
         :root {{ color-scheme: light dark; }}\n\
         body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto 0; padding: 0 1.5rem; }}\n\
         h1 {{ font-size: 1.5rem; line-height: 1.3; }}\n\
         footer {{ margin-top: 3rem; font-size: .85rem; opacity: .7; }}\n\
         </style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n\
         <footer>{footer}</footer>\n</body>\n</html>\n"
    )
}

fn json(problem: Problem, request_id: &str) -> String {
    let (title, detail, code) = (problem.title(), problem.detail(), problem.code());
    let number = problem.status().as_u16();
    format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{number},\"detail\":\"{detail}\",\
         \"code\":\"{code}\",\"request\":\"{request_id}\"}}\n"
    )
}

fn plain(problem: Problem, request_id: &str) -> String {
    let number = problem.status().as_u16();
    format!(
        "{number} {}\n{}\n{} request {request_id}\n",
        problem.title(),
        problem.detail(),
        problem.code()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Problem; 17] = [
        Problem::BadRequest,
        Problem::NoService,
        Problem::NoRoute,
        Problem::Denied,
        Problem::Unauthenticated {
            basic: true,
            bearer: false,
        },
        Problem::NotProvenEnough {
            strength: Strength::PhishingResistant,
            max_age: Some(Duration::from_secs(600)),
            basic: false,
        },
        Problem::TooManyAttempts { retry_after: 7 },
        Problem::Overloaded,
        Problem::Offline,
        Problem::Unhealthy,
        Problem::Refused,
        Problem::TimedOut,
        Problem::Broken,
        Problem::Certificate,
        Problem::AgentDenied,
        Problem::SignInFailed,
        Problem::SignInUnavailable,
    ];

    fn accept(kind: &'static str) -> HeaderMap {
        [(header::ACCEPT, HeaderValue::from_static(kind))]
            .into_iter()
            .collect()
    }

    fn text(problem: Problem, kind: &'static str) -> String {
        String::from_utf8(
            page(problem, false, &accept(kind), "00c0ffee")
                .into_body()
                .to_vec(),
        )
        .unwrap()
    }

    #[test]
    fn a_page_says_what_is_wrong_in_the_form_that_is_wanted() {
        for problem in ALL {
            let html = text(problem, "text/html,application/xhtml+xml,*/*;q=0.8");
            assert!(html.starts_with("<!doctype html>") && html.contains(problem.title()));
            let json = text(problem, "application/json");
            assert!(
                json.starts_with('{') && json.contains(&format!("\"status\":{}", problem.status().as_u16()))
            );
            let plain = text(problem, "*/*");
            for page in [html, json, plain] {
                assert!(
                    page.contains(problem.code().as_str()) && page.contains("00c0ffee"),
                    "{page}"
                );
            }
            assert!(!format!("{}{}", problem.title(), problem.detail()).contains(['"', '<', '&', '\\']));
        }
    }

    #[test]
    fn offline_refused_and_timed_out_are_told_apart() {
        let status = |problem: Problem| problem.status().as_u16();
        assert_eq!(status(Problem::Offline), 503);
        assert_eq!(status(Problem::Unhealthy), 503);
        assert_eq!(status(Problem::Refused), 502);
        assert_eq!(status(Problem::TimedOut), 504);
    }

    #[test]
    fn only_where_basic_is_a_way_it_is_asked_for() {
        let none = HeaderMap::new();
        let asks = page(
            Problem::Unauthenticated {
                basic: true,
                bearer: false,
            },
            false,
            &none,
            "x",
        );
        assert!(asks.headers().contains_key(header::WWW_AUTHENTICATE));
        let other = page(
            Problem::Unauthenticated {
                basic: false,
                bearer: false,
            },
            false,
            &none,
            "x",
        );
        assert_eq!(other.headers()[header::WWW_AUTHENTICATE], "Kakuremichi-Sign-In");
        assert_eq!(
            page(Problem::TooManyAttempts { retry_after: 7 }, false, &none, "x").headers()["retry-after"],
            "7"
        );
    }
}
