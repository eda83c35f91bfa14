//! The header fields.

use http::{HeaderMap, HeaderName, HeaderValue};
use kakuremichi_core::model::IdentityForm;

use super::{Introduction, Names};

/// What people call the visitor: the address of a user.
const USER: HeaderName = HeaderName::from_static("x-kakuremichi-user");
/// Who the visitor is, for programs: it stays when the address changes.
const USER_ID: HeaderName = HeaderName::from_static("x-kakuremichi-user-id");
/// The groups, with commas between them.
const GROUPS: HeaderName = HeaderName::from_static("x-kakuremichi-groups");
/// The roles, with commas between them.
const ROLES: HeaderName = HeaderName::from_static("x-kakuremichi-roles");
/// The organization of the service.
const ORGANIZATION: HeaderName = HeaderName::from_static("x-kakuremichi-organization");
/// Who vouches for the visitor: `user`, `service-token`, `basic`, or the name of an authenticator.
const METHOD: HeaderName = HeaderName::from_static("x-kakuremichi-method");
/// How strongly who signed in did.
const STRENGTH: HeaderName = HeaderName::from_static("x-kakuremichi-strength");
/// Which of the lists are not complete, with commas between them.
const INCOMPLETE: HeaderName = HeaderName::from_static("x-kakuremichi-incomplete");
/// All of it, signed.
const ASSERTION: HeaderName = HeaderName::from_static("x-kakuremichi-assertion");

/// The fields that tell one target of one visitor; none where nobody is known.
#[derive(Debug)]
pub(crate) struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    /// What is said of a visitor whom nobody knows.
    pub(crate) const NONE: Self = Self(Vec::new());

    /// What is said of a visitor in the form that the service has, with the assertion that says the same, if that is of it.
    pub(crate) fn new(told: &Introduction, form: IdentityForm, assertion: Option<&str>) -> Self {
        let list = |names: &Names| {
            let names: Vec<_> = names.told.iter().map(|name| escape(name)).collect();
            names.join(",")
        };
        let incomplete = Some(told.incomplete()).filter(|lists| !lists.is_empty());
        let told_apart = [
            (USER, Some(escape(&told.name))),
            (USER_ID, Some(escape(&told.subject))),
            (GROUPS, told.groups.as_ref().map(list)),
            (ROLES, told.roles.as_ref().map(list)),
            (ORGANIZATION, Some(told.organization.to_string())),
            (METHOD, Some(escape(&told.method))),
            (
                STRENGTH,
                told.strength.map(|strength| strength.as_str().to_owned()),
            ),
            (INCOMPLETE, incomplete.map(|lists| lists.join(","))),
        ];
        let assertion = assertion.filter(|_| form.has_assertion());
        let assertion = (ASSERTION, assertion.map(str::to_owned));
        // Escaped, all of it is visible ASCII.
        let written =
            |(name, text): (HeaderName, Option<String>)| Some((name, HeaderValue::try_from(text?).ok()?));
        let told_apart = told_apart.into_iter().filter(|_| form.has_headers());
        Self(told_apart.chain([assertion]).filter_map(written).collect())
    }

    /// Adds them, each in the place of whatever stands under its name.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name, value.clone());
        }
    }

    /// The bytes of all of them, as HTTP/1.1 writes them.
    #[cfg(test)]
    pub(crate) fn length(&self) -> usize {
        let fields = self.0.iter();
        fields
            .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
            .sum()
    }
}

/// Writes a name so that it can stand in a field, and in a list with commas: everything but visible ASCII, and `%` and
/// `,`, is percent-encoded, as in URLs (RFC 3986, section 2.1).
pub(crate) fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',') {
            text.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    text
}
