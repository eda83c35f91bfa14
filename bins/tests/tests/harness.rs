//! The harness tested by itself: what the end to end tests rely on holds on this machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use kakuremichi_tests::client::{request, request_with};
use kakuremichi_tests::{
    Echo, Families, Network, Origin, Pattern, Program, StockPeer, TestCa, Version, Visitor, VisitorError,
    component, net, stock, wait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn nobody() -> Visitor {
    Visitor::trusting(&[])
}

#[test]
fn behind_nat_everything_goes_out_and_nothing_comes_in() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    for families in [Families::Both, Families::V6, Families::V4] {
        let network = Network::new(families);
        let outside = network.host("outside");
        let inside = network.host_behind_nat("inside");
        assert_eq!(outside.v6().is_some(), families != Families::V4);
        assert_eq!(outside.v4().is_some(), families != Families::V6);

        let published = Origin::on(&outside, "outside");
        let url = format!("http://{}/request", outside.at(published.port()));
        let reply = inside.block_on(async || nobody().get(&url).await).unwrap();
        let peer: SocketAddr = reply.json()["peer"].as_str().unwrap().parse().unwrap();
        assert_ne!(
            peer.ip().to_canonical(),
            inside.address(),
            "the router's address is seen"
        );

        // Even somebody who knows the way gets nowhere.
        let hidden = Origin::on(&inside, "inside");
        let target = inside.at(hidden.port());
        let connect = outside.block_on(async || {
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(target)).await
        });
        match connect {
            Err(_) => {}
            Ok(Err(error)) => assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}"),
            Ok(Ok(_)) => panic!("the host behind NAT was reached"),
        }
        let local = format!("http://127.0.0.1:{}/hello", hidden.port());
        let reply = inside.block_on(async || nobody().get(&local).await).unwrap();
        assert_eq!(reply.text(), "hello from inside\n");
    }
}

#[test]
fn udp_through_nat_is_answered() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::V4);
    let outside = network.host("outside");
    let inside = network.host_behind_nat("inside");
    let socket = outside.block_on(async || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).await.unwrap();
        socket.into_std().unwrap()
    });
    let address = outside.at(5000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            outside.block_on(async || {
                let socket = UdpSocket::from_std(socket).unwrap();
                let mut buffer = [0; 64];
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                socket.send_to(&buffer[..length], from).await.unwrap();
            });
        });
        let answer = inside.block_on(async || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
            socket.send_to(b"through", address).await.unwrap();
            let mut buffer = [0; 64];
            let answer = tokio::time::timeout(wait::PATIENCE, socket.recv_from(&mut buffer)).await;
            let (length, _) = answer.unwrap().unwrap();
            buffer[..length].to_vec()
        });
        assert_eq!(answer, b"through");
    });
}

#[test]
fn a_host_without_a_family_has_no_address_of_it() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::V4);
    let host = network.host("host");
    let bound = host.block_on(async || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok());
    assert!(!bound, "there is no IPv6 in an IPv4 network");
}

#[test]
fn names_resolve_for_processes_of_a_host() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let host = network.host("host");
    host.resolves(&[("control.test", IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)))]);
    let getent = component::path("getent").unwrap();
    let said = Program::other(getent)
        .args(["ahosts", "control.test"])
        .on(&host)
        .finish();
    assert!(
        said.status.success() && said.out.starts_with("198.51.100.9"),
        "{said:?}"
    );
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    const LENGTH: u64 = 32 * 1024 * 1024 + 3;
    let origin = Origin::here("origin");
    let pattern = Pattern::new(5);
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", origin.port());
    let (status, length, sha256) = nobody()
        .download(Version::Http1, &url(&format!("/bytes/{LENGTH}?5")))
        .await
        .unwrap();
    assert_eq!(
        (status, length, sha256),
        (StatusCode::OK, LENGTH, pattern.digest(LENGTH))
    );
    let reply = nobody()
        .upload(Version::Http1, &url("/digest"), &pattern, LENGTH)
        .await
        .unwrap();
    assert_eq!(reply.json()["bytes"], LENGTH);
    assert_eq!(reply.json()["sha256"], pattern.digest(LENGTH));
    assert_eq!(origin.requests(), 2);
}

