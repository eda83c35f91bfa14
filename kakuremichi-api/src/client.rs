//! The client.

use std::{net::IpAddr, time::Duration};

use http::{Method, Uri, header};
use kakuremichi_core::{id::NodeId, secret::Secret};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    error::ApiError,
    exchange::{Answer, Exchange, PATIENCE},
    model::node::{KeyRotation, Node},
    resource::{Create, Delete, Listing, Replace, Resource, Revoke, Tagged, Update},
};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The URL of Control is none: `https://HOST` or `https://HOST:PORT`.
    #[error("`{0}` is no URL of a Control: give https://HOST or https://HOST:PORT")]
    Url(String),
    /// The key has characters that no key has.
    #[error("the key is none: it has characters that cannot be sent")]
    Key,
    /// The certificates are none.
    #[error("the authority's certificates cannot be read")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes an [`Api`].
#[derive(Debug)]
pub struct ApiBuilder {
    url: String,
    key: Secret<String>,
    authority: Option<String>,
    address: Option<IpAddr>,
    organization: Option<String>,
    patience: Duration,
}

impl ApiBuilder {
    /// Trusts the certificates in this PEM text, such as Control's own `ca.pem`, and no others.
    #[must_use]
    pub fn authority(mut self, pem: impl Into<String>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Connects to this address, wherever the URL's name leads.
    #[must_use]
    pub const fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Acts in this organization: for people who are in several, who are known by the token of a session.
    #[must_use]
    pub fn organization(mut self, id: impl Into<String>) -> Self {
        self.organization = Some(id.into());
        self
    }

    /// How long one attempt may take: [`PATIENCE`] if nothing is said.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes the client. It connects with the first request.
    ///
    /// # Errors
    /// When the URL, the key or the authority's certificates are none.
    pub fn build(self) -> Result<Api, BuildError> {
        let wrong = || BuildError::Url(self.url.clone());
        let uri: Uri = self.url.parse().map_err(|_| wrong())?;
        let scheme = uri.scheme_str();
        if uri.host().is_none_or(str::is_empty) || !matches!(scheme, Some("https" | "http")) {
            return Err(wrong());
        }
        // A key is not for everybody on the way.
        if scheme == Some("http") && !is_loopback(&uri) {
            return Err(wrong());
        }
        let tls = tls(self.authority.as_deref())?;
        let exchange = Exchange::new(
            self.url.trim_end_matches('/'),
            &self.key,
            self.organization.as_deref(),
            (tls, self.address, self.patience),
        )?;
        Ok(Api { exchange })
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn tls(authority: Option<&str>) -> Result<ClientConfig, BuildError> {
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Authority(error);
    let mut roots = RootCertStore::empty();
    match authority {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| wrong(error.into()))?;
                roots.add(certificate).map_err(|error| wrong(error.into()))?;
            }
            if roots.is_empty() {
                return Err(wrong("there is no certificate in it".into()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.into()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A client of Control's REST API. Clones share its connections.
///
/// A request that got no answer, or was told to come later, is sent again, [a few times](crate::ATTEMPTS): it has a key by which
/// Control knows it again, so that nothing is done twice.
#[derive(Debug, Clone)]
pub struct Api {
    exchange: Exchange,
}

impl Api {
    /// A client of the Control at a URL, such as `https://control.example.net:7443`, with an API key or the token of a
    /// session. Plain `http` is for a Control on this machine only.
    #[must_use]
    pub fn builder(url: impl Into<String>, key: Secret<String>) -> ApiBuilder {
        ApiBuilder {
            url: url.into(),
            key,
            authority: None,
            address: None,
            organization: None,
            patience: PATIENCE,
        }
    }

    /// Makes something.
    ///
    /// # Errors
    /// See [`ApiError`]. Where the draft is wrong, the [problem](crate::Problem) names the fields.
    pub async fn create<T: Create>(&self, draft: &T::Draft) -> Result<Tagged<T::Made>, ApiError> {
        let body = json(draft)?;
        self.exchange
            .ask(Method::POST, T::COLLECTION, Some(&body), None)
            .await?
            .tagged()
    }

    /// Reads one.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn get<T: Resource>(&self, id: T::Id) -> Result<Tagged<T>, ApiError> {
        self.exchange
            .ask(Method::GET, &path::<T>(&id), None, None)
            .await?
            .tagged()
    }

    /// Reads a part of a list. `query` is filters, `limit` and `cursor`, as the reference has them.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn list<T: Resource>(&self, query: &[(&str, &str)]) -> Result<Listing<T>, ApiError> {
        self.part(T::COLLECTION, query).await
    }

    /// Reads the parts of a list one after the other, until there are `limit` items or no more.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn list_all<T: Resource>(
        &self,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<T>, ApiError> {
        self.items(T::COLLECTION, query, limit).await
    }

    /// The same for any collection, below `/api/v1/`, with items of any type, such as JSON.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn items<T: DeserializeOwned>(
        &self,
        collection: &str,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<T>, ApiError> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let next = cursor.as_deref().map(|cursor| ("cursor", cursor));
            let query: Vec<_> = query.iter().copied().chain(next).collect();
            let part: Listing<T> = self.part(collection, &query).await?;
            items.extend(part.items);
            cursor = part.next_cursor;
            if items.len() >= limit || cursor.is_none() {
                items.truncate(limit);
                return Ok(items);
            }
        }
    }

    async fn part<T: DeserializeOwned>(
        &self,
        collection: &str,
        query: &[(&str, &str)],
    ) -> Result<Listing<T>, ApiError> {
        let path = with_query(collection, query);
        self.exchange.ask(Method::GET, &path, None, None).await?.body()
    }

    /// Describes one anew. With a tag, only if nobody changed it since the tag was read.
    ///
    /// # Errors
    /// See [`ApiError`], and [`ApiError::is_outdated`].
    pub async fn replace<T: Replace>(
        &self,
        id: T::Id,
        draft: &T::Draft,
        tag: Option<&str>,
    ) -> Result<Tagged<T>, ApiError> {
        let body = json(draft)?;
        self.exchange
            .ask(Method::PUT, &path::<T>(&id), Some(&body), tag)
            .await?
            .tagged()
    }

    /// Changes a part of one. With a tag, only if nobody changed it since the tag was read.
    ///
    /// # Errors
    /// See [`ApiError`], and [`ApiError::is_outdated`].
    pub async fn update<T: Update>(
        &self,
        id: T::Id,
        change: &T::Change,
        tag: Option<&str>,
    ) -> Result<Tagged<T>, ApiError> {
        let body = json(change)?;
        self.exchange
            .ask(Method::PATCH, &path::<T>(&id), Some(&body), tag)
            .await?
            .tagged()
    }

    /// Deletes one.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn delete<T: Delete>(&self, id: T::Id) -> Result<(), ApiError> {
        self.exchange
            .ask(Method::DELETE, &path::<T>(&id), None, None)
            .await
            .map(drop)
    }

    /// Revokes one.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn revoke<T: Revoke>(&self, id: T::Id) -> Result<Tagged<T>, ApiError> {
        self.exchange
            .ask(Method::POST, &format!("{}/revoke", path::<T>(&id)), None, None)
            .await?
            .tagged()
    }

