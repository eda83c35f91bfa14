//! A client for small HTTP requests on loopback: a connection each, no TLS.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::machine::Trouble;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on loopback, and the credential for it.
#[derive(Debug, Clone)]
pub struct Rest {
    port: u16,
    bearer: Option<String>,
}

impl Rest {
    /// A server that wants no credential.
    #[must_use]
    pub const fn open(port: u16) -> Self {
        Self { port, bearer: None }
    }

    /// A server that wants a bearer token.
    #[must_use]
    pub const fn with_key(port: u16, key: String) -> Self {
        Self {
            port,
            bearer: Some(key),
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Reads a text; `None` when there is no answer of 200.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let (status, text) = self.exchange("GET", path, "").ok()?;
        (status == 200).then_some(text)
    }

    /// Whether a path is answered with 200 now.
    #[must_use]
    pub fn is_ok(&self, path: &str) -> bool {
        self.exchange("GET", path, "")
            .is_ok_and(|(status, _)| status == 200)
    }

    /// Reads a resource.
    ///
    /// # Errors
    ///
    /// [`Trouble::Refused`] for any status but 2xx, [`Trouble::Io`], [`Trouble::Unreadable`].
    pub fn get(&self, path: &str) -> Result<Value, Trouble> {
        self.call("GET", path, "")
    }

    /// Makes a resource.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        self.call("POST", path, &body.to_string())
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Result<Value, Trouble> {
        let request = format!("{method} {path}");
        let (status, body) = self.exchange(method, path, body)?;
        if !(200..300).contains(&status) {
            return Err(Trouble::Refused {
                request,
                status,
                body,
            });
        }
        serde_json::from_str(&body).map_err(|_| Trouble::Unreadable {
            program: request,
            said: body,
        })
    }

    /// The status and the body of an answer. The server ends the connection, and so the body.
    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<(u16, String), Trouble> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let bearer = self.bearer.as_ref();
        let authorization = bearer.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Connection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        let exchange = || {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = exchange().map_err(Trouble::io(format!("{method} http://{address}{path}")))?;
        let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
            let status = head.split_whitespace().nth(1)?.parse().ok()?;
            Some((status, body.to_owned()))
        });
        parsed.ok_or_else(|| Trouble::Unreadable {
            program: format!("{method} {path}"),
            said: answer,
        })
    }
}
