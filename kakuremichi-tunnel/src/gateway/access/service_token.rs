//! What a program shows at a service that takes service tokens.

use http::{HeaderMap, header};
use kakuremichi_proto::identity::{ParseSecretError, ServiceTokenText};

/// The field of its own that a token may stand in, where the target wants `Authorization` for itself. Like all of its
/// family it is never forwarded.
pub(crate) const FIELD: &str = "x-kakuremichi-service-token";

/// Reads the token of a request: that in its own field, or else the one in `Authorization`. A field that is doubled
/// shows nothing (LESSONS, advisory 5).
pub(crate) fn read(headers: &HeaderMap) -> Option<Result<ServiceTokenText, ParseSecretError>> {
    let mut fields = headers.get_all(FIELD).iter();
    let text = match (fields.next(), fields.next()) {
        (Some(field), None) => field.to_str().ok()?,
        (Some(_), Some(_)) => return None,
        (None, _) => {
            let mut fields = headers.get_all(header::AUTHORIZATION).iter();
            let (Some(field), None) = (fields.next(), fields.next()) else {
                return None;
            };
            bearer(field.to_str().ok()?)?
        }
    };
    Some(text.trim_matches(' ').parse())
}

/// Whether the `Authorization` of a request carries a service token, good or not: it is for the gateway, and no
/// target's business.
pub(crate) fn is_authorization(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::AUTHORIZATION).iter();
    fields
        .filter_map(|field| field.to_str().ok())
        .any(|text| bearer(text).is_some())
}

/// The value of a bearer token (RFC 6750, section 2.1) that says of itself that it is a service token.
fn bearer(text: &str) -> Option<&str> {
    let (scheme, value) = text.split_once(' ')?;
    let value = value.trim_start_matches(' ');
    let ours = scheme.eq_ignore_ascii_case("bearer") && value.starts_with(ServiceTokenText::PREFIX);
    ours.then_some(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use kakuremichi_core::secret::Secret;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_stands_in_one_of_two_fields() {
        let token = ServiceTokenText::new(Secret::new([1; 32]));
        let text = token.to_text();
        let (text, other) = (text.expose(), "Bearer abc");
        let bearer = format!("bearer  {text}");
        let hash = |fields: &[(&'static str, &str)]| {
            let shown = read(&headers(fields))?;
            shown.ok().map(|token| token.secret_hash())
        };
        let good = Some(token.secret_hash());
        assert_eq!(hash(&[("authorization", &bearer)]), good);
        assert_eq!(hash(&[(FIELD, text), ("authorization", other)]), good);
        assert_eq!(hash(&[(FIELD, text), (FIELD, text)]), None);
        assert_eq!(
            hash(&[("authorization", &bearer), ("authorization", other)]),
            None
        );
        assert!(read(&headers(&[("authorization", other)])).is_none());
        let damaged = &bearer[..bearer.len() - 1];
        assert!(matches!(
            read(&headers(&[("authorization", damaged)])),
            Some(Err(_))
        ));
        assert!(is_authorization(&headers(&[("authorization", damaged)])));
        assert!(!is_authorization(&headers(&[
            ("authorization", other),
            (FIELD, text)
        ])));
    }
}
