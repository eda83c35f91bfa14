//! Stable error codes that logs, REST and documents share.

use std::fmt;

/// A code such as `KKM-E004`. It is never given to another meaning, and never withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(&'static str);

impl Code {
    /// The text of the code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($text);)*

            /// Every code there is, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Finds a code by its text.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.0 == text)
            }
        }
    };
}

codes! {
    /// The enrolment token is not known, or its text is damaged.
    TOKEN_UNKNOWN = "KKM-E001";
    /// The enrolment token was used as often as it may be.
    TOKEN_USED_UP = "KKM-E002";
    /// The enrolment token has expired.
    TOKEN_EXPIRED = "KKM-E003";
    /// The enrolment token was revoked.
    TOKEN_REVOKED = "KKM-E004";
    /// The enrolment token is for the other role.
    TOKEN_ROLE = "KKM-E005";
    /// The token, or the state directory, belongs to another Control.
    OTHER_CONTROL = "KKM-E006";
    /// The node is not known, or was removed.
    NODE_UNKNOWN = "KKM-E010";
    /// The node was revoked.
    NODE_REVOKED = "KKM-E011";
    /// A proof of identity does not verify.
    PROOF_INVALID = "KKM-E012";
    /// Control is known under another URL than the node dialled.
    URL_MISMATCH = "KKM-E013";
    /// The node waits for somebody to approve it.
    NODE_PENDING = "KKM-E014";
    /// The keys are not, or no longer, those of the node.
    NODE_KEYS = "KKM-E015";
    /// Stock WireGuard devices know the gateway by its WireGuard key, so that it gets no other one.
    WIREGUARD_KEY_KNOWN = "KKM-E016";
    /// The node's WireGuard key is to be replaced as well, since somebody else may have it.
    WIREGUARD_KEY_WANTED = "KKM-E017";
    /// No protocol version, or no needed capability, is common to both sides.
    VERSION_UNSUPPORTED = "KKM-E020";
    /// A message breaks the protocol.
    PROTOCOL_VIOLATION = "KKM-E021";
    /// The other side was silent for too long.
    HEARTBEAT_LOST = "KKM-E022";
    /// A newer connection of the same node took over.
    SUPERSEDED = "KKM-E023";
    /// Control is draining or overloaded: come back later.
    TRY_LATER = "KKM-E024";

    /// A declared host is outside the scope of the node's token.
    SCOPE_HOST = "KKM-D001";
    /// A declared port is outside the scope of the node's token.
    SCOPE_PORT = "KKM-D002";
    /// The node's token does not allow it to declare anything.
    SCOPE_NONE = "KKM-D003";
    /// The host or the port belongs to another service.
    NAME_TAKEN = "KKM-D004";
    /// The node has declared as many services as it may.
    DECLARE_LIMIT = "KKM-D005";

    /// A request is not understood.
    REQUEST_INVALID = "KKM-A001";
    /// No credential was given, or it does not verify.
    UNAUTHENTICATED = "KKM-A002";
    /// The credential does not allow this.
    FORBIDDEN = "KKM-A003";
    /// The thing does not exist.
    NOT_FOUND = "KKM-A004";
    /// A name or another unique value is taken.
    CONFLICT = "KKM-A005";
    /// The thing changed since it was read.
    STALE = "KKM-A006";
    /// The body is too large.
    TOO_LARGE = "KKM-A007";
    /// Something on the server's side failed.
    INTERNAL = "KKM-A008";
    /// The thing is still used by another.
    IN_USE = "KKM-A009";
    /// A bound of the organization or of a node is reached.
    LIMIT = "KKM-A010";
    /// Too much was guessed: wait.
    ATTEMPTS = "KKM-A011";
    /// The password was right, and a code of the second factor is needed.
    SECOND_FACTOR = "KKM-A012";
    /// The password that confirms a change is wrong.
    WRONG_PASSWORD = "KKM-A013";
    /// An invitation was used, taken back, has expired, or is for somebody else.
    INVITATION = "KKM-A014";
    /// A link that was mailed was used, has expired, or another one was mailed since.
    LINK = "KKM-A016";
    /// This Control sends no mail.
    NO_MAIL = "KKM-A017";
    /// The caller is in several organizations and has to name one.
    ORGANIZATION = "KKM-A015";
    /// A sign-in took too long, or what it began with has changed: begin it again.
    SIGN_IN_OVER = "KKM-A030";
    /// The caller, or the address, sends more requests than it may.
    RATE = "KKM-A018";
    /// The request is for a host that is not Control's.
    HOST = "KKM-A019";
    /// An idempotency key was used for another request.
    KEY_REUSED = "KKM-A020";
    /// A request with this idempotency key is being worked on.
    KEY_BUSY = "KKM-A021";
    /// The request was carried out before, and its answer is not there any more.
    ANSWER_GONE = "KKM-A022";
    /// The organization asks for two factors.
    MULTI_FACTOR = "KKM-A031";
    /// The organization takes no password.
    NO_PASSWORDS = "KKM-A032";
    /// The session is older than the organization lets one be.
    SESSION_AGE = "KKM-A033";
    /// The session counts in another organization only.
    OTHER_ORGANIZATION = "KKM-A034";
    /// What an identity provider said lets nobody in.
    PROVIDER_REFUSED = "KKM-A035";
    /// An identity provider cannot be reached, or breaks the protocol.
    PROVIDER_BROKEN = "KKM-A036";
    /// A passkey is nobody's here, or did not prove what it has to.
    PASSKEY_REFUSED = "KKM-A050";
    /// This Control is not where passkeys work.
    NO_PASSKEYS = "KKM-A051";
    /// The sign-in is too long ago for this: sign in again.
    SIGN_IN_AGAIN = "KKM-A052";
    /// Nothing else would be left to sign in with, as it has to be.
    LAST_FACTOR = "KKM-A053";

    /// No service has this host.
    NO_SERVICE = "KKM-G001";
    /// The service has no route for this path.
    NO_ROUTE = "KKM-G002";
    /// The visitor may not reach this service.
    DENIED = "KKM-G003";
    /// The visitor has to prove who they are.
    AUTHENTICATION_REQUIRED = "KKM-G004";
    /// The agent that serves the target is offline.
    AGENT_OFFLINE = "KKM-G005";
    /// The target refused the connection.
    TARGET_REFUSED = "KKM-G006";
    /// The target did not answer in time.
    TARGET_TIMEOUT = "KKM-G007";
    /// The target closed the connection without an answer, or broke HTTP.
    TARGET_BROKEN = "KKM-G008";
    /// The certificate of the target does not verify.
    TARGET_CERTIFICATE = "KKM-G009";
    /// No target of the route passes its health check.
    TARGET_UNHEALTHY = "KKM-G010";
    /// The request is malformed or ambiguous.
    BAD_REQUEST = "KKM-G011";
    /// The gateway is at one of its bounds.
    OVERLOADED = "KKM-G012";
    /// The agent does not accept the flow: its plan has no such target.
    AGENT_DENIED = "KKM-G013";
    /// Too many wrong credentials came from the visitor's address.
    TOO_MANY_ATTEMPTS = "KKM-G014";
    /// The browser did not bring back what it was sent away with to sign in, or too late.
    SIGN_IN_FAILED = "KKM-G015";
    /// Nobody can sign in at this gateway right now, or it does not know the person yet.
    SIGN_IN_UNAVAILABLE = "KKM-G016";
    /// The visitor has to sign in more strongly, or again.
    STEP_UP_REQUIRED = "KKM-G017";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found_by_text() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_text(code.as_str()), Some(*code));
            assert!(!Code::ALL[..index].contains(code), "{code} stands twice");
        }
    }
}
