//! The admin address over real sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::metrics::MetricKind;

#[derive(Debug, Default)]
struct Source {
    ready: AtomicBool,
}

impl AdminSource for Source {
    fn readiness(&self) -> Readiness {
        if self.ready.load(Ordering::Relaxed) {
            return Readiness::Ready;
        }
        Readiness::NotReady("no plan yet".to_owned())
    }

    fn metrics(&self, page: &mut Exposition) {
        page.single("kakuremichi_test_total", "A test.", MetricKind::Counter, 7);
    }
}

struct Served {
    address: SocketAddr,
    source: Arc<Source>,
    _handle: AdminHandle,
}

fn serve(address: &str) -> Served {
    let admin = Admin::bind(address.parse().unwrap(), Role::Gateway).unwrap();
    let address = admin.address().unwrap();
    let source = Arc::new(Source::default());
    let shared: Arc<dyn AdminSource> = Arc::clone(&source) as _;
    Served {
        address,
        source,
        _handle: admin.serve(shared).unwrap(),
    }
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(served: &Served, path: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        served.address
    );
    exchange(served.address, &request).await
}

#[tokio::test]
async fn health_readiness_and_metrics_are_told() {
    let served = serve("127.0.0.1:0");
    assert!(get(&served, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let answer = get(&served, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("not ready: no plan yet\n"),
        "{answer}"
    );
    served.source.ready.store(true, Ordering::Relaxed);
    assert!(get(&served, "/readyz").await.starts_with("HTTP/1.1 200 "));
    let answer = get(&served, "/metrics").await;
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    assert!(
        answer.contains("kakuremichi_build_info{role=\"gateway\""),
        "{answer}"
    );
    assert!(answer.ends_with("kakuremichi_test_total 7\n"), "{answer}");
    assert!(get(&served, "/debug").await.starts_with("HTTP/1.1 404 "));
}

/// LESSONS, advisory 15: local and admin addresses check Host and Origin, loopback or not.
#[tokio::test]
async fn a_host_or_origin_of_somebody_else_is_refused() {
    let served = serve("127.0.0.1:0");
    let status = async |head: &str| {
        let answer = exchange(served.address, &format!("{head}Connection: close\r\n\r\n")).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.2:80", "[::1]:9"] {
        assert_eq!(
            status(&format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n")).await,
            "200",
            "{host}"
        );
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "a b",
        "[::ffff:10.0.0.1]",
    ] {
        assert_ne!(
            status(&format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n")).await,
            "200",
            "{host}"
        );
    }
    assert_eq!(status("GET /metrics HTTP/1.0\r\n").await, "403", "no Host");
    assert_ne!(
        status("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n").await,
        "200"
    );
    assert_eq!(
        status("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n").await,
        "403"
    );
    let with_origin =
        |origin: &str| format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n");
    assert_eq!(status(&with_origin("http://localhost:3000")).await, "200");
    assert_eq!(status(&with_origin("https://evil.example")).await, "403");
    assert_eq!(status(&with_origin("null")).await, "403");
}

#[tokio::test]
async fn it_only_reads() {
    let served = serve("[::1]:0");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n");
        let answer = exchange(served.address, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"),
            "{method}: {answer}"
        );
    }
    let request = "HEAD /metrics HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n";
    let answer = exchange(served.address, request).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

/// LESSONS, advisory 7: every state before authentication has a byte bound and a cap.
#[tokio::test]
async fn connections_and_heads_are_bounded() {
    let served = serve("127.0.0.1:0");
    let long = format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(HEAD_MAX)
    );
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));

    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        idle.push(stream);
    }
    let one_more = get(&served, "/healthz");
    tokio::pin!(one_more);
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut one_more).await;
    assert!(waited.is_err(), "it waits for a place");
    idle.pop();
    assert!(one_more.await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_at_once() {
    let served = serve("127.0.0.1:0");
    let failure = Admin::bind(AdminAddress::At(served.address), Role::Agent)
        .unwrap_err()
        .to_string();
    assert!(
        failure.starts_with(&format!("--admin: cannot listen on {}: ", served.address)),
        "{failure}"
    );
    let off = Admin::bind(AdminAddress::Off, Role::Agent).unwrap();
    assert_eq!(off.address(), None);
    drop(off.serve(Arc::new(Source::default())).unwrap());
}
