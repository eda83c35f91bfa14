//! A visitor of our own, who knows when everything is in place.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kakuremichi_bins_common::Failure;
use kakuremichi_core::code::Code;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The time in which the first request must get through, and each thing before it come.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The time for one request.
const ONE_LOOK: Duration = Duration::from_secs(10);
/// The most bytes of an answer that are read. A page of the gateway's own is shorter.
const PAGE: usize = 4096;
/// What the gateway answers by itself as long as something is not in place.
const NOT_YET: [Code; 5] = [
    // A request that was under way when the service of an earlier start went.
    Code::DENIED,
    Code::NO_SERVICE,
    Code::NO_ROUTE,
    Code::AGENT_OFFLINE,
    Code::AGENT_DENIED,
];

/// Waits until a request to `host` gets as far as its target: what the gateway answers by itself because it
/// has no such service yet, or no lane, does not count. That the target is down does, and so does whatever the
/// target answers.
pub(super) async fn reachable(https: SocketAddr, host: &str, ca: &str) -> Result<(), Failure> {
    let mut last = "no answer".to_owned();
    let looks = async {
        loop {
            match timeout(ONE_LOOK, look(https, host, ca)).await {
                Ok(Ok(None)) => return,
                Ok(Ok(Some(code))) => last = format!("the gateway answered {code}"),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer in time".clone_into(&mut last),
            }
            sleep(PAUSE).await;
        }
    };
    let outcome = timeout(PATIENCE, looks).await;
    outcome.map_err(|_| Failure::refused(format!("no request gets through to {host}: {last}")))
}

/// Asks once; says why the target was not reached, if it was not.
async fn look(
    https: SocketAddr,
    host: &str,
    ca: &str,
) -> Result<Option<Code>, Box<dyn std::error::Error + Send + Sync>> {
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
    let request = Request::get("/")
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/problem+json")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let body = sender.send_request(request).await?.into_body();
        // What is longer, or breaks off, is the target's.
        let page = Limited::new(body, PAGE).collect().await;
        Ok(page.map_or(None, |page| not_yet(&page.to_bytes())))
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(ended.err().map_or_else(|| "the gateway hung up".into(), Into::into)),
    }
}

/// The code of a page by which the gateway says that something is not in place.
fn not_yet(page: &[u8]) -> Option<Code> {
    let page: serde_json::Value = serde_json::from_slice(page).ok()?;
    let code = Code::from_text(page.get("code")?.as_str()?)?;
    NOT_YET.contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gateways_own_words_mean_not_yet() {
        assert_eq!(
            not_yet(br#"{"status":404,"code":"KKM-G001"}"#),
            Some(Code::NO_SERVICE)
        );
        for other in [r#"{"code":"KKM-G006"}"#, r#"{"code":404}"#, "[]", "not found", ""] {
            assert_eq!(not_yet(other.as_bytes()), None, "{other}");
        }
    }
}
