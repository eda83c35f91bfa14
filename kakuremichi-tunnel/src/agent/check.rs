//! One health check of one target.

#![expect(clippy::disallowed_methods, reason = "a check waits for sockets and for time")]

use std::{io, path::Path, time::Duration};

use kakuremichi_core::{
    model::{Health, HealthCheck, TargetAddress},
    net::Endpoint,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
    time,
};

use crate::link::dial::{self, DialError};

/// The longest status line, in bytes; what is longer is no HTTP.
const MAX_STATUS_LINE: usize = 1024;

/// Why a target does not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// No connection can be made.
    #[error("cannot connect: {0}")]
    Connect(#[from] DialError),
    /// The check's time was up.
    #[error("no answer within the check's time")]
    TimedOut,
    /// The connection broke before an answer came.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// What came back is not HTTP.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// The answer is not a good one.
    #[error("the answer has status {0}")]
    Status(u16),
    /// Nobody in this process serves it.
    #[error("no listener in this process serves it")]
    NoListener,
}

/// Checks a target outside this process.
///
/// A target that speaks TLS is only connected to, whatever its check says: its certificate is the
/// gateway's to verify, since the gateway alone has the names and roots for it, and an answer from a
/// peer that nobody verified would tell nothing that the connection does not. What is wrong with the
/// TLS of a target shows at the gateway, as `KKM-G009`.
pub(super) async fn check(address: &TargetAddress, tls: bool, check: &HealthCheck) -> Result<(), CheckError> {
    let checking = async {
        match address {
            TargetAddress::Tcp(endpoint) => {
                let stream = dial::connect(endpoint, check.timeout, |_| true).await?;
                talk(stream, tls, &check.check, &host_header(endpoint)).await
            }
            TargetAddress::Unix(path) => {
                let stream = connect_unix(path, check.timeout).await?;
                talk(stream, tls, &check.check, "localhost").await
            }
            TargetAddress::InProcess => Err(CheckError::NoListener),
        }
    };
    time::timeout(check.timeout, checking)
        .await
        .unwrap_or(Err(CheckError::TimedOut))
}

/// Connects to a Unix socket within `limit`.
pub(super) async fn connect_unix(path: &Path, limit: Duration) -> Result<UnixStream, DialError> {
    match time::timeout(limit, UnixStream::connect(path)).await {
        Err(_) => Err(DialError::TimedOut),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(error.into()),
    }
}

fn host_header(endpoint: &Endpoint) -> String {
    let text = endpoint.to_string();
    match text.strip_suffix(":80") {
        Some(host) => host.to_owned(),
        None => text,
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    tls: bool,
    health: &Health,
    own_host: &str,
) -> Result<(), CheckError> {
    let Health::Http { path, host } = health else {
        return Ok(());
    };
    if tls {
        return Ok(());
    }
    let host = host.as_ref().map_or(own_host, |host| host.as_str());
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kakuremichi-agent\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(CheckError::Broken)?;
    let mut head = Vec::with_capacity(MAX_STATUS_LINE);
    loop {
        if let Some(status) = status(&head)? {
            return if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(CheckError::Status(status))
            };
        }
        let room = (MAX_STATUS_LINE - head.len()) as u64;
        let read = (&mut stream)
            .take(room)
            .read_buf(&mut head)
            .await
            .map_err(CheckError::Broken)?;
        if read == 0 {
            return Err(if head.is_empty() {
                CheckError::Broken(io::ErrorKind::UnexpectedEof.into())
            } else {
                CheckError::NotHttp
            });
        }
    }
}

/// The status in a status line (RFC 9112, section 4); `None` while it is not there yet.
fn status(head: &[u8]) -> Result<Option<u16>, CheckError> {
    const START: &[u8] = b"HTTP/1.";
    let seen = head.len().min(START.len());
    if head[..seen] != START[..seen] {
        return Err(CheckError::NotHttp);
    }
    // `HTTP/1.1 200` and one byte that ends the number.
    let Some(line) = head.get(..13) else {
        return Ok(None);
    };
    let digits = &line[9..12];
    let ends = matches!(line[12], b' ' | b'\r' | b'\n');
    if !line[7].is_ascii_digit() || line[8] != b' ' || !ends || !digits.iter().all(u8::is_ascii_digit) {
        return Err(CheckError::NotHttp);
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::{TcpListener, UnixListener};

    fn http(path: &str) -> HealthCheck {
        HealthCheck {
            check: Health::Http {
                path: path.to_owned(),
                host: Some("app.example".parse().unwrap()),
            },
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            unhealthy_after: 1,
            healthy_after: 1,
        }
    }

    /// Checks a server that answers with `answer`; returns the outcome and what it was asked.
    async fn against(answer: &'static [u8], tls: bool) -> (Result<(), CheckError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => asked.extend_from_slice(&buffer[..read]),
                }
            }
            let _ = stream.write_all(answer).await;
            String::from_utf8(asked).unwrap()
        };
        let target = TargetAddress::Tcp(address.parse().unwrap());
        let health = http("/healthz?x=1");
        tokio::join!(check(&target, tls, &health), server)
    }

    #[tokio::test]
    async fn an_http_check_wants_a_good_status() {
        let (outcome, asked) = against(b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
        outcome.unwrap();
        assert!(
            asked.starts_with("GET /healthz?x=1 HTTP/1.1\r\nHost: app.example\r\n"),
            "{asked}"
        );
        let (outcome, _) = against(b"HTTP/1.0 302 Found\r\n\r\n", false).await;
        outcome.unwrap();
        let (outcome, _) = against(b"HTTP/1.1 503 Busy\r\n\r\n", false).await;
        assert!(matches!(outcome, Err(CheckError::Status(503))));
        let (outcome, _) = against(b"SSH-2.0-OpenSSH_9.2\r\n", false).await;
        assert!(matches!(outcome, Err(CheckError::NotHttp)));
        let (outcome, _) = against(b"", false).await;
        assert!(matches!(outcome, Err(CheckError::Broken(_))));
    }

    #[tokio::test]
    async fn a_tls_target_is_only_connected_to() {
        let (outcome, asked) = against(b"", true).await;
        outcome.unwrap();
        assert_eq!(asked, "");
    }

    #[tokio::test]
    async fn unix_sockets_and_refusals() {
        let temp = tempfile::TempDir::new().unwrap();
        let path = temp.path().join("app.sock");
        let tcp = HealthCheck {
            check: Health::Tcp,
            ..http("/")
        };
        let target = TargetAddress::Unix(path.clone());
        assert!(matches!(
            check(&target, false, &tcp).await,
            Err(CheckError::Connect(DialError::Unreachable(_)))
        ));
        let listener = UnixListener::bind(&path).unwrap();
        check(&target, false, &tcp).await.unwrap();
        drop(listener);
        assert!(matches!(
            check(&target, false, &tcp).await,
            Err(CheckError::Connect(DialError::Refused))
        ));
    }

    #[tokio::test]
    async fn silence_fails_when_the_time_is_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = TargetAddress::Tcp(listener.local_addr().unwrap().to_string().parse().unwrap());
        let silent = async {
            let _kept = listener.accept().await.unwrap();
            std::future::pending::<()>().await
        };
        let short = HealthCheck {
            timeout: Duration::from_millis(100),
            ..http("/")
        };
        tokio::select! {
            outcome = check(&target, false, &short) => {
                assert!(matches!(outcome, Err(CheckError::TimedOut)), "{outcome:?}");
            }
            () = silent => {}
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_status(head in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(Some(status)) = status(&head) {
                prop_assert!(head.starts_with(b"HTTP/1.") && status < 1000);
            }
        }
    }
}
