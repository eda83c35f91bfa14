//! Control inside somebody else's axum application, below a path of its own.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example mount_control
//! ```
//!
//! It prints an API key and the command to make an enrolment token with it. Nodes use
//! `http://127.0.0.1:7080/km` as Control's URL; in earnest that would be `https`, and the store a file.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use kakuremichi_control::{Control, identity_key, service::ApiKeyDraft};
use kakuremichi_core::{
    secret::Secret,
    store::{MemoryStore, Store},
};
use tokio::net::TcpListener;

/// The path below which Control is mounted.
const MOUNT: &str = "/km";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:7080").await?;
    let address = listener.local_addr()?;
    // Made once and kept: a Control with another identity is another Control.
    let identity = identity_key()?;
    let (control, app) = mount(MemoryStore::new(), &identity, &format!("http://{address}{MOUNT}"))?;

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
        // Without a handler for the signal it ends the process, which will do too.
        let _ = tokio::signal::ctrl_c().await;
        let cut = control.shutdown(Duration::from_secs(5)).await;
        println!("{cut} connections were cut");
    };
    axum::serve(listener, service)
        .with_graceful_shutdown(ended)
        .await?;
    Ok(())
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
async fn api_key(control: &Control) -> Result<Secret<String>, Box<dyn std::error::Error>> {
    let us = control.use_cases().control().await?;
    let draft = ApiKeyDraft {
        name: "example".parse()?,
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
    use kakuremichi_proto::identity::TokenText;
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
}
