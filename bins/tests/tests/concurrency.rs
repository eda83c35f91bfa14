//! Many visitors at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kakuremichi_tests::client::with_body;
use kakuremichi_tests::{Connection, Deployment, Origin, Version, Visitor};
use tokio::sync::{Barrier, mpsc};

/// So many WebSockets, and so many requests.
const EACH: usize = 200;

#[test]
fn two_hundred_websockets_and_two_hundred_requests_at_once() {
    let Some(world) = Deployment::start() else { return };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let before = origin.requests();
    world.visit(async |visitor| {
        // Nobody goes on before all have got through to the target.
        let all = Barrier::new(2 * EACH);
        let shared = visitor
            .connect("https://web.test/", Version::Http2)
            .await
            .unwrap();
        let sockets = (0..EACH).map(|number| websocket(&visitor, number, &all));
        let requests = (0..EACH).map(|number| {
            // Half of them share one HTTP/2 connection, the others have one each.
            let shared = (number % 2 == 0).then(|| shared.clone());
            echo(&visitor, shared, number, &all)
        });
        join(join_all(sockets), join_all(requests)).await;
    });
    assert_eq!(origin.requests() - before, 2 * EACH as u64);
}

async fn websocket(visitor: &Visitor, number: usize, all: &Barrier) {
    let mut socket = visitor.websocket("https://web.test/ws").await.unwrap();
    for round in 0..3 {
        let text = format!("socket {number}, round {round}");
        socket.send(text.as_str().into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), text);
        if round == 0 {
            all.wait().await;
        }
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

/// A request whose body ends only after the answer has begun.
async fn echo(visitor: &Visitor, shared: Option<Connection>, number: usize, all: &Barrier) {
    let url = "https://web.test/echo";
    let mut connection = match shared {
        Some(connection) => connection,
        None => visitor.connect(url, Version::Http1).await.unwrap(),
    };
    let (send, receive) = mpsc::channel::<Bytes>(1);
    let body = stream::unfold(receive, async |mut receive| {
        let data = receive.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(data)), receive))
    });
    let body = StreamBody::new(Box::pin(body)).boxed_unsync();
    let (first, second) = (format!("request {number}, "), format!("and its end {number}"));
    send.send(first.clone().into()).await.unwrap();
    let response = connection.send(with_body(Method::POST, url, body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut echoed = response.into_body();
    let data = echoed.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data, first);
    all.wait().await;
    send.send(second.clone().into()).await.unwrap();
    drop(send);
    assert_eq!(echoed.collect().await.unwrap().to_bytes(), second);
}
