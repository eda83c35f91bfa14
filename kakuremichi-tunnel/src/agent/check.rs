//! One health check of one target.

#![expect(clippy::disallowed_methods, reason = "a check waits for sockets and for time")]

mod tls;

pub(super) use tls::CheckTls;

use std::{io, path::Path, time::Duration};

use kakuremichi_core::{
    model::{Health, HealthCheck, TargetAddress},
    name::Hostname,
    net::{Endpoint, Host},
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
    /// The target does not speak TLS, or not so that we understand each other.
    #[error("TLS cannot be spoken with it")]
    Tls(#[source] io::Error),
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
/// A target that speaks TLS is asked inside `tls`. Its certificate is not verified here: it is the
/// gateway's to verify, which alone has the names and roots for it. What is wrong with it shows there, as
/// `KKM-G009`.
pub(super) async fn check(
    address: &TargetAddress,
    tls: Option<&CheckTls>,
    check: &HealthCheck,
) -> Result<(), CheckError> {
    let checking = async {
        match address {
            TargetAddress::Tcp(endpoint) => {
                let stream = dial::connect(endpoint, check.timeout, |_| true).await?;
                let name = match &endpoint.host {
                    Host::Name(name) => name.to_string(),
                    Host::Address(address) => address.to_string(),
                };
                ask(
                    stream,
                    tls,
                    &check.check,
                    &host_header(endpoint, tls.is_some()),
                    &name,
                )
                .await
            }
            TargetAddress::Unix(path) => {
                let stream = connect_unix(path, check.timeout).await?;
                ask(stream, tls, &check.check, "localhost", "localhost").await
            }
            TargetAddress::InProcess => Err(CheckError::NoListener),
            // What takes datagrams is not asked; Control admits no check of it.
            TargetAddress::Udp(_) => Ok(()),
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

fn host_header(endpoint: &Endpoint, tls: bool) -> String {
    let text = endpoint.to_string();
    match text.strip_suffix(if tls { ":443" } else { ":80" }) {
        Some(host) => host.to_owned(),
        None => text,
    }
}

/// Does with a connection what the check says.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    tls: Option<&CheckTls>,
    health: &Health,
    own_host: &str,
    own_name: &str,
) -> Result<(), CheckError> {
    let Health::Http { path, host } = health else {
        return Ok(());
    };
    let Some(tls) = tls else {
        return talk(stream, path, host.as_ref(), own_host).await;
    };
    let name = host.as_ref().map_or(own_name, |host| host.as_str());
    let stream = tls.wrap(stream, name).await.map_err(CheckError::Tls)?;
    talk(stream, path, host.as_ref(), own_host).await
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: Option<&Hostname>,
    own_host: &str,
) -> Result<(), CheckError> {
    let host = host.map_or(own_host, |host| host.as_str());
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
    use std::sync::Arc;

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

    fn tls() -> CheckTls {
        CheckTls::new(&Arc::new(rustls::crypto::ring::default_provider()))
    }

    /// Checks a server that answers with `answer`; returns the outcome and what it was asked.
    async fn against(answer: &'static [u8], tls: Option<&CheckTls>) -> (Result<(), CheckError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") && asked.first() != Some(&0x16) {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => asked.extend_from_slice(&buffer[..read]),
                }
            }
            let _ = stream.write_all(answer).await;
            String::from_utf8_lossy(&asked).into_owned()
        };
        let target = TargetAddress::Tcp(address.parse().unwrap());
        let health = http("/healthz?x=1");
        tokio::join!(check(&target, tls, &health), server)
    }

    #[tokio::test]
    async fn an_http_check_wants_a_good_status() {
        let (outcome, asked) = against(b"HTTP/1.1 204 No Content\r\n\r\n", None).await;
        outcome.unwrap();
        assert!(
            asked.starts_with("GET /healthz?x=1 HTTP/1.1\r\nHost: app.example\r\n"),
            "{asked}"
        );
        let (outcome, _) = against(b"HTTP/1.0 302 Found\r\n\r\n", None).await;
        outcome.unwrap();
        let (outcome, _) = against(b"HTTP/1.1 503 Busy\r\n\r\n", None).await;
        assert!(matches!(outcome, Err(CheckError::Status(503))));
        let (outcome, _) = against(b"SSH-2.0-OpenSSH_9.2\r\n", None).await;
        assert!(matches!(outcome, Err(CheckError::NotHttp)));
        let (outcome, _) = against(b"", None).await;
        assert!(matches!(outcome, Err(CheckError::Broken(_))));
    }

    /// Checks a server that speaks TLS, with a certificate that nobody vouches for.
    async fn against_tls(answer: &'static [u8]) -> Result<(), CheckError> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        let leaf = params.self_signed(&key).unwrap().der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut asked = [0; 1024];
            let read = stream.read(&mut asked).await.unwrap();
            assert!(asked[..read].starts_with(b"GET /healthz HTTP/1.1\r\nHost: app.example\r\n"));
            stream.write_all(answer).await.unwrap();
        };
        let target = TargetAddress::Tcp(address.parse().unwrap());
        let (health, tls) = (http("/healthz"), tls());
        tokio::join!(check(&target, Some(&tls), &health), server).0
    }

    /// An https target that answers with an error is no healthy one.
    #[tokio::test]
    async fn a_tls_target_is_asked_inside_tls() {
        against_tls(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let outcome = against_tls(b"HTTP/1.1 500 Broken\r\n\r\n").await;
        assert!(matches!(outcome, Err(CheckError::Status(500))), "{outcome:?}");
        let (outcome, _) = against(b"HTTP/1.1 200 OK\r\n\r\n", Some(&tls())).await;
        assert!(matches!(outcome, Err(CheckError::Tls(_))), "{outcome:?}");
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
            check(&target, None, &tcp).await,
            Err(CheckError::Connect(DialError::Unreachable(_)))
        ));
        let listener = UnixListener::bind(&path).unwrap();
        check(&target, None, &tcp).await.unwrap();
        drop(listener);
        assert!(matches!(
            check(&target, None, &tcp).await,
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
            outcome = check(&target, None, &short) => {
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
