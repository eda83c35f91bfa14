//! The gateway's cookies in the browsers of visitors (RFC 6265bis).
//!
//! Their names have the prefix `__Host-`: no other host can set them, and they are sent over TLS only. Targets never see
//! them, and cannot set them.

use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderMap, HeaderValue, header};

/// What the names of all of them start with. Browsers may compare it without case.
const PREFIX: &str = "__Host-kkm-";
/// The session.
const SESSION: &str = "__Host-kkm-session";
/// An attempt to sign in, and the start of its binding in hexadecimal.
const ATTEMPT: &str = "__Host-kkm-attempt-";
/// How many bytes of the binding are in the name.
const NAMED: usize = 4;
/// How long a visitor has to sign in.
const ATTEMPT_LIFE: Duration = Duration::from_secs(15 * 60);
/// The most attempts that are open in one browser, in as many tabs; one more forgets the others.
const MAX_ATTEMPTS: usize = 8;
/// The longest path and query that a visitor is brought back to, in bytes; from a longer one they come to `/`.
const MAX_TARGET: usize = 1536;

/// What a gateway leaves in a browser that it sends away to sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Nobody else has it.
    pub(crate) secret: [u8; 32],
    /// The path and query that were asked for.
    pub(crate) target: String,
}

impl Attempt {
    /// Remembers a target, unless it is too long.
    pub(crate) fn new(secret: [u8; 32], target: &str) -> Self {
        let target = if target.len() > MAX_TARGET { "/" } else { target };
        Self {
            secret,
            target: target.to_owned(),
        }
    }

    /// The attempt with this binding, if the browser has it.
    pub(crate) fn find(headers: &HeaderMap, binding: &[u8; 32]) -> Option<Self> {
        let name = attempt_name(binding);
        let value = cookies(headers).find_map(|(found, value)| (found == name).then_some(value))?;
        let (secret, target) = value.split_once('.')?;
        let secret = BASE64URL_NOPAD.decode(secret.as_bytes()).ok()?;
        let target = BASE64URL_NOPAD.decode(target.as_bytes()).ok()?;
        let target = String::from_utf8(target).ok()?;
        // Only this host's own paths: `//elsewhere` would be another host.
        let own = target.starts_with('/') && !target.starts_with("//") && target.len() <= MAX_TARGET;
        let printable = target
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        (own && printable).then_some(Self {
            secret: secret.try_into().ok()?,
            target,
        })
    }

    /// What sets it, and forgets others if there are too many.
    pub(crate) fn set(&self, binding: &[u8; 32], headers: &HeaderMap) -> Vec<HeaderValue> {
        let open: Vec<_> = cookies(headers)
            .filter(|(name, _)| name.starts_with(ATTEMPT))
            .map(|(name, _)| name)
            .collect();
        let mut set = Vec::new();
        if open.len() >= MAX_ATTEMPTS {
            set.extend(open.into_iter().take(2 * MAX_ATTEMPTS).filter_map(forget));
        }
        let (secret, target) = (
            BASE64URL_NOPAD.encode(&self.secret),
            BASE64URL_NOPAD.encode(self.target.as_bytes()),
        );
        set.extend(write(
            &attempt_name(binding),
            &format!("{secret}.{target}"),
            ATTEMPT_LIFE,
        ));
        set
    }
}

