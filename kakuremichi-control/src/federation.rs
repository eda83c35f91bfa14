//! Speaks to identity providers: where a browser is sent, and what its code is worth.
//!
//! `openidconnect` and `oauth2` make and check the messages; what is here is the IO, with its bounds, and the way from
//! claims to what Control knows of people.

mod attempt;
mod claims;
mod fetch;

pub(crate) use attempt::Attempt;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use kakuremichi_core::{
    model::{IdentityProvider, ProviderProtocol},
    secret::Secret,
};
use oauth2::basic::BasicClient;
use openidconnect::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, IssuerUrl, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse, TokenUrl,
    core::{
        CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreJwsSigningAlgorithm,
        CoreProviderMetadata,
    },
};
use rustls::RootCertStore;
use serde_json::{Map, Value};

use self::fetch::Web;
use crate::service::{UseCaseError, Vouched};

/// How long what a provider says of itself, and its keys, are believed.
const KNOWN_LIFE: Duration = Duration::from_secs(60 * 60);
/// Keys that do not fit are fetched anew after so long, and not sooner.
const KEYS_PAUSE: Duration = Duration::from_secs(30);
/// Providers of which that is kept; one more takes the place of the oldest.
const MAX_KNOWN: usize = 256;
/// By what an ID token may be signed: by a key that only the provider has.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// Speaks to identity providers, and remembers what they say of themselves.
#[derive(Debug)]
pub(crate) struct Federation {
    web: Web,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    metadata: Arc<CoreProviderMetadata>,
    at: Instant,
}

/// A provider, and what goes with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party<'a> {
    pub(crate) provider: &'a IdentityProvider,
    pub(crate) secret: &'a Secret<String>,
    /// Where the provider sends browsers back to.
    pub(crate) redirect: &'a str,
}

impl Federation {
    /// Trusts these authorities, or the system's.
    pub(crate) fn new(roots: Option<RootCertStore>) -> Self {
        Self {
            web: Web::new(roots),
            known: Mutex::default(),
        }
    }

    /// Where a browser is sent with an attempt.
    pub(crate) async fn authorize(
        &self,
        party: Party<'_>,
        attempt: &Attempt,
    ) -> Result<String, UseCaseError> {
        let verifier = PkceCodeVerifier::new(attempt.verifier.clone());
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let (state, nonce) = (attempt.state.clone(), attempt.nonce.clone());
        let scopes = party.provider.scopes.iter().cloned().map(Scope::new);
        let url = match &party.provider.protocol {
            ProviderProtocol::Oidc { issuer } => {
                let metadata = self.metadata(issuer, KNOWN_LIFE).await?;
                let client = CoreClient::from_provider_metadata(
                    CoreProviderMetadata::clone(&metadata),
                    ClientId::new(party.provider.client_id.clone()),
                    None,
                )
                .set_redirect_uri(redirect(party)?);
                let request = client.authorize_url(
                    CoreAuthenticationFlow::AuthorizationCode,
                    || CsrfToken::new(state),
                    || Nonce::new(nonce),
                );
                // The library asks for `openid` itself.
                let scopes = scopes.filter(|scope| scope.as_str() != "openid");
                request.add_scopes(scopes).set_pkce_challenge(challenge).url().0
            }
            ProviderProtocol::OAuth2 { authorize, .. } => {
                let client = BasicClient::new(ClientId::new(party.provider.client_id.clone()))
                    .set_auth_uri(AuthUrl::new(authorize.clone()).map_err(broken)?)
                    .set_redirect_uri(redirect(party)?);
                let request = client.authorize_url(|| CsrfToken::new(state));
                request.add_scopes(scopes).set_pkce_challenge(challenge).url().0
            }
        };
        Ok(url.into())
    }

    /// Whom the provider vouches for with a code.
    pub(crate) async fn vouched(
        &self,
        party: Party<'_>,
        attempt: &Attempt,
        code: String,
    ) -> Result<Vouched, UseCaseError> {
        let claims = match &party.provider.protocol {
            ProviderProtocol::Oidc { issuer } => self.oidc(party, issuer, attempt, code).await?,
            ProviderProtocol::OAuth2 { token, userinfo, .. } => {
                self.oauth2(party, token, userinfo, attempt, code).await?
            }
        };
        claims::vouched(&party.provider.claims, &claims)
    }

