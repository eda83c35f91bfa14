//! Control inside somebody else's axum application, below a path of its own.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example mount_control -- DIR
//! ```
//!
//! It prints an API key and the command to make an enrolment token with it. Nodes use
//! `http://127.0.0.1:7080/km` as Control's URL; in earnest that would be `https`.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use axum::{Router, routing::get};
use kakuremichi_control::{Control, identity_key, service::ApiKeyDraft, store::SqlStore};
use kakuremichi_core::{model::Permissions, secret::Secret, store::Store};
use kakuremichi_examples::{Error, interrupted};
use tokio::net::TcpListener;

/// The path below which Control is mounted.
const MOUNT: &str = "/km";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).ok_or("usage: mount_control DIR")?;
    let listener = TcpListener::bind("127.0.0.1:7080").await?;
    run(listener, Path::new(&dir), interrupted()).await
}

/// Serves the application, with what Control keeps in `dir`, until `stop` ends.
async fn run(
    listener: TcpListener,
    dir: &Path,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let address = listener.local_addr()?;
    let store = SqlStore::open(dir.join("control.db")).await?;
    let identity = kept_identity(&dir.join("identity.pk8"))?;
    let (control, app) = mount(store, &identity, &format!("http://{address}{MOUNT}"))?;

    let key = api_key(&control).await?;
    let url = control.public_url();
    println!(
        "curl {url}/api/v1/tokens -H 'Authorization: Bearer {}' \\",
        key.expose()
    );
    println!("     --json '{{\"name\": \"home\", \"role\": \"agent\"}}'");

    // With the address of each client, Control bounds what one of them can cause.
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let ended = async move {
        stop.await;
        let cut = control.shutdown(Duration::from_secs(5)).await;
        println!("{cut} connections were cut");
    };
    axum::serve(listener, service)
        .with_graceful_shutdown(ended)
        .await?;
    Ok(())
}

/// The identity in the file at `path`, made at the first start: a Control with another one is another
/// Control, to which no node comes back.
fn kept_identity(path: &Path) -> Result<Secret<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(key) => Ok(Secret::new(key)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = identity_key()?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(key.expose())?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

/// An application with a page of its own, and Control at [`MOUNT`].
fn mount(
    store: impl Store,
    identity: &Secret<Vec<u8>>,
    public_url: &str,
) -> Result<(Control, Router), kakuremichi_control::BuildError> {
    let control = Control::builder(store)
        .public_url(public_url)
        .identity(identity.expose())
        .build()?;
    let app = Router::new()
        .route("/", get(async || "an application of its own\n"))
        .nest(MOUNT, control.router());
    Ok((control, app))
}

/// A key for the REST API, made without it.
async fn api_key(control: &Control) -> Result<Secret<String>, Error> {
    let us = control.use_cases().control().await?;
    let draft = ApiKeyDraft {
        name: "example".parse()?,
        permissions: Permissions::EVERYTHING,
        expires: None,
    };
    Ok(control.use_cases().create_api_key(&us, draft).await?.text)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{Request, StatusCode},
    };
    use kakuremichi_core::store::MemoryStore;
    use kakuremichi_proto::identity::TokenText;
    use kakuremichi_tests::wait;
    use tokio::sync::oneshot;
    use tower::ServiceExt as _;

    use super::*;

    async fn send(app: &Router, request: Request<Body>) -> (StatusCode, String) {
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_application_and_control_stand_side_by_side() {
        let identity = identity_key().unwrap();
        let (control, app) = mount(MemoryStore::new(), &identity, "https://example.net/km").unwrap();
        let (status, page) = send(&app, Request::get("/").body(Body::empty()).unwrap()).await;
        assert_eq!(
            (status, page.as_str()),
            (StatusCode::OK, "an application of its own\n")
        );
        let (status, _) = send(&app, Request::get("/km/api/v1/me").body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);

        let key = api_key(&control).await.unwrap();
        let request = Request::post("/km/api/v1/tokens")
            .header("authorization", format!("Bearer {}", key.expose()))
            .header("content-type", "application/json")
            .body(Body::from(r#"{"name": "home", "role": "agent"}"#));
        let (status, body) = send(&app, request.unwrap()).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let token = body
            .split('"')
            .find(|text| text.starts_with("kkm_enroll_"))
            .unwrap();
        let token: TokenText = token.parse().unwrap();
        assert_eq!(token.control(), control.identity());
        assert_eq!(control.shutdown(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_the_same_control_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut identities = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            let path = dir.path().to_owned();
            let example =
                tokio::spawn(async move { run(listener, &path, async { drop(stopped.await) }).await });
            let key = dir.path().join("identity.pk8");
            identities.push(wait::until("the identity", || {
                fs::read(&key).ok().filter(|key| !key.is_empty())
            }));
            drop(stop);
            example.await.unwrap().unwrap();
        }
        assert_eq!(identities[0], identities[1]);
    }
}
