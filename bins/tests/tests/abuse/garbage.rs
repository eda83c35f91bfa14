//! What no honest visitor sends.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::SinkExt as _;
use http::StatusCode;
use kakuremichi_tests::{Pattern, Visitor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// How long an answer to garbage is waited for. Nobody has to answer; it only has to be taken.
const MOMENT: Duration = Duration::from_millis(50);

/// Connections that say nothing.
pub(crate) async fn idle(places: &[SocketAddr], each: usize) -> Vec<std::net::TcpStream> {
    let mut open = Vec::new();
    for &place in places {
        for _ in 0..each {
            let stream = TcpStream::connect(place).await.unwrap();
            open.push(stream.into_std().unwrap());
        }
    }
    open
}

/// One connection for each kind of garbage.
pub(crate) async fn every_kind(place: SocketAddr) {
    for text in kinds() {
        // A connection that is refused or reset is as good as one that is not.
        let Ok(mut stream) = TcpStream::connect(place).await else {
            continue;
        };
        let _ = timeout(Duration::from_secs(5), stream.write_all(&text)).await;
        let mut sink = [0; 1024];
        let _ = timeout(MOMENT, stream.read(&mut sink)).await;
    }
}

fn kinds() -> Vec<Vec<u8>> {
    let random = |seed: u64, length: usize| Pattern::new(seed).bytes(length).to_vec();
    let mut kinds: Vec<Vec<u8>> = (0..20).map(|seed| random(seed, 1 + 97 * seed as usize)).collect();
    kinds.push(Vec::new());
    kinds.push(random(99, 4 * 1024 * 1024));
    kinds.push(vec![0; 100_000]);
    kinds.push(vec![b'A'; 1_000_000]);
    kinds.push(
        [
            b"GET /".to_vec(),
            vec![b'a'; 200_000],
            b" HTTP/1.1\r\n\r\n".to_vec(),
        ]
        .concat(),
    );
    kinds.push([b"GET / HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(20_000)].concat());
    for text in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        "GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT web.test:443 HTTP/1.1\r\nHost: web.test:443\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0\0\0\0\0garbage",
        "\r\n\r\n\r\n\r\n",
        "PROXY TCP4 198.51.100.22 203.0.113.7 35646 80\r\n",
        "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "{\"jsonrpc\":\"2.0\"}\n",
    ] {
        kinds.push(text.as_bytes().to_vec());
    }
    // TLS records: a hello that says to be longer than it is, one that ends early, an alert, application data.
    kinds.push(b"\x16\x03\x01\xff\xff\x01\0\xff\xfb\x03\x03".to_vec());
    kinds.push(
        [
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
            random(5, 300),
        ]
        .concat(),
    );
    kinds.push(
        [
            b"\x16\x03\x01\x40\0\x01\0\x3f\xfc\x03\x03".to_vec(),
            random(6, 16_377),
        ]
        .concat(),
    );
    kinds.push(b"\x15\x03\x01\0\x02\x02\x28".to_vec());
    kinds.push([b"\x17\x03\x03\x40\0".to_vec(), random(7, 16_384)].concat());
    kinds
}

/// Requests over TLS that could be understood in two ways, or in none. LESSONS, advisory 6.
pub(crate) async fn requests(visitor: &Visitor, host: &str, place: SocketAddr) {
    let smuggled = [
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: {}\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : {}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: {}\r\nHost: other.test\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: {}\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ];
    let url = format!("https://{host}:{}/", place.port());
    for text in smuggled {
        let text = text.replace("{}", host);
        let answer = exchange(visitor, &url, text.as_bytes()).await;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.map(|code: u16| StatusCode::from_u16(code).unwrap());
        assert!(
            status.is_none_or(|status| status.is_client_error()),
            "{text:?} was answered with {answer}"
        );
        assert!(
            answer.matches("HTTP/1.1 ").count() <= 1,
            "{text:?} was two requests: {answer}"
        );
    }
    for text in kinds() {
        exchange(visitor, &url, &text).await;
    }
}

/// Sends bytes over TLS and returns the start of what comes back.
async fn exchange(visitor: &Visitor, url: &str, bytes: &[u8]) -> String {
    let Ok(mut stream) = visitor.open(url).await else {
        return String::new();
    };
    let _ = timeout(Duration::from_secs(5), stream.write_all(bytes)).await;
    let mut answer = vec![0; 4096];
    let length = match timeout(MOMENT * 4, stream.read(&mut answer)).await {
        Ok(Ok(length)) => length,
        Ok(Err(_)) | Err(_) => 0,
    };
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// Frames that are none, on the control link.
pub(crate) async fn link(client: &Visitor, control: &str) {
    for seed in 0..20 {
        let stream = client.open(control).await.unwrap();
        let url = format!("{}/api/v1/link", control.replacen("https", "wss", 1));
        let mut request = url.into_client_request().unwrap();
        let protocol = "kakuremichi.v1".parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let length = 1 << seed;
        let bytes = Pattern::new(seed).bytes(length);
        let message = if seed % 5 == 0 {
            Message::text("garbage")
        } else {
            Message::binary(bytes)
        };
        let _ = socket.send(message).await;
        let _ = socket
            .send(Message::binary(Pattern::new(seed + 1).bytes(64)))
            .await;
    }
}

/// Datagrams that are none of WireGuard's, and some that look like it.
pub(crate) async fn datagrams(place: SocketAddr) {
    let any: SocketAddr = if place.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await.unwrap();
    for seed in 0..2000u64 {
        let length = match seed % 4 {
            0 => 148,
            1 => 92,
            2 => 64,
            _ => (seed as usize * 31) % 1400,
        };
        let mut bytes = Pattern::new(seed).bytes(length).to_vec();
        if seed % 2 == 0 && length >= 4 {
            // An initiation, a response, a cookie or data, by its type.
            bytes[..4].copy_from_slice(&[1 + (seed / 2 % 4) as u8, 0, 0, 0]);
        }
        // A full queue is no reason to stop.
        let _ = socket.send_to(&bytes, place).await;
    }
    // The largest datagram there is, and the smallest.
    let _ = socket.send_to(&Pattern::new(1).bytes(65_000), place).await;
    let _ = socket.send_to(&[], place).await;
}