    async fn oidc(
        &self,
        party: Party<'_>,
        issuer: &str,
        attempt: &Attempt,
        code: String,
    ) -> Result<Map<String, Value>, UseCaseError> {
        let metadata = self.metadata(issuer, KNOWN_LIFE).await?;
        let client = CoreClient::from_provider_metadata(
            CoreProviderMetadata::clone(&metadata),
            ClientId::new(party.provider.client_id.clone()),
            Some(ClientSecret::new(party.secret.expose().clone())),
        )
        .set_redirect_uri(redirect(party)?)
        .set_auth_type(auth_type(&metadata));
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(broken)?;
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()));
        let tokens = request.request_async(&self.web).await.map_err(broken)?;
        let id_token = tokens.id_token().ok_or(UseCaseError::Provider(
            "the identity provider sends no ID token: is it one for OpenID Connect?",
        ))?;
        let nonce = Nonce::new(attempt.nonce.clone());
        let checked = {
            let verifier = client.id_token_verifier().set_allowed_algs(ALGORITHMS);
            id_token.claims(&verifier, &nonce).map(|_| ()).map_err(broken)
        };
        if let Err(first) = checked {
            // The provider may have changed its keys since.
            let newer = self.metadata(issuer, KEYS_PAUSE).await?;
            if newer.jwks() == metadata.jwks() {
                return Err(first);
            }
            let client = CoreClient::from_provider_metadata(
                CoreProviderMetadata::clone(&newer),
                ClientId::new(party.provider.client_id.clone()),
                Some(ClientSecret::new(party.secret.expose().clone())),
            );
            let verifier = client.id_token_verifier().set_allowed_algs(ALGORITHMS);
            id_token.claims(&verifier, &nonce).map_err(broken)?;
        }
        let mut claims = claims::of_verified(&id_token.to_string())?;
        if let Some(userinfo) = metadata.userinfo_endpoint() {
            let more = self
                .web
                .json(userinfo.as_str(), tokens.access_token().secret())
                .await?;
            // OpenID Connect Core 1.0, section 5.3.2: otherwise it is of somebody else.
            if more.get("sub") != claims.get("sub") {
                return Err(UseCaseError::Provider(
                    "the identity provider speaks of two people at once",
                ));
            }
            for (name, value) in more {
                claims.entry(name).or_insert(value);
            }
        }
        Ok(claims)
    }

    async fn oauth2(
        &self,
        party: Party<'_>,
        token: &str,
        userinfo: &str,
        attempt: &Attempt,
        code: String,
    ) -> Result<Map<String, Value>, UseCaseError> {
        let client = BasicClient::new(ClientId::new(party.provider.client_id.clone()))
            .set_client_secret(ClientSecret::new(party.secret.expose().clone()))
            .set_token_uri(TokenUrl::new(token.to_owned()).map_err(broken)?)
            .set_redirect_uri(redirect(party)?);
        let request = client.exchange_code(AuthorizationCode::new(code));
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()));
        let tokens = request.request_async(&self.web).await.map_err(broken)?;
        self.web.json(userinfo, tokens.access_token().secret()).await
    }

    /// Boxed, here and for tokens: the compiler cannot tell that the library's own futures can be sent.
    fn discover(&self, url: IssuerUrl) -> BoxFuture<'_, Result<CoreProviderMetadata, UseCaseError>> {
        let discovered = CoreProviderMetadata::discover_async(url, &self.web);
        Box::pin(async { discovered.await.map_err(broken) })
    }

    /// What a provider says of itself, with its keys, if it was said within this time; asked for otherwise.
    async fn metadata(
        &self,
        issuer: &str,
        within: Duration,
    ) -> Result<Arc<CoreProviderMetadata>, UseCaseError> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(issuer)
            .cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < within) {
            return Ok(known.metadata);
        }
        let url = IssuerUrl::new(issuer.to_owned()).map_err(broken)?;
        let metadata = self.discover(url).await?;
        let metadata = Arc::new(metadata);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN && !known.contains_key(issuer) {
            let oldest = known.iter().min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(issuer, _)| issuer.clone()) {
                known.remove(&oldest);
            }
        }
        let entry = Known {
            metadata: Arc::clone(&metadata),
            at: Instant::now(),
        };
        known.insert(issuer.to_owned(), entry);
        Ok(metadata)
    }
}

fn redirect(party: Party<'_>) -> Result<RedirectUrl, UseCaseError> {
    RedirectUrl::new(party.redirect.to_owned()).map_err(broken)
}

/// How this Control shows its secret: as every provider has to take it (RFC 6749, section 2.3.1), unless one says
/// that it does not.
fn auth_type(metadata: &CoreProviderMetadata) -> AuthType {
    let methods = metadata.token_endpoint_auth_methods_supported();
    let only_in_body = methods.is_some_and(|methods| {
        methods.contains(&CoreClientAuthMethod::ClientSecretPost)
            && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
    });
    if only_in_body {
        AuthType::RequestBody
    } else {
        AuthType::BasicAuth
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> UseCaseError {
    UseCaseError::ProviderBroken(Box::new(error))
}
