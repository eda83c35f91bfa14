//! What a visitor is told when it does not work.

use std::sync::Arc;

use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use kakuremichi_core::{
    auth::{AuthorizationError, AuthorizationRequest, Authorizer},
    model::TargetScheme,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::gateway::{
    access::{AccessControl, Hooks},
    testing::local,
};

fn impatient() -> Timeouts {
    Timeouts {
        response_head: Duration::from_millis(200),
        connect: Duration::from_millis(500),
        head: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        ..Timeouts::default()
    }
}

#[test]
fn offline_refused_timed_out_and_broken_are_told_apart() {
    local(async {
        let scene = Scene::with(Policy::public(), 1, impatient());
        let answer = scene.get("/", "Accept: text/html\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("KKM-G005"),
            "{answer}"
        );
        assert!(
            answer.contains("The agent is offline") && answer.contains("retry-after"),
            "{answer}"
        );
        scene.online(1, nobody().await);
        let answer = scene.get("/", "Accept: application/json\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 502") && answer.contains("KKM-G006"),
            "{answer}"
        );
        assert!(answer.contains("application/problem+json"), "{answer}");
        scene.online(
            1,
            script(|stream, _| async move {
                let _held = stream;
                std::future::pending().await
            })
            .await,
        );
        let answer = scene.get("/", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 504") && answer.contains("KKM-G007"),
            "{answer}"
        );
        for broken in [
            "",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        ] {
            scene.online(
                1,
                script(move |mut stream, _| async move {
                    read_head(&mut stream).await;
                    stream.write_all(broken.as_bytes()).await.unwrap();
                })
                .await,
            );
            let answer = scene.get("/", "").await;
            assert!(
                answer.starts_with("HTTP/1.1 502") && answer.contains("KKM-G008"),
                "{broken}: {answer}"
            );
        }
        assert_eq!(scene.serving.counters.snapshot().failures, 6);
    });
}

#[test]
fn unknown_hosts_and_paths_are_not_found() {
    local(async {
        let scene = Scene::answering(echo).await;
        let answer = scene
            .raw(b"GET / HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("KKM-G001"),
            "{answer}"
        );
        scene.serving.apply(&plan(2, []));
        let answer = scene.get("/", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("KKM-G001"),
            "{answer}"
        );
    });
}

#[test]
fn another_target_is_asked_when_one_refuses() {
    local(async {
        let scene = Scene::new(2);
        scene.online(1, nobody().await);
        scene.online(2, serve_target(echo).await);
        for _ in 0..4 {
            assert!(scene.get("/", "").await.starts_with("HTTP/1.1 200"));
            let post =
                "POST / HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";
            let answer = scene.raw(post.as_bytes()).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("\n\nbody"),
                "{answer}"
            );
        }
    });
}

#[test]
fn a_failing_target_gets_no_traffic() {
    local(async {
        let scene = Scene::answering(echo).await;
        let mut checked = target(1);
        checked.checked = true;
        let kakuremichi_core::plan::Via::Agent { agent, .. } = checked.via else {
            unreachable!()
        };
        let id = checked.id;
        scene
            .serving
            .apply(&plan(2, [http_service(1, HOST, Policy::public(), vec![checked])]));
        assert!(scene.get("/", "").await.starts_with("HTTP/1.1 200"));
        scene.serving.health.write().report(agent, id, false);
        let answer = scene.get("/", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("KKM-G010"),
            "{answer}"
        );
        scene.serving.health.write().report(agent, id, true);
        assert!(scene.get("/", "").await.starts_with("HTTP/1.1 200"));
    });
}

