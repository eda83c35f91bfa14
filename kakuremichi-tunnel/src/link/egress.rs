//! Leaving through a proxy: HTTP (`CONNECT`, RFC 9110, section 9.3.6) or SOCKS5 (RFC 1928, RFC 1929).

#![expect(clippy::disallowed_methods, reason = "a proxy has a deadline")]

use std::{fmt, io, str::FromStr, time::Duration};

use data_encoding::BASE64;
use kakuremichi_core::{
    net::{Endpoint, Host, NetError},
    secret::Secret,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::dial::{self, DialError};

/// The longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The longest name and the longest password (RFC 1929), in bytes.
const MAX_LOGIN: usize = 255;

/// A proxy through which a node's TCP connections leave its network.
///
/// `http://proxy.example.net:3128`, or `socks5://` likewise; `user:password@` before the host logs in, with
/// `%40` for an `@` and so on. Names are resolved by the proxy. It is used for the link to Control and for
/// lanes of TLS streams; WireGuard and targets are reached without it.
#[derive(Clone)]
pub struct EgressProxy {
    kind: Kind,
    endpoint: Endpoint,
    login: Option<Login>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

#[derive(Clone)]
struct Login {
    user: String,
    password: Secret<String>,
}

/// Why a text is no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EgressProxyError {
    /// It does not begin with a scheme that is spoken.
    #[error("a proxy's URL begins with http:// or socks5://")]
    Scheme,
    /// There is more than a host and a port.
    #[error("a proxy's URL has a host, a port and perhaps a login, and nothing behind them")]
    Path,
    /// Host or port are unusable.
    #[error("the proxy's address is unusable: {0}")]
    Endpoint(#[from] NetError),
    /// User or password are unusable.
    #[error("user and password of a proxy have at most {MAX_LOGIN} bytes, and no control characters")]
    Login,
}

/// Why a proxy did not lead anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyFailure {
    /// It wants another login, or one at all.
    #[error("the proxy does not accept the login")]
    Login,
    /// An HTTP proxy answered with another status than 2xx.
    #[error("the proxy answered with HTTP status {0}")]
    Status(u16),
    /// A SOCKS proxy answered with an error (RFC 1928, section 6).
    #[error("the proxy answered with SOCKS error {0}")]
    Socks(u8),
    /// What answers is no such proxy.
    #[error("what answers is no proxy of this kind")]
    Protocol,
}

impl FromStr for EgressProxy {
    type Err = EgressProxyError;

    fn from_str(text: &str) -> Result<Self, EgressProxyError> {
        let (kind, port, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (Kind::Http, 80, rest)
        } else if let Some(rest) = text.strip_prefix("socks5://") {
            (Kind::Socks5, 1080, rest)
        } else {
            return Err(EgressProxyError::Scheme);
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(Login::parse(login)?), address),
            None => (None, rest),
        };
        if address.contains(['/', '?', '#']) {
            return Err(EgressProxyError::Path);
        }
        Ok(Self {
            kind,
            endpoint: Endpoint::parse_with_port(address, port)?,
            login,
        })
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, EgressProxyError> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let part = |text: &str| {
            let decoded = percent_decoded(text).ok_or(EgressProxyError::Login)?;
            let usable = decoded.len() <= MAX_LOGIN && !decoded.contains(char::is_control);
            usable.then_some(decoded).ok_or(EgressProxyError::Login)
        };
        let (user, password) = (part(user)?, part(password)?);
        if user.is_empty() || user.contains(':') {
            return Err(EgressProxyError::Login);
        }
        Ok(Self {
            user,
            password: Secret::new(password),
        })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

impl EgressProxy {
    /// Where the proxy is.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects to `to` through the proxy, within `limit`.
    ///
    /// # Errors
    /// When the proxy cannot be reached, or does not lead there.
    pub(crate) async fn connect(&self, to: &Endpoint, limit: Duration) -> Result<TcpStream, DialError> {
        let through = async {
            let mut stream = dial::connect(&self.endpoint, limit, |_| true).await?;
            match self.kind {
                Kind::Http => self.http(&mut stream, to).await?,
                Kind::Socks5 => self.socks5(&mut stream, to).await?,
            }
            Ok(stream)
        };
        timeout(limit, through).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn http(&self, stream: &mut TcpStream, to: &Endpoint) -> Result<(), DialError> {
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if let Some(login) = &self.login {
            let pair = format!("{}:{}", login.user, login.password.expose());
            let encoded = BASE64.encode(pair.as_bytes());
            request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_HEAD {
                return Err(ProxyFailure::Protocol.into());
            }
            // What follows the head is no longer the proxy's: not a byte of it may be taken.
            head.push(stream.read_u8().await.map_err(broken)?);
        }
        match status(&head) {
            Some(200..=299) => Ok(()),
            Some(407) => Err(ProxyFailure::Login.into()),
            Some(other) => Err(ProxyFailure::Status(other).into()),
            None => Err(ProxyFailure::Protocol.into()),
        }
    }

    async fn socks5(&self, stream: &mut TcpStream, to: &Endpoint) -> Result<(), DialError> {
        const NO_LOGIN: u8 = 0;
        const LOGIN: u8 = 2;
        let greeting: &[u8] = match self.login {
            None => &[5, 1, NO_LOGIN],
            Some(_) => &[5, 2, NO_LOGIN, LOGIN],
        };
        stream.write_all(greeting).await.map_err(broken)?;
        match (read::<2>(stream).await?, &self.login) {
            ([5, NO_LOGIN], _) => {}
            ([5, LOGIN], Some(login)) => {
                let (user, password) = (login.user.as_bytes(), login.password.expose().as_bytes());
                // Both were found short enough when they were read.
                let lengths = (user.len() as u8, password.len() as u8);
                let message = [&[1, lengths.0], user, &[lengths.1], password].concat();
                stream.write_all(&message).await.map_err(broken)?;
                if !matches!(read::<2>(stream).await?, [_, 0]) {
                    return Err(ProxyFailure::Login.into());
                }
            }
            ([5, _], _) => return Err(ProxyFailure::Login.into()),
            _ => return Err(ProxyFailure::Protocol.into()),
        }
        let mut request = vec![5, 1, 0];
        match &to.host {
            Host::Address(std::net::IpAddr::V4(address)) => {
                request.push(1);
                request.extend(address.octets());
            }
            Host::Address(std::net::IpAddr::V6(address)) => {
                request.push(4);
                request.extend(address.octets());
            }
            Host::Name(name) => {
                // A host name has at most 253 bytes.
                request.extend([3, name.as_str().len() as u8]);
                request.extend(name.as_str().as_bytes());
            }
        }
        request.extend(to.port.to_be_bytes());
        stream.write_all(&request).await.map_err(broken)?;
        let [version, reply, _, kind] = read::<4>(stream).await?;
        if version != 5 {
            return Err(ProxyFailure::Protocol.into());
        }
        if reply != 0 {
            return Err(ProxyFailure::Socks(reply).into());
        }
        let length = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(read::<1>(stream).await?[0]),
            _ => return Err(ProxyFailure::Protocol.into()),
        };
        let mut bound = vec![0; length + 2];
        stream.read_exact(&mut bound).await.map(drop).map_err(broken)
    }
}

async fn read<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N], DialError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(broken)?;
    Ok(bytes)
}