/// The value of the session's cookie. A browser with two of them shows none.
pub(crate) fn session(headers: &HeaderMap) -> Option<&str> {
    let mut found = cookies(headers).filter(|(name, _)| *name == SESSION);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

/// What sets the session, for as long as it lasts.
pub(crate) fn set_session(value: &str, life: Duration) -> Option<HeaderValue> {
    write(SESSION, value, life)
}

/// What ends the session in this browser.
pub(crate) fn forget_session() -> Option<HeaderValue> {
    forget(SESSION)
}

/// What forgets an attempt.
pub(crate) fn forget_attempt(binding: &[u8; 32]) -> Option<HeaderValue> {
    forget(&attempt_name(binding))
}

/// Takes the gateway's own cookies out of what is sent to a target.
pub(crate) fn hide(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| pieces(value.as_bytes()).any(is_ours);
    if !headers.get_all(header::COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| {
            let kept: Vec<_> = pieces(value.as_bytes()).filter(|piece| !is_ours(piece)).collect();
            let kept = kept.join(&b"; "[..]);
            HeaderValue::from_bytes(&kept)
                .ok()
                .filter(|kept| !kept.is_empty())
        })
        .collect();
    headers.remove(header::COOKIE);
    for value in kept {
        headers.append(header::COOKIE, value);
    }
}

/// Takes out of a target's answer what would set one of the gateway's cookies.
pub(crate) fn refuse(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| is_ours(value.as_bytes().trim_ascii_start());
    if !headers.get_all(header::SET_COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<_> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !ours(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

fn attempt_name(binding: &[u8; 32]) -> String {
    format!("{ATTEMPT}{}", HEXLOWER.encode(&binding[..NAMED]))
}

fn write(name: &str, value: &str, life: Duration) -> Option<HeaderValue> {
    let seconds = life.as_secs();
    let text = format!("{name}={value}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Lax");
    HeaderValue::try_from(text).ok()
}

fn forget(name: &str) -> Option<HeaderValue> {
    write(name, "", Duration::ZERO)
}

fn pieces(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn is_ours(piece: &[u8]) -> bool {
    piece
        .get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|piece| piece.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_str(value).unwrap());
        values.map(|value| (header::COOKIE, value)).collect()
    }

    /// The name and the value of what is set, as the browser shows it again.
    fn again(set: &[HeaderValue]) -> HeaderMap {
        let first = |value: &HeaderValue| value.to_str().unwrap().split(';').next().unwrap().to_owned();
        let values: Vec<_> = set.iter().map(first).collect();
        shown(&values.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn an_attempt_comes_back_as_it_was() {
        let attempt = Attempt::new([7; 32], "/deep/link?a=b&c=%20d");
        let set = attempt.set(&[9; 32], &HeaderMap::new());
        let text = set[0].to_str().unwrap();
        assert!(text.starts_with("__Host-kkm-attempt-09090909="));
        assert!(text.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"));
        assert_eq!(Attempt::find(&again(&set), &[9; 32]), Some(attempt));
        assert_eq!(Attempt::find(&again(&set), &[8; 32]), None);
        let long = Attempt::new([7; 32], &format!("/{}", "x".repeat(MAX_TARGET)));
        assert_eq!(long.target, "/");
    }

    /// No redirect leads elsewhere, whatever is in the cookie.
    #[test]
    fn a_target_is_a_path_of_this_host() {
        for target in [
            "//evil.example/",
            "https://evil.example/",
            "/\\evil.example",
            "/a\r\nb",
            "",
            "x",
        ] {
            let attempt = Attempt {
                secret: [7; 32],
                target: target.to_owned(),
            };
            let set = attempt.set(&[9; 32], &HeaderMap::new());
            assert_eq!(Attempt::find(&again(&set), &[9; 32]), None, "{target:?}");
        }
    }

    #[test]
    fn too_many_attempts_are_forgotten() {
        let open: Vec<_> = (0..MAX_ATTEMPTS)
            .map(|n| format!("{ATTEMPT}0000000{n}=x.y"))
            .collect();
        let headers = shown(&[&open.join("; ")]);
        let set = Attempt::new([7; 32], "/").set(&[9; 32], &headers);
        assert_eq!(set.len(), MAX_ATTEMPTS + 1);
        assert!(set[0].to_str().unwrap().contains("=; Max-Age=0;"));
    }

    #[test]
    fn targets_neither_see_nor_set_our_cookies() {
        let mut headers = shown(&["a=1; __Host-kkm-session=x; b=2", "__host-KKM-attempt-1=y", "c=3"]);
        hide(&mut headers);
        let left: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(left, ["a=1; b=2", "c=3"]);
        let mut answer: HeaderMap = ["__Host-kkm-session=x; Path=/", " __HOST-kkm-x=1", "s=1"]
            .into_iter()
            .map(|value| (header::SET_COOKIE, HeaderValue::from_static(value)))
            .collect();
        refuse(&mut answer);
        assert_eq!(
            answer.get_all(header::SET_COOKIE).iter().collect::<Vec<_>>(),
            ["s=1"]
        );
    }

    #[test]
    fn two_sessions_are_none() {
        assert_eq!(session(&shown(&["__Host-kkm-session=x"])), Some("x"));
        assert_eq!(
            session(&shown(&["__Host-kkm-session=x; __Host-kkm-session=y"])),
            None
        );
        assert_eq!(
            session(&shown(&["__Host-kkm-session=x", "__Host-kkm-session=y"])),
            None
        );
    }
}
