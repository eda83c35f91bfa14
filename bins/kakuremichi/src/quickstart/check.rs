//! A visitor of our own, who knows when everything is in place.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kakuremichi_bins_common::Failure;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The time in which the first request must get through.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time for one request.
const ONE_LOOK: Duration = Duration::from_secs(10);

/// Waits until a request to `host` gets as far as its target: what the gateway answers by itself because it
/// has no such service yet, or no lane, does not count; that the target is down does.
pub(super) async fn reachable(https: SocketAddr, host: &str, ca: &str) -> Result<(), Failure> {
    let mut last = "no answer".to_owned();
    let looks = async {
        loop {
            match timeout(ONE_LOOK, look(https, host, ca)).await {
                Ok(Ok(status))
                    if status != StatusCode::NOT_FOUND && status != StatusCode::SERVICE_UNAVAILABLE =>
                {
                    return;
                }
                Ok(Ok(status)) => last = format!("the gateway answered {status}"),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer in time".clone_into(&mut last),
            }
            sleep(PAUSE).await;
        }
    };
    let outcome = timeout(PATIENCE, looks).await;
    outcome.map_err(|_| Failure::refused(format!("no request gets through to {host}: {last}")))
}

async fn look(
    https: SocketAddr,
    host: &str,
    ca: &str,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let ip = match https.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    let socket = TcpStream::connect((ip, https.port())).await?;
    let name = ServerName::try_from(host.to_owned())?;
    let socket = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let request = Request::head("/")
        .header("host", host)
        .body(Empty::<Bytes>::new())?;
    tokio::select! {
        response = sender.send_request(request) => Ok(response?.status()),
        ended = connection => Err(ended.err().map_or_else(|| "the gateway hung up".into(), Into::into)),
    }
}