/// A proxy that hangs up does not speak what we do.
fn broken(error: io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ProxyFailure::Protocol.into(),
        _ => error.into(),
    }
}

/// The status of an answer's head (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|status| status.len() == 3)?.parse().ok()
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressProxy")
            .field("kind", &self.kind)
            .field("endpoint", &self.endpoint)
            .field("login", &self.login.as_ref().map(|login| &login.user))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_proxy_is_a_scheme_an_address_and_perhaps_a_login() {
        let proxy: EgressProxy = "http://ann:p%40ss%3A@proxy.example.net:3128/".parse().unwrap();
        assert_eq!(proxy.endpoint().to_string(), "proxy.example.net:3128");
        let login = proxy.login.as_ref().unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.expose().as_str()),
            ("ann", "p@ss:")
        );
        let printed = format!("{proxy:?}");
        assert!(printed.contains("ann") && !printed.contains("p@ss"));
        let proxy: EgressProxy = "socks5://[::1]".parse().unwrap();
        assert_eq!(proxy.endpoint().to_string(), "[::1]:1080");
        let refused = |text: &str| text.parse::<EgressProxy>().unwrap_err();
        assert_eq!(refused("https://proxy:1"), EgressProxyError::Scheme);
        assert_eq!(refused("proxy:3128"), EgressProxyError::Scheme);
        assert_eq!(refused("http://proxy:1/path"), EgressProxyError::Path);
        assert_eq!(refused("http://a%zz@proxy:1"), EgressProxyError::Login);
        assert_eq!(refused("http://:x@proxy:1"), EgressProxyError::Login);
        assert_eq!(refused("http://a%0d%0a@proxy:1"), EgressProxyError::Login);
        assert!(matches!(refused("http://"), EgressProxyError::Endpoint(_)));
    }

    /// Plays a proxy that expects and says these, in turn, and then a byte of the far end's.
    async fn through(scheme: &str, talk: Vec<(Vec<u8>, Vec<u8>)>, to: &str) -> Result<u8, DialError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let play = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (heard, said) in talk {
                let mut asked = vec![0; heard.len()];
                stream.read_exact(&mut asked).await.unwrap();
                assert_eq!(asked, heard);
                stream.write_all(&said).await.unwrap();
            }
            let _ = stream.write_all(b"!").await;
        };
        let (scheme, login) = scheme.split_once("://").unwrap();
        let proxy: EgressProxy = format!("{scheme}://{login}{address}").parse().unwrap();
        let (to, connect) = (to.parse().unwrap(), async |to| {
            let mut stream = proxy.connect(&to, LIMIT).await?;
            Ok(stream.read_u8().await?)
        });
        tokio::join!(connect(to), play).0
    }

    #[tokio::test]
    async fn http_connect_leads_to_the_far_end() {
        let asked = b"CONNECT gw.example.net:443 HTTP/1.1\r\nHost: gw.example.net:443\r\n\
            Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n\r\n";
        let answer = |answer: &str| vec![(asked.to_vec(), answer.as_bytes().to_vec())];
        let (scheme, to) = ("http://ann:secret@", "gw.example.net:443");
        let good = through(
            scheme,
            answer("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"),
            to,
        );
        assert_eq!(good.await.unwrap(), b'!');
        let login = through(scheme, answer("HTTP/1.1 407 No\r\n\r\n"), to).await;
        assert!(matches!(login, Err(DialError::Proxy(ProxyFailure::Login))));
        let denied = through(scheme, answer("HTTP/1.0 403 No\r\n\r\n"), to).await;
        assert!(matches!(denied, Err(DialError::Proxy(ProxyFailure::Status(403)))));
        let other = through(scheme, answer("SSH-2.0-OpenSSH\r\n\r\n"), to).await;
        assert!(matches!(other, Err(DialError::Proxy(ProxyFailure::Protocol))));
    }

    #[tokio::test]
    async fn socks5_leads_to_the_far_end() {
        let name = [&[5, 1, 0, 3, 14][..], b"gw.example.net", &[1, 187]].concat();
        let done = vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let greeting = (vec![5, 1, 0], vec![5, 0]);
        let to = "gw.example.net:443";
        let talk = vec![greeting.clone(), (name.clone(), done.clone())];
        assert_eq!(through("socks5://", talk, to).await.unwrap(), b'!');

        let login = [&[1, 3][..], b"ann", &[6], b"secret"].concat();
        let talk = vec![
            (vec![5, 2, 0, 2], vec![5, 2]),
            (login.clone(), vec![1, 0]),
            (name, done.clone()),
        ];
        assert_eq!(through("socks5://ann:secret@", talk, to).await.unwrap(), b'!');
        let talk = vec![(vec![5, 2, 0, 2], vec![5, 2]), (login, vec![1, 1])];
        let wrong = through("socks5://ann:secret@", talk, to).await;
        assert!(matches!(wrong, Err(DialError::Proxy(ProxyFailure::Login))));

        let v6 = [
            &[5, 1, 0, 4][..],
            &"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets(),
            &[1, 187],
        ];
        let talk = vec![greeting, (v6.concat(), vec![5, 5, 0, 1])];
        let refused = through("socks5://", talk, "[2001:db8::1]:443").await;
        assert!(matches!(refused, Err(DialError::Proxy(ProxyFailure::Socks(5)))));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let asked = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_vec();
        let talk = vec![(asked, vec![b'x'; MAX_HEAD + 1])];
        let endless = through("http://", talk, "a:1").await;
        assert!(matches!(endless, Err(DialError::Proxy(ProxyFailure::Protocol))));
    }
}
