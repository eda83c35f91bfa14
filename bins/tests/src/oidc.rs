//! Identity providers that others wrote: of OpenID Connect, certified, and of OAuth 2.0 alone.

use std::fs;
use std::path::PathBuf;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::ca::TestCa;
use crate::client::{Version, Visitor, VisitorError, request_with};
use crate::component::{self, Component, NODE, OAUTH2_SERVER, OIDC_PROVIDER};
use crate::process::{Process, Program};

/// Its only client; it has [`CLIENT_SECRET`].
pub const CLIENT_ID: &str = "kakuremichi";
/// The secret of the client.
pub const CLIENT_SECRET: &str = "a secret of the client";

/// A provider on this machine's loopback. It ends when dropped.
#[derive(Debug)]
pub struct IdentityProvider {
    _process: Process,
    issuer: String,
    authority: String,
    visitor: Visitor,
    _directory: tempfile::TempDir,
}

impl IdentityProvider {
    /// Starts one for OpenID Connect that sends browsers back to `redirect`; nothing when it is to be done without.
    ///
    /// # Panics
    ///
    /// It is missing, or does not come up.
    #[must_use]
    pub fn oidc(redirect: &str) -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/node/oidc-provider.mjs");
        Self::start(OIDC_PROVIDER, script, redirect)
    }

    /// The same for OAuth 2.0 and nothing else: browsers go to `/authorize`, codes to `/token`, and `/user` says who
    /// somebody is.
    ///
    /// # Panics
    ///
    /// It is missing, or does not come up.
    #[must_use]
    pub fn oauth2(redirect: &str) -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/node/oauth2-server.mjs");
        Self::start(OAUTH2_SERVER, script, redirect)
    }

    fn start(package: Component, script: &str, redirect: &str) -> Option<Self> {
        if !component::have(&[NODE, package]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let ca = TestCa::new("an identity provider");
        let issued = ca.issue(&["localhost"]);
        let settings = json!({
            "certificate": file("certificate.pem", &issued.certificate_pem),
            "key": file("key.pem", &issued.key_pem),
            "modules": component::node_modules(),
            "redirect": redirect,
        });
        let node = Program::other(component::path("node").unwrap());
        let mut process = node.arg(script).arg(settings.to_string()).start();
        let line = process.line_with("port ");
        let port = line.trim().trim_start_matches("port ").to_owned();
        Some(Self {
            _process: process,
            issuer: format!("https://localhost:{port}"),
            authority: ca.pem().to_owned(),
            visitor: Visitor::trusting(&[ca.pem()]),
            _directory: directory,
        })
    }

    /// Its URL; for OpenID Connect, its issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The authority that its certificate is of, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A browser that trusts it.
    #[must_use]
    pub const fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Says who signs in next, as claims; for OpenID Connect with a `sub` at least.
    ///
    /// # Errors
    ///
    /// There is no answer.
    ///
    /// # Panics
    ///
    /// The answer is another than it always is.
    pub async fn next(&self, person: &Value) -> Result<(), VisitorError> {
        let asked = request_with(
            Method::POST,
            &format!("{}/person", self.issuer),
            person.to_string(),
        );
        let reply = self.visitor.send(Version::Http1, asked).await?;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
        Ok(())
    }
}
