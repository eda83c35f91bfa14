//! One line of the access log for each request.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::*;
use crate::gateway::testing::{argon2id, basic_policy, local};

type Line = BTreeMap<String, String>;

/// Keeps the lines of the access log.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "kakuremichi::access"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Fields(Line);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

#[test]
fn each_request_leaves_one_line_and_no_secret() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    local(async {
        let policy = basic_policy("ann", &argon2id("sesame"));
        let scene = Scene::with(policy, 1, Timeouts::default());
        scene.online(1, serve_target(|_| async { ok("twelve bytes") }).await);
        scene.get("/a?token=hidden", "").await;
        scene
            .get("/a?token=hidden", "Authorization: Basic YW5uOnNlc2FtZQ==\r\n")
            .await;
        scene
            .raw(b"GET http://x/ HTTP/1.1\r\nHost: h.example\r\n\r\n")
            .await;
        until(|| log.0.lock().unwrap().len() == 3).await;
    });
    let lines = log.0.lock().unwrap();
    let field = |line: usize, name: &str| lines[line].get(name).map(String::as_str);
    assert_eq!(
        (field(0, "status"), field(0, "decision")),
        (Some("401"), Some("challenge"))
    );
    assert_eq!((field(0, "code"), field(0, "upstream")), (Some("KKM-G004"), None));
    assert_eq!(
        (field(1, "status"), field(1, "decision")),
        (Some("200"), Some("permit"))
    );
    assert_eq!(
        (field(1, "bytes_out"), field(1, "complete")),
        (Some("12"), Some("true"))
    );
    assert_eq!(
        (field(1, "path"), field(1, "host")),
        (Some("/a"), Some("h.example"))
    );
    assert_eq!(
        (field(1, "service"), field(1, "visitor")),
        (Some("service-1"), Some("127.0.0.1"))
    );
    assert!(field(1, "upstream").is_some_and(|target| target.starts_with("tgt_")));
    assert!(field(1, "route").is_some() && field(1, "milliseconds").is_some());
    assert_eq!(
        (field(2, "status"), field(2, "decision")),
        (Some("400"), Some("none"))
    );
    assert_ne!(field(0, "request"), field(1, "request"));
    let text = format!("{lines:?}");
    assert!(!text.contains("hidden") && !text.contains("sesame") && !text.contains("YW5u"));
}

/// One line for each request, also for those that hyper and the guard answer.
#[test]
fn a_request_that_cannot_be_read_leaves_a_line() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    local(async {
        let scene = Scene::new(1);
        let smuggled =
            b"POST / HTTP/1.1\r\nHost: h.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert!(scene.raw(smuggled).await.starts_with("HTTP/1.1 400"));
        let long = format!(
            "GET / HTTP/1.1\r\nHost: h.example\r\nX: {}\r\n\r\n",
            "x".repeat(70_000)
        );
        assert!(scene.raw(long.as_bytes()).await.starts_with("HTTP/1.1 431"));
        until(|| log.0.lock().unwrap().len() == 2).await;
    });
    let lines = log.0.lock().unwrap();
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_str()).collect();
    assert_eq!(statuses, ["400", "431"]);
    assert!(lines.iter().all(|line| line["visitor"] == "127.0.0.1"));
}

/// A WebSocket whose target breaks off is not complete, and says what it carried.
#[test]
fn a_websocket_that_breaks_off_is_not_complete() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    local(async {
        let scene = Scene::new(1);
        scene.online(
            1,
            script(|mut stream, _| async move {
                read_head(&mut stream).await;
                let head =
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello";
                stream.write_all(head).await.unwrap();
                stream.read_exact(&mut [0; 1]).await.unwrap();
                socket2::SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        let ask = b"GET / HTTP/1.1\r\nHost: h.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        visitor.write_all(ask).await.unwrap();
        read_head(&mut visitor).await;
        visitor.read_exact(&mut [0; 5]).await.unwrap();
        visitor.write_all(b"x").await.unwrap();
        let _ = visitor.read_to_end(&mut Vec::new()).await;
        until(|| log.0.lock().unwrap().len() == 1).await;
    });
    let lines = log.0.lock().unwrap();
    let field = |name: &str| lines[0][name].as_str();
    assert_eq!((field("websocket"), field("status")), ("true", "101"));
    assert_eq!((field("complete"), field("bytes_out")), ("false", "5"));
}