    /// Asks a node for new keys. It has them soon after it is connected.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn rotate_keys(&self, node: NodeId, how: &KeyRotation) -> Result<Tagged<Node>, ApiError> {
        let body = json(how)?;
        let path = format!("{}/rotate-keys", path::<Node>(&node));
        self.exchange
            .ask(Method::POST, &path, Some(&body), None)
            .await?
            .tagged()
    }

    /// Ends the time of the keys that a node had before.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn revoke_previous_keys(&self, node: NodeId) -> Result<Tagged<Node>, ApiError> {
        let path = format!("{}/revoke-previous-keys", path::<Node>(&node));
        self.exchange.ask(Method::POST, &path, None, None).await?.tagged()
    }

    /// Sends any request. The path is below `/api/v1/`, with its query. Without an answer's body it returns `null`.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let body = body.map(json).transpose()?;
        let answer = self.exchange.ask(method, path, body.as_deref(), None).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        answer.body()
    }
}

impl Answer {
    fn tagged<T: DeserializeOwned>(&self) -> Result<Tagged<T>, ApiError> {
        let tag = self.header(&header::ETAG).unwrap_or_default().to_owned();
        Ok(Tagged {
            value: self.body()?,
            tag,
        })
    }
}

fn json(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|error| ApiError::Unsendable(error.to_string()))
}

fn path<T: Resource>(id: &T::Id) -> String {
    let id = id.to_string();
    // An identifier has nothing to encode; what is none stays below the collection.
    let id = utf8_percent_encode(&id, UNRESERVED);
    format!("{}/{id}", T::COLLECTION)
}

const UNRESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut text = path.to_owned();
    for (at, (name, value)) in query.iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.extend(utf8_percent_encode(name, UNRESERVED));
        text.push('=');
        text.extend(utf8_percent_encode(value, UNRESERVED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(url: &str) -> Result<Api, BuildError> {
        Api::builder(url, Secret::new("kkm_api_x".to_owned())).build()
    }

    #[test]
    fn a_key_is_not_sent_in_the_clear() {
        for url in [
            "https://control.example.net:7443",
            "http://localhost:1",
            "http://[::1]:1",
            "http://127.0.0.1:1",
        ] {
            assert!(build(url).is_ok(), "{url}");
        }
        for url in [
            "http://control.example.net",
            "ftp://localhost",
            "localhost",
            "",
            "https://",
        ] {
            assert!(matches!(build(url), Err(BuildError::Url(_))), "{url}");
        }
        let api = build("http://localhost:1").unwrap();
        assert!(!format!("{api:?}").contains("kkm_api"));
        let key = Api::builder("http://localhost:1", Secret::new("a\nb".to_owned()));
        assert!(matches!(key.build(), Err(BuildError::Key)));
        let authority = Api::builder("https://a", Secret::new("k".to_owned())).authority("none");
        assert!(matches!(authority.build(), Err(BuildError::Authority(_))));
    }

    #[test]
    fn what_is_asked_for_is_encoded() {
        assert_eq!(
            with_query("nodes", &[("search", "a&b=c d"), ("limit", "2")]),
            "nodes?search=a%26b%3Dc%20d&limit=2"
        );
    }
}
