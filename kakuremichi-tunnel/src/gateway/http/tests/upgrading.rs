//! WebSockets.

use super::*;
use crate::gateway::testing::local;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A target that agrees, with `first` right behind, and sends back what it gets.
async fn agreeing(first: &'static [u8], notes: Notes) -> SocketAddr {
    script(move |mut stream, _| {
        let notes = notes.clone();
        async move {
            notes.note(read_head(&mut stream).await);
            stream.write_all(AGREE.as_bytes()).await.unwrap();
            stream.write_all(first).await.unwrap();
            let (mut reading, mut writing) = stream.split();
            let _ = tokio::io::copy(&mut reading, &mut writing).await;
            let _ = writing.shutdown().await;
        }
    })
    .await
}

#[test]
fn bytes_flow_both_ways_once_the_target_agreed() {
    local(async {
        let (scene, notes) = (Scene::new(1), Notes::default());
        scene.online(1, agreeing(&[0x81, 1, b'!'], notes.clone()).await);
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor.write_all(ASK.as_bytes()).await.unwrap();
        let head = read_head(&mut visitor).await;
        assert!(
            head.starts_with("HTTP/1.1 101") && head.contains("sec-websocket-accept"),
            "{head}"
        );
        let asked = &notes.all()[0];
        assert!(
            asked.contains("connection: upgrade") && asked.contains("sec-websocket-key"),
            "{asked}"
        );
        assert!(asked.contains("x-forwarded-for: 127.0.0.1"), "{asked}");
        let mut first = [0; 3];
        visitor.read_exact(&mut first).await.unwrap();
        assert_eq!(first, [0x81, 1, b'!']);
        // Bytes that no request could hold: the guard is gone.
        let mut message = vec![0x82, 0xfe, 0x20, 0x00, 0, 0, 0, 0];
        message.extend((0..0x2000).map(|number: usize| u8::try_from(number % 256).unwrap()));
        visitor.write_all(&message).await.unwrap();
        let mut back = vec![0; message.len()];
        visitor.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message);
        visitor.shutdown().await.unwrap();
        let mut rest = Vec::new();
        visitor.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        until(|| scene.serving.flows.len() == 0).await;
        let counted = scene.serving.counters.snapshot();
        assert_eq!((counted.websockets, counted.bytes_in), (1, message.len() as u64));
    });
}

/// LESSONS, advisory 6: after `Upgrade` bytes flow only once 101 came back.
#[test]
fn what_is_sent_before_the_target_agreed_does_not_reach_it() {
    local(async {
        let (scene, notes) = (Scene::new(1), Notes::default());
        let noted = notes.clone();
        scene.online(
            1,
            script(move |mut stream, _| {
                let notes = noted.clone();
                async move {
                    read_head(&mut stream).await;
                    // Refuses, and then would take what follows for a request.
                    stream
                        .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                        .await
                        .unwrap();
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    notes.note(String::from_utf8_lossy(&rest));
                }
            })
            .await,
        );
        let early = "GET /admin HTTP/1.1\r\nHost: internal\r\n\r\n";
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(format!("{ASK}{early}").as_bytes())
            .await
            .unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 400"));
        // It is a request of its own, and treated as one: the gateway has no such host.
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 404"));
        drop(visitor);
        until(|| !notes.all().is_empty()).await;
        assert_eq!(notes.all(), [""]);
    });
}

#[test]
fn a_target_that_does_not_agree_is_quoted() {
    local(async {
        let scene = Scene::answering(|_| async {
            let mut response = ok("not here");
            *response.status_mut() = http::StatusCode::FORBIDDEN;
            response
        })
        .await;
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor.write_all(ASK.as_bytes()).await.unwrap();
        let head = read_head(&mut visitor).await;
        assert!(
            head.starts_with("HTTP/1.1 403") && !head.contains("upgrade"),
            "{head}"
        );
        scene.online(1, nobody().await);
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor.write_all(ASK.as_bytes()).await.unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 502"));
    });
}

#[test]
fn a_revoked_visitors_websocket_is_told_and_closed() {
    local(async {
        let scene = Scene::new(1);
        scene.online(1, agreeing(&[], Notes::default()).await);
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor.write_all(ASK.as_bytes()).await.unwrap();
        read_head(&mut visitor).await;
        scene.serving.apply(&plan(2, [Scene::service(Policy::deny(), 1)]));
        let mut rest = Vec::new();
        visitor.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest[..4], [0x88, 2, 0x03, 0xf0]);
    });
}

#[test]
fn a_silent_websocket_is_closed() {
    local(async {
        let timeouts = Timeouts {
            idle: Duration::from_millis(100),
            ..Timeouts::default()
        };
        let scene = Scene::with(Policy::public(), 1, timeouts);
        scene.online(1, agreeing(&[], Notes::default()).await);
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor.write_all(ASK.as_bytes()).await.unwrap();
        read_head(&mut visitor).await;
        let mut rest = Vec::new();
        let _ = visitor.read_to_end(&mut rest).await;
        until(|| scene.serving.flows.len() == 0).await;
    });
}
