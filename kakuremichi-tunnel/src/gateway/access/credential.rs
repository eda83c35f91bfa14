//! What a visitor shows in the `Authorization` field.

use data_encoding::BASE64;
use http::{HeaderMap, header};
use kakuremichi_core::{auth::Credential, secret::Secret};

/// The longest field that is read, in bytes.
const MAX_FIELD: usize = 4096;

/// Reads the credential of a request. A field that is doubled, too long or malformed shows nothing
/// (LESSONS, advisory 5: it is a denial, not an error to be worked around).
pub(crate) fn read(headers: &HeaderMap) -> Option<Credential> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let text = field.to_str().ok().filter(|text| text.len() <= MAX_FIELD)?;
    let (scheme, value) = text.split_once(' ')?;
    let value = value.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("basic") {
        basic(value)
    } else if scheme.eq_ignore_ascii_case("bearer") && !value.is_empty() && !value.contains(' ') {
        Some(Credential::Bearer(Secret::new(value.to_owned())))
    } else {
        None
    }
}

/// Whether the request carries a Basic credential, well formed or not.
pub(crate) fn is_basic(headers: &HeaderMap) -> bool {
    headers.get_all(header::AUTHORIZATION).iter().any(|field| {
        field
            .as_bytes()
            .get(..5)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
    })
}

/// Reads user-id and password (RFC 7617, section 2; UTF-8, no control characters).
fn basic(value: &str) -> Option<Credential> {
    let decoded = Secret::new(BASE64.decode(value.as_bytes()).ok()?);
    let text = std::str::from_utf8(decoded.expose()).ok()?;
    if text.chars().any(char::is_control) {
        return None;
    }
    let (name, password) = text.split_once(':')?;
    Some(Credential::Basic {
        name: name.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        headers
    }

    #[test]
    fn a_password_may_have_colons_and_be_empty() {
        let shown = |field: &str| match read(&headers(&[field])) {
            Some(Credential::Basic { name, password }) => Some((name, password.expose().clone())),
            _ => None,
        };
        let encode = |text: &str| format!("bAsIc {}", BASE64.encode(text.as_bytes()));
        assert_eq!(
            shown(&encode("ann:a:b")),
            Some(("ann".to_owned(), "a:b".to_owned()))
        );
        assert_eq!(shown(&encode(":")), Some((String::new(), String::new())));
        assert_eq!(
            shown(&encode("アン:秘密")),
            Some(("アン".to_owned(), "秘密".to_owned()))
        );
        assert_eq!(shown(&encode("ann")), None);
        assert_eq!(shown(&encode("a\0n:x")), None);
        assert_eq!(shown("Basic !!!"), None);
        assert_eq!(shown("Basic"), None);
    }

    #[test]
    fn two_credentials_are_none() {
        assert!(read(&headers(&["Bearer a", "Bearer b"])).is_none());
        assert!(matches!(
            read(&headers(&["Bearer a"])),
            Some(Credential::Bearer(_))
        ));
        assert!(read(&headers(&["Digest x=y"])).is_none());
        assert!(is_basic(&headers(&["Bearer a", "basic !!!"])) && !is_basic(&headers(&["Bearer a"])));
    }
}