#[test]
fn tls_is_verified_and_websockets_are_echoed() {
    if !component::have(&net::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let host = network.host("host");
    let ca = TestCa::new("harness");
    let origin = Origin::on_with_tls(&host, "origin", &ca.issue(&["origin.test"]));
    let url = |path: &str| format!("https://origin.test:{}{path}", origin.port());
    host.block_on(async || {
        let visitor = Visitor::trusting(&[ca.pem()]).at(host.address());
        assert_eq!(
            visitor.get(&url("/hello")).await.unwrap().text(),
            "hello from origin\n"
        );
        let stranger = Visitor::trusting(&[TestCa::new("other").pem()]).at(host.address());
        let refused = stranger.get(&url("/hello")).await;
        assert!(matches!(refused, Err(VisitorError::Tls(_))), "{refused:?}");

        let mut socket = visitor.websocket(&url("/ws")).await.unwrap();
        for text in ["one", "two"] {
            socket.send(text.into()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), text);
        }
        socket.close(None).await.unwrap();
    });
}

#[tokio::test]
async fn the_origins_pages_do_what_they_say() {
    let origin = Origin::here("origin");
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", origin.port());
    assert_eq!(
        nobody().get(&url("/status/418")).await.unwrap().status,
        StatusCode::IM_A_TEAPOT
    );
    assert_eq!(
        nobody().get(&url("/nothing")).await.unwrap().status,
        StatusCode::NOT_FOUND
    );
    assert!(matches!(
        nobody().get(&url("/cut")).await,
        Err(VisitorError::Http(_))
    ));
    let mut post = request_with(Method::POST, &url("/request"), "body");
    post.headers_mut().insert("x-test", "1".parse().unwrap());
    let told = nobody().send(Version::Http1, post).await.unwrap().json();
    assert_eq!(
        (&told["method"], &told["uri"]),
        (&"POST".into(), &"/request".into())
    );
    let headers = told["headers"].as_array().unwrap();
    assert!(
        headers.iter().any(|pair| pair[0] == "x-test" && pair[1] == "1"),
        "{told}"
    );

    let mut connection = nobody().connect(&url("/"), Version::Http1).await.unwrap();
    for _ in 0..3 {
        let response = connection
            .send(request(Method::GET, &url("/hello")))
            .await
            .unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "hello from origin\n"
        );
    }
}

#[tokio::test]
async fn a_tcp_echo_ends_its_half_after_ours() {
    let echo = Echo::here();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, echo.port()))
        .await
        .unwrap();
    stream.write_all(b"all of it").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "all of it");
}

#[test]
fn a_process_is_read_measured_stopped_and_started_again() {
    let shell = component::path("sh").unwrap();
    let script = "trap 'echo bye; exit 7' TERM; echo up; echo wrong >&2; while :; do sleep 0.1; done";
    let program = Program::other(&shell)
        .args(["-c", script])
        .env("KAKUREMICHI_TEST", "x");
    let mut process = program.start();
    assert_eq!(process.line_with("up"), "up");
    process.line_with("wrong");
    assert!(process.resident_memory() > 0 && process.peak_memory() >= process.resident_memory());
    assert_eq!(process.stop().code(), Some(7));
    assert_eq!(
        (process.stdout().as_str(), process.stderr().as_str()),
        ("up\nbye\n", "wrong\n")
    );
    let mut again = process.program().start();
    again.line_with("up");
    let id = again.id();
    drop(again);
    assert!(
        !std::path::Path::new(&format!("/proc/{id}")).exists(),
        "dropping kills"
    );
}

#[test]
fn the_binaries_are_there_or_are_built() {
    for name in [
        "kakuremichi",
        "kakuremichi-control",
        "kakuremichi-gateway",
        "kakuremichi-agent",
    ] {
        assert!(kakuremichi_tests::binaries::binary(name).is_file());
    }
}

#[test]
fn two_stock_devices_shake_hands() {
    if !component::have(&net::COMPONENTS) || !component::have(&stock::COMPONENTS) {
        return;
    }
    let network = Network::new(Families::Both);
    let (one, two) = (network.host("one"), network.host_behind_nat("two"));
    let left = StockPeer::start(&one, 51820, &["fd00::1/128"]);
    let right = StockPeer::start(&two, 51820, &["fd00::2/128"]);
    let allowed = ["fd00::1/128", "fd00::2/128"].map(str::to_owned);
    let peer = |public_key, endpoint, allowed| stock::Peer {
        public_key,
        endpoint,
        allowed,
        keepalive: 1,
    };
    left.peer(&peer(right.public_key(), None, &allowed[1..]));
    right.peer(&peer(left.public_key(), Some(one.at(51820)), &allowed[..1]));
    left.handshake(right.public_key());
    right.handshake(left.public_key());
    let behind = Origin::on(&two, "two");
    let url = format!("http://[fd00::2]:{}/hello", behind.port());
    let reply = one.block_on(async || nobody().get(&url).await).unwrap();
    assert_eq!(reply.text(), "hello from two\n");
}
