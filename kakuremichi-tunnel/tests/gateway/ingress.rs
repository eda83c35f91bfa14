//! What happens before a request.

use std::time::Duration;

use kakuremichi_tunnel::gateway::{GivenCertificates, Limits, Timeouts};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::scene::{HOST, Published, Scene, client, saying, soon};

async fn answer(mut stream: TcpStream, ask: &str) -> String {
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_is_sent_to_https_for_known_hosts_only() {
    let scene = Scene::with(&[Published::http(vec![saying("hello").await])], |builder| {
        builder.public_https_port(443)
    })
    .await;
    let http = scene.gateway.http_address().unwrap();
    let ask = |host: &str| format!("POST //a/b?c HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    let redirect = answer(
        TcpStream::connect(http).await.unwrap(),
        &ask("App.Example.NET.:80"),
    )
    .await;
    assert!(redirect.starts_with("HTTP/1.1 308"), "{redirect}");
    assert!(
        redirect.contains("location: https://app.example.net/a/b?c\r\n"),
        "{redirect}"
    );
    let unknown = answer(TcpStream::connect(http).await.unwrap(), &ask("evil.example")).await;
    assert!(
        unknown.starts_with("HTTP/1.1 404") && !unknown.contains("location"),
        "{unknown}"
    );
    // Somebody typed http:// with the HTTPS port.
    let https = scene.gateway.https_address();
    let redirect = answer(TcpStream::connect(https).await.unwrap(), &ask(HOST)).await;
    assert!(redirect.starts_with("HTTP/1.1 308"), "{redirect}");
}

#[tokio::test]
async fn names_that_are_not_served_get_no_handshake() {
    let scene = Scene::start(&[Published::http(vec![saying("hello").await])]).await;
    assert!(scene.tls("other.example.net", &[]).await.is_err());
    assert!(scene.tls("127.0.0.1", &[]).await.is_err());
    assert!(scene.tls(HOST, &[]).await.is_ok());
    scene.publish(&[]).await;
    assert!(scene.tls(HOST, &[]).await.is_err());
}

#[tokio::test]
async fn given_certificates_are_used() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([HOST.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let given = GivenCertificates::new()
        .with_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
        .unwrap();
    let services = [Published::http(vec![saying("hello").await])];
    let scene = Scene::with(&services, |builder| builder.certificates(given)).await;
    assert!(scene.gateway.ca_certificate().is_none());
    let stream = TcpStream::connect(scene.gateway.https_address()).await.unwrap();
    let connector = TlsConnector::from(client(&certificate.pem(), &[]));
    let stream = connector
        .connect(ServerName::try_from(HOST).unwrap(), stream)
        .await
        .unwrap();
    assert_eq!(
        stream.get_ref().1.peer_certificates().unwrap()[0],
        *certificate.der()
    );
}

/// LESSONS, advisory 7: deadlines before anything is known about a visitor.
#[tokio::test]
async fn silent_and_slow_visitors_are_cut() {
    let mut timeouts = Timeouts::default();
    timeouts.hello = Duration::from_millis(300);
    let services = [Published::http(vec![saying("hello").await])];
    let scene = Scene::with(&services, |builder| builder.timeouts(timeouts)).await;
    for begun in [&b""[..], b"\x16\x03\x01", b"\x00garbage"] {
        let mut stream = TcpStream::connect(scene.gateway.https_address()).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
        assert!(rest.len() < 64);
    }
    // A connection may be closed a moment before it is counted.
    soon(async {
        while scene.gateway.metrics().handshakes_failed < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(scene.get("/").await.contains("hello"));
}

/// LESSONS, advisory 7: a cap per address.
#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let mut limits = Limits::default();
    limits.connections_per_address = 4;
    let services = [Published::http(vec![saying("hello").await])];
    let scene = Scene::with(&services, |builder| builder.limits(limits)).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(scene.tls(HOST, &[]).await.unwrap());
    }
    assert!(scene.tls(HOST, &[]).await.is_err());
    assert_eq!(scene.gateway.metrics().refused, 1);
    drop(held);
    soon(async {
        while scene.tls(HOST, &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
