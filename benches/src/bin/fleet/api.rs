//! A client of Control's REST API: one connection that is kept, as API clients do.

use std::net::Ipv4Addr;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use kakuremichi_benches::machine::Trouble;
use serde_json::Value;

use crate::link::Dialler;

/// A client with a connection of its own.
pub(crate) struct Api {
    dialler: Dialler,
    key: String,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Api {
    pub(crate) const fn new(dialler: Dialler, key: String) -> Self {
        Self {
            dialler,
            key,
            open: None,
        }
    }

    /// Reads a resource.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value, Trouble> {
        self.call("GET", path, None).await
    }

    /// Makes a resource.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, Trouble> {
        self.call("POST", path, Some(body)).await
    }

    /// Deletes a resource.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<(), Trouble> {
        self.call("DELETE", path, None).await.map(drop)
    }

    async fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        let name = format!("{method} {path}");
        let failed = |said: String| Trouble::Failed {
            program: name.clone(),
            said,
        };
        let outcome = self.exchange(method, path, body).await;
        if outcome.is_err() {
            self.open = None;
        }
        let (status, bytes) = outcome.map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !status.is_success() {
            return Err(Trouble::Refused {
                request: name,
                status: status.as_u16(),
                body: text,
            });
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| Trouble::Unreadable {
            program: name,
            said: text,
        })
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), String> {
        if self.open.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = self.dialler.tls(Ipv4Addr::LOCALHOST).await;
            let stream = stream.map_err(|error| error.to_string())?;
            let (sender, connection) = handshake(TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            self.open = Some(sender);
        }
        let Some(sender) = &mut self.open else {
            return Err("there is no connection".to_owned());
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.dialler.url().trim_start_matches("https://"))
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))
            .map_err(|error| error.to_string())?;
        sender.ready().await.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}
