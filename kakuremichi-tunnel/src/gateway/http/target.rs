//! Connections to targets: plain, or TLS that is verified.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use kakuremichi_core::{model::TargetScheme, plan::PlannedTarget};
use rustc_hash::FxHashMap;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::gateway::upstream::FlowError;

/// The most sets of pinned roots whose configuration is kept. Beyond, all are made again.
const MAX_PINNED: usize = 256;

/// Makes TLS connections to `https` targets.
#[derive(Debug)]
pub(crate) struct TargetTls {
    provider: Arc<CryptoProvider>,
    system: Arc<ClientConfig>,
    pinned: Mutex<FxHashMap<Vec<Vec<u8>>, Arc<ClientConfig>>>,
}

/// A target's certificates cannot be used as roots.
#[derive(Debug, thiserror::Error)]
#[error("the target's certificate authority cannot be used")]
pub(crate) struct RootsError(#[source] rustls::Error);

impl TargetTls {
    /// Verifies targets without roots of their own by `system`.
    ///
    /// # Errors
    /// When the provider does not do TLS 1.2 and 1.3.
    pub(crate) fn new(provider: Arc<CryptoProvider>, system: RootCertStore) -> Result<Self, rustls::Error> {
        Ok(Self {
            system: config(&provider, system)?,
            provider,
            pinned: Mutex::default(),
        })
    }

    /// Speaks TLS to a target, if it is an `https` target.
    ///
    /// # Errors
    /// When the certificate does not verify, for the name as planned, or the flow breaks.
    pub(crate) async fn wrap<S>(
        &self,
        target: &PlannedTarget,
        stream: S,
    ) -> Result<TargetStream<S>, FlowError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let TargetScheme::Tls { roots, .. } = &target.scheme else {
            return Ok(TargetStream::Plain(stream));
        };
        // Without a name there is nothing that could be verified.
        let name = target.server_name.as_ref().ok_or(FlowError::Certificate)?;
        let name = ServerName::try_from(name.as_str().to_owned()).map_err(|_| FlowError::Certificate)?;
        let config = self.roots(roots).map_err(|error| {
            tracing::warn!(target = %target.id, %error, "the target is not connected to");
            FlowError::Certificate
        })?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(TargetStream::Tls(Box::new(stream))),
            Err(error) => Err(failure(target, &error)),
        }
    }

    fn roots(&self, roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, RootsError> {
        if roots.is_empty() {
            return Ok(Arc::clone(&self.system));
        }
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = pinned.get(roots) {
            return Ok(Arc::clone(config));
        }
        let mut store = RootCertStore::empty();
        for root in roots {
            store
                .add(CertificateDer::from(root.clone()))
                .map_err(RootsError)?;
        }
        let config = config(&self.provider, store).map_err(RootsError)?;
        if pinned.len() >= MAX_PINNED {
            pinned.clear();
        }
        pinned.insert(roots.to_vec(), Arc::clone(&config));
        Ok(config)
    }
}

fn config(provider: &Arc<CryptoProvider>, roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn failure(target: &PlannedTarget, error: &io::Error) -> FlowError {
    if let Some(reason) = FlowError::find(error) {
        return reason;
    }
    let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    tracing::debug!(target = %target.id, %error, "TLS to the target failed");
    match error.kind() {
        _ if tls => FlowError::Certificate,
        io::ErrorKind::TimedOut => FlowError::TimedOut,
        io::ErrorKind::ConnectionRefused => FlowError::Refused,
        _ => FlowError::Broken,
    }
}

/// A connection to a target.
#[derive(Debug)]
pub(crate) enum TargetStream<S> {
    /// In the clear, inside the tunnel.
    Plain(S),
    /// TLS inside the tunnel.
    Tls(Box<TlsStream<S>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TargetStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TargetStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
