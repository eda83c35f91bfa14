//! What reaches the target, and what comes back.

use hyper::client::conn::{http1 as client1, http2 as client2};
use kakuremichi_core::id::AgentId;

use super::*;
use crate::gateway::testing::{argon2id, basic_policy, local};

#[test]
fn a_request_reaches_the_target_in_canonical_form() {
    local(async {
        let scene = Scene::answering(echo).await;
        let answer = scene.get("//a/%62?x=%2f", "X-Mine: 1\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("GET /a/b?x=%2f\n"), "{answer}");
        for field in [
            "host: h.example",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: h.example",
            "x-forwarded-proto: https",
            "x-mine: 1",
        ] {
            assert!(answer.contains(&format!("{field}\n")), "{field}: {answer}");
        }
        assert!(!answer.contains("connection: close\n"), "{answer}");
    });
}

/// LESSONS, advisories 2, 3 and 4: nothing that a visitor sends counts as forwarded, or removes ours.
#[test]
fn spoofed_fields_do_not_reach_the_target() {
    local(async {
        let scene = Scene::answering(echo).await;
        let spoofed = "X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
                       X-Real-IP: 6.6.6.6\r\nConnection: X-Forwarded-For, X-Forwarded-Proto\r\n";
        let answer = scene.get("/", spoofed).await;
        assert!(!answer.contains("6.6.6.6"), "{answer}");
        assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");
        assert!(answer.contains("x-forwarded-proto: https\n"), "{answer}");
    });
}

#[test]
fn http_2_visitors_share_a_connection_and_targets_see_http_1() {
    local(async {
        let scene = Scene::answering(echo).await;
        let visitor = scene.visit(Protocol::Http2).await;
        let (sender, connection) = client2::handshake(LocalExecutor, TokioIo::new(visitor))
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        let answers = (0..20).map(|number| {
            let mut sender = sender.clone();
            tokio::task::spawn_local(async move {
                let request = Request::post(format!("https://{HOST}/{number}"))
                    .header("cookie", "a=1")
                    .header("cookie", "b=2")
                    .body(Full::new(Bytes::from(format!("body {number}"))))
                    .unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                assert!(!response.headers().contains_key("connection"));
                let text = response.into_body().collect().await.unwrap().to_bytes();
                String::from_utf8(text.to_vec()).unwrap()
            })
        });
        for (number, answer) in answers.collect::<Vec<_>>().into_iter().enumerate() {
            let answer = answer.await.unwrap();
            assert!(answer.starts_with(&format!("POST /{number}\n")), "{answer}");
            assert!(
                answer.contains("cookie: a=1; b=2\n") && answer.contains("host: h.example\n"),
                "{answer}"
            );
            assert!(answer.ends_with(&format!("\n\nbody {number}")), "{answer}");
        }
    });
}

/// Runs a client's streams on the test's thread.
#[derive(Clone)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

#[test]
fn a_connection_to_a_target_is_used_again_by_the_same_visitor_only() {
    local(async {
        let scene = Scene::answering(echo).await;
        for visitor in 1..=2 {
            let stream = scene.visit(Protocol::Http1).await;
            let (mut sender, connection) = client1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::task::spawn_local(connection);
            for _ in 0..3 {
                sender.ready().await.unwrap();
                let request = Request::get("/")
                    .header("host", HOST)
                    .body(Full::<Bytes>::default())
                    .unwrap();
                let response = sender.send_request(request).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
            assert_eq!(scene.upstream.opened.borrow().len(), visitor);
        }
    });
}

/// LESSONS, advisory 6: an upstream connection with an unread body is closed, never reused.
#[test]
fn a_target_that_did_not_read_its_request_is_not_asked_again_on_that_connection() {
    local(async {
        let scene = Scene::new(1);
        let target = script(|mut stream, _| async move {
            // Answers at the head, without taking the body.
            loop {
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
            }
        });
        scene.online(1, target.await);
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(b"POST / HTTP/1.1\r\nHost: h.example\r\nContent-Length: 400000\r\n\r\n")
            .await
            .unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 200"));
        drop(visitor);
        assert!(scene.get("/", "").await.contains("200 OK"));
        assert_eq!(scene.upstream.opened.borrow().len(), 2);
    });
}

#[test]
fn the_gateways_password_stays_at_the_gateway() {
    local(async {
        let policy = basic_policy("ann", &argon2id("sesame"));
        let scene = Scene::with(policy, 1, Timeouts::default());
        scene.online(1, serve_target(echo).await);
        let asked = scene.get("/", "Accept: text/html\r\n").await;
        assert!(
            asked.starts_with("HTTP/1.1 401") && asked.contains("www-authenticate: Basic"),
            "{asked}"
        );
        let wrong = scene.get("/", "Authorization: Basic YW5uOndyb25n\r\n").await;
        assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
        let right = scene.get("/", "Authorization: Basic YW5uOnNlc2FtZQ==\r\n").await;
        assert!(right.starts_with("HTTP/1.1 200"), "{right}");
        assert!(!right.contains("authorization"), "{right}");
        assert_eq!(scene.upstream.opened.borrow().len(), 1);
    });
}

#[test]
fn targets_take_turns() {
    local(async {
        let scene = Scene::new(2);
        for (id, name) in [(1, "one"), (2, "two")] {
            scene.online(id, serve_target(move |_| async move { ok(name) }).await);
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(scene.get("/", "").await.ends_with("one"));
        }
        assert_eq!(seen.iter().filter(|one| **one).count(), 2);
        assert_ne!(seen[0], seen[1]);
    });
}

#[test]
fn a_new_plan_takes_effect_and_drops_no_connection() {
    local(async {
        let scene = Scene::answering(echo).await;
        let mut visitor = scene.visit(Protocol::Http1).await;
        let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n\r\n");
        visitor.write_all(ask.as_bytes()).await.unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 200"));
        scene.serving.apply(&plan(2, [Scene::service(Policy::deny(), 1)]));
        let mut rest = vec![0; 65536];
        let _ = visitor.read(&mut rest).await.unwrap();
        visitor.write_all(ask.as_bytes()).await.unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 403"));
    });
}

/// An agent that drains waits for nobody who asks for nothing.
#[test]
fn a_kept_connection_is_closed_when_its_agent_drains() {
    local(async {
        let scene = Scene::new(1);
        let notes = Notes::default();
        let noted = notes.clone();
        scene.online(
            1,
            script(move |mut stream, _| {
                let notes = noted.clone();
                async move {
                    while !read_head(&mut stream).await.is_empty() {
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .await
                            .unwrap();
                    }
                    notes.note("closed");
                }
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        let request = b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n";
        for _ in 0..2 {
            visitor.write_all(request).await.unwrap();
            read_head(&mut visitor).await;
            visitor.read_exact(&mut [0; 2]).await.unwrap();
        }
        assert_eq!((scene.upstream.opened.borrow().len(), notes.all().len()), (1, 0));
        scene.serving.draining.set(AgentId::from_bytes([1; 16]), true);
        until(|| notes.all() == ["closed"]).await;
        visitor.write_all(request).await.unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 503"));
        scene.serving.draining.set(AgentId::from_bytes([1; 16]), false);
        assert!(scene.get("/", "").await.starts_with("HTTP/1.1 200"));
    });
}