/// A target that closed a kept connection meanwhile is asked on another one, unless the request might
/// then be done twice.
#[test]
fn a_connection_that_the_target_closed_does_not_fail_a_request() {
    local(async {
        let scene = Scene::new(1);
        let notes = Notes::default();
        let noted = notes.clone();
        scene.online(
            1,
            script(move |mut stream, number| {
                let notes = noted.clone();
                async move {
                    read_head(&mut stream).await;
                    notes.note(format!("{number}"));
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                    // Takes the next request and closes without an answer.
                    let head = read_head(&mut stream).await;
                    notes.note(format!(
                        "{number}: {}",
                        head.split(' ').next().unwrap_or_default()
                    ));
                }
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        let mut ask = async |method: &str| {
            visitor
                .write_all(
                    format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
                )
                .await
                .unwrap();
            let head = read_head(&mut visitor).await;
            if head.starts_with("HTTP/1.1 200") {
                visitor.read_exact(&mut [0; 2]).await.unwrap();
            }
            head
        };
        assert!(ask("GET").await.starts_with("HTTP/1.1 200"));
        assert!(ask("GET").await.starts_with("HTTP/1.1 200"));
        assert_eq!(notes.all(), ["0", "0: GET", "1"]);
        assert!(ask("POST").await.starts_with("HTTP/1.1 502"));
    });
}

struct Tls {
    address: SocketAddr,
    root: Vec<u8>,
}

/// A target that speaks TLS under a certificate for `name`.
async fn tls_target(name: &str) -> Tls {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let root = certificate.der().to_vec();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(root.clone())],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = script(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| async { Ok::<_, Infallible>(echo(request).await) });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    Tls {
        address: address.await,
        root,
    }
}

#[test]
fn an_https_target_is_verified() {
    local(async {
        let tls = tls_target("target.internal").await;
        let plan_with = |roots: Vec<Vec<u8>>, name: Option<&str>| {
            let mut target = target(1);
            target.scheme = TargetScheme::Tls {
                server_name: None,
                roots,
            };
            target.server_name = name.map(|name| name.parse().unwrap());
            plan(2, [http_service(1, HOST, Policy::public(), vec![target])])
        };
        let scene = Scene::new(1);
        scene.online(1, tls.address);
        scene
            .serving
            .apply(&plan_with(vec![tls.root.clone()], Some("target.internal")));
        let answer = scene.get("/", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("host: h.example"),
            "{answer}"
        );
        // Another name, no roots, roots that are none, no name.
        for bad in [
            plan_with(vec![tls.root.clone()], Some("other.internal")),
            plan_with(Vec::new(), Some("target.internal")),
            plan_with(vec![vec![1, 2, 3]], Some("target.internal")),
            plan_with(vec![tls.root.clone()], None),
        ] {
            scene.serving.apply(&bad);
            let answer = scene.get("/", "").await;
            assert!(
                answer.starts_with("HTTP/1.1 502") && answer.contains("KKM-G009"),
                "{answer}"
            );
        }
    });
}

#[test]
fn the_systems_roots_count_where_a_target_has_none_of_its_own() {
    local(async {
        let tls = tls_target("target.internal").await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(tls.root)).unwrap();
        let mut target = target(1);
        target.scheme = TargetScheme::Tls {
            server_name: None,
            roots: Vec::new(),
        };
        target.server_name = Some("target.internal".parse().unwrap());
        let service = http_service(1, HOST, Policy::public(), vec![target]);
        let scene = Scene::of([service], Timeouts::default(), roots);
        scene.online(1, tls.address);
        assert!(scene.get("/", "").await.starts_with("HTTP/1.1 200"));
    });
}

/// Only the target's own time is the target's fault.
#[test]
fn the_time_of_a_decision_is_not_taken_from_the_target() {
    #[derive(Debug)]
    struct Slow;

    #[async_trait::async_trait]
    impl Authorizer for Slow {
        async fn authorize(&self, _: AuthorizationRequest<'_>) -> Result<bool, AuthorizationError> {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Ok(true)
        }
    }

    local(async {
        let timeouts = Timeouts {
            response_head: Duration::from_secs(1),
            ..Timeouts::default()
        };
        let mut scene = Scene::with(Policy::public(), 1, timeouts);
        scene.online(1, serve_target(|_| async { ok("in time") }).await);
        let serving = Rc::get_mut(&mut scene.serving).unwrap();
        let hooks = Hooks {
            authorizer: Some(Arc::new(Slow)),
            ..Hooks::default()
        };
        let access = AccessControl::new(&serving.limits, &timeouts, hooks, &[5; 32], Arc::default());
        serving.access = Arc::new(access);
        let answer = scene.get("/", "").await;
        assert!(answer.ends_with("in time"), "{answer}");
    });
}

/// hyper does not strip the body of an answer to HEAD over HTTP/2: a client would see a broken protocol.
#[test]
fn a_page_answers_head_with_its_length_and_no_body() {
    local(async {
        let scene = Scene::new(1);
        let length = scene.get("/", "").await;
        let length = length.split("\r\n\r\n").nth(1).unwrap().len().to_string();
        let head = scene
            .raw(b"HEAD / HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            head.starts_with("HTTP/1.1 503") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
        let visitor = TokioIo::new(scene.visit(Protocol::Http2).await);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), visitor).await.unwrap();
        tokio::task::spawn_local(connection);
        for uri in [format!("https://{HOST}/"), "https://other.example/".to_owned()] {
            let request = Request::head(uri).body(Full::<Bytes>::default()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert!(response.headers().contains_key("content-length"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.is_empty());
        }
    });
}
