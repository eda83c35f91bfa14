//! Requests through TLS, gateway, lane and agent.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kakuremichi_core::{
    model::{Health, HealthCheck},
    policy::Policy,
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::scene::{HOST, Published, Scene, echoing, free_port, saying, soon};

#[tokio::test]
async fn a_visitor_reaches_a_target_behind_the_agent() {
    let scene = Scene::start(&[Published::http(vec![saying("hello").await])]).await;
    let answer = scene.get("/path?query=1").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("helloGET /path?query=1 "),
        "{answer}"
    );
    for field in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
        "host: app.example.net",
    ] {
        assert!(answer.contains(field), "{field}: {answer}");
    }
    assert_eq!(scene.gateway.metrics().permitted, 1);
}

/// A target that answers with the length of what it was sent, and as much of its own.
async fn counting() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async {
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    length += frame.data_ref().map_or(0, Bytes::len);
                }
                let mut response = Response::new(Full::new(Bytes::from(vec![7; length])));
                response.headers_mut().insert("x-length", length.into());
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn many_streams_of_http_2_go_through_one_lane() {
    let scene = Scene::start(&[Published::http(vec![counting().await])]).await;
    let stream = scene.tls(HOST, &[b"h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut asked = Vec::new();
    for number in 0..32_usize {
        let mut sender = sender.clone();
        asked.push(tokio::spawn(async move {
            let length = number * 10_007;
            let body = Full::new(Bytes::from(vec![1; length]));
            let request = Request::post(format!("https://{HOST}/")).body(body).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()["x-length"], length.to_string());
            assert_eq!(
                response.into_body().collect().await.unwrap().to_bytes().len(),
                length
            );
        }));
    }
    for answer in asked {
        soon(answer).await.unwrap();
    }
}

#[tokio::test]
async fn the_page_tells_offline_from_refused_from_denied() {
    let mut scene = Scene::start(&[Published::http(vec![saying("hello").await])]).await;
    let refused = Published::http(vec![format!("127.0.0.1:{}", free_port().await).parse().unwrap()]);
    scene.publish(std::slice::from_ref(&refused)).await;
    let answer = scene.get("/").await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("KKM-G006"),
        "{answer}"
    );
    scene
        .publish(&[Published {
            policy: Policy::deny(),
            ..refused.clone()
        }])
        .await;
    let answer = scene.get("/").await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("KKM-G003"),
        "{answer}"
    );
    scene.publish(&[refused]).await;
    let agent = scene.agent.take().unwrap();
    soon(agent.shutdown(Duration::from_secs(1))).await;
    drop(agent);
    scene
        .status(|status| {
            status
                .peers
                .iter()
                .all(|peer| peer.state == kakuremichi_tunnel::gateway::PeerState::Down)
        })
        .await;
    let answer = scene.get("/").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("KKM-G005"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_target_that_fails_its_check_gets_no_visitor() {
    let dead = format!("127.0.0.1:{}", free_port().await).parse().unwrap();
    let check = HealthCheck {
        check: Health::Tcp,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        unhealthy_after: 1,
        healthy_after: 1,
    };
    let service = Published {
        health: Some(check),
        ..Published::http(vec![dead, saying("alive").await])
    };
    let scene = Scene::start(&[service]).await;
    // Whatever is known yet: each visitor is served.
    for _ in 0..10 {
        assert!(scene.get("/").await.contains("alive"));
    }
    let failed = || scene.gateway.metrics().flows_failed;
    let before = soon(async {
        loop {
            let before = failed();
            for _ in 0..4 {
                assert!(scene.get("/").await.contains("alive"));
            }
            if failed() == before {
                return before;
            }
        }
    })
    .await;
    for _ in 0..6 {
        assert!(scene.get("/").await.contains("alive"));
    }
    assert_eq!(failed(), before);
}

#[tokio::test]
async fn a_websocket_goes_through() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_binary() && socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    });
    let scene = Scene::start(&[Published::http(vec![target])]).await;
    let stream = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("wss://{HOST}/"), stream)
        .await
        .unwrap();
    for size in [0_usize, 1, 1000, 100_000] {
        let message = Message::binary(vec![5; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
    }
    // The gateway stops: the visitor is told, not cut.
    let gateway = scene.gateway.clone();
    let stopping = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(10)).await });
    let Some(Ok(Message::Close(Some(close)))) = soon(socket.next()).await else {
        panic!("no goodbye");
    };
    assert_eq!(u16::from(close.code), 1001);
    drop(socket);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn megabytes_arrive_whole() {
    let scene = Scene::start(&[Published::http(vec![counting().await])]).await;
    let stream = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let length = 16 * 1024 * 1024;
    let request = Request::post("/")
        .header("host", HOST)
        .body(Full::new(Bytes::from(vec![3; length])))
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
    assert!(body.len() == length && body.iter().all(|byte| *byte == 7));
}

/// Who asks for HTTP at a target that is none hears that it broke off.
#[tokio::test]
async fn a_target_that_speaks_no_http_is_named() {
    let scene = Scene::start(&[Published::http(vec![echoing().await])]).await;
    let mut stream = scene.tls(HOST, &[b"http/1.1"]).await.unwrap();
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    soon(tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer))
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("KKM-G008"),
        "{answer}"
    );
}
