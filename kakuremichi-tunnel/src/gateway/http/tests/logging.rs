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
