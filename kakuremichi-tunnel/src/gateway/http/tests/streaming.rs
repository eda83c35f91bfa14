//! Bodies go through as they come, in bounded memory.

use futures_util::stream;
use http_body::Frame;
use http_body_util::{StreamBody, combinators::BoxBody};
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper_util::rt::TokioExecutor;

use super::*;
use crate::gateway::testing::local;

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 1024;

type Streamed = BoxBody<Bytes, Infallible>;

/// `CHUNKS` chunks whose bytes tell where they are.
fn long_body() -> Streamed {
    let chunks = (0..CHUNKS).map(|number| {
        let byte = u8::try_from(number % 251).unwrap();
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![byte; CHUNK])))
    });
    BodyExt::boxed(StreamBody::new(stream::iter(chunks)))
}

/// Reads such a body and checks every byte.
async fn check(mut body: Incoming) -> usize {
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.unwrap().into_data() else {
            continue;
        };
        for byte in &data {
            assert_eq!(usize::from(*byte), seen / CHUNK % 251);
            seen += 1;
        }
    }
    seen
}

/// A target that checks what it is sent and answers with as much.
async fn mirror() -> SocketAddr {
    script(|stream, _| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            let seen = check(request.into_body()).await;
            let mut response = Response::new(long_body());
            response.headers_mut().insert("x-seen", seen.into());
            Ok::<_, Infallible>(response)
        });
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn sixty_four_mebibytes_go_both_ways_in_bounded_memory() {
    local(async {
        let scene = Scene::new(1);
        scene.online(1, mirror().await);
        let before = resident();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let visitor = TokioIo::new(scene.visit(protocol).await);
            let request = Request::post(match protocol {
                Protocol::Http1 => "/".to_owned(),
                Protocol::Http2 => format!("https://{HOST}/"),
            });
            let response = if protocol == Protocol::Http1 {
                let (mut sender, connection) = client1::handshake(visitor).await.unwrap();
                tokio::task::spawn_local(connection);
                sender
                    .send_request(request.header("host", HOST).body(long_body()).unwrap())
                    .await
            } else {
                let (mut sender, connection) =
                    client2::handshake(TokioExecutor::new(), visitor).await.unwrap();
                tokio::task::spawn_local(connection);
                sender.send_request(request.body(long_body()).unwrap()).await
            };
            let response = response.unwrap();
            assert_eq!(response.headers()["x-seen"], (CHUNK * CHUNKS).to_string());
            assert_eq!(check(response.into_body()).await, CHUNK * CHUNKS);
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 * 1024 * 1024, "resident memory grew by {grown} bytes");
        let counted = scene.serving.counters.snapshot();
        assert_eq!(counted.bytes_in, 2 * (CHUNK * CHUNKS) as u64);
        assert_eq!(counted.bytes_out, 2 * (CHUNK * CHUNKS) as u64);
    });
}

/// A visitor that does not read stops the target, instead of filling the gateway.
#[test]
fn back_pressure_reaches_the_target() {
    local(async {
        let scene = Scene::new(1);
        let notes = Notes::default();
        let noted = notes.clone();
        scene.online(
            1,
            script(move |mut stream, _| {
                let notes = noted.clone();
                async move {
                    read_head(&mut stream).await;
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
                        .await
                        .unwrap();
                    let mut sent = 0_usize;
                    while let Ok(Ok(count)) =
                        tokio::time::timeout(Duration::from_millis(300), stream.write(&[0; CHUNK])).await
                    {
                        sent += count;
                    }
                    notes.note(sent.to_string());
                }
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
            .await
            .unwrap();
        until(|| !notes.all().is_empty()).await;
        let sent: usize = notes.all()[0].parse().unwrap();
        assert!(
            sent < 32 * 1024 * 1024,
            "{sent} bytes went into a visitor that does not read"
        );
    });
}

#[test]
fn events_arrive_one_by_one_and_trailers_at_the_end() {
    local(async {
        let scene = Scene::new(1);
        let (next, turns) = tokio::sync::mpsc::unbounded_channel::<()>();
        let turns = Rc::new(RefCell::new(Some(turns)));
        scene.online(
            1,
            script(move |mut stream, _| {
                let turns = turns.borrow_mut().take();
                async move {
                    let mut turns = turns.unwrap();
                    read_head(&mut stream).await;
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTrailer: x-sum\r\n\
                            Transfer-Encoding: chunked\r\n\r\n";
                    stream.write_all(head.as_bytes()).await.unwrap();
                    for _ in 0..3 {
                        stream.write_all(b"9\r\ndata: x\n\n\r\n").await.unwrap();
                        turns.recv().await;
                    }
                    stream
                        .write_all(b"0\r\nx-sum: 3\r\ncontent-length: 7\r\n\r\n")
                        .await
                        .unwrap();
                    std::future::pending().await
                }
            })
            .await,
        );
        let visitor = scene.visit(Protocol::Http2).await;
        let (mut sender, connection) = client2::handshake(TokioExecutor::new(), TokioIo::new(visitor))
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::get(format!("https://{HOST}/")).header("te", "trailers");
        let response = sender
            .send_request(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .unwrap();
        let mut body = response.into_body();
        for _ in 0..3 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "data: x\n\n");
            next.send(()).unwrap();
        }
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["x-sum"], "3");
        assert_eq!(trailers.len(), 1);
    });
}

/// A target that breaks off in its body must not look complete.
#[test]
fn a_body_that_breaks_off_is_not_complete() {
    local(async {
        let scene = Scene::new(1);
        scene.online(
            1,
            script(|mut stream, _| async move {
                read_head(&mut stream).await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
                    .await
                    .unwrap();
            })
            .await,
        );
        let answer = scene.get("/", "").await;
        assert!(
            answer.contains("abc") && !answer.contains("0\r\n\r\n"),
            "{answer}"
        );
    });
}

#[test]
fn nothing_that_moves_for_too_long_is_cut_and_what_moves_is_not() {
    local(async {
        let timeouts = Timeouts {
            idle: Duration::from_millis(200),
            response_head: Duration::from_millis(200),
            ..Timeouts::default()
        };
        let scene = Scene::with(Policy::public(), 1, timeouts);
        scene.online(
            1,
            script(|mut stream, _| async move {
                read_head(&mut stream).await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
                    .await
                    .unwrap();
                for _ in 0..8 {
                    stream.write_all(b"x").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::future::pending().await
            })
            .await,
        );
        let answer = scene.get("/", "").await;
        assert!(answer.ends_with(&"x".repeat(8)), "{answer}");
        // A slow upload is no slow answer.
        scene.online(1, serve_target(echo).await);
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(
                b"POST / HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\nContent-Length: 8\r\n\r\n",
            )
            .await
            .unwrap();
        for _ in 0..8 {
            visitor.write_all(b"y").await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("yyyyyyyy"),
            "{answer}"
        );
    });
}

/// A revoked visitor's open flow is closed (DESIGN invariant 5).
#[test]
fn a_revoked_visitors_download_is_closed() {
    local(async {
        let scene = Scene::new(1);
        scene.online(
            1,
            script(|mut stream, _| async move {
                read_head(&mut stream).await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
                    .await
                    .unwrap();
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
            .await
            .unwrap();
        read_head(&mut visitor).await;
        visitor.read_exact(&mut [0; 5]).await.unwrap();
        scene
            .serving
            .apply(&plan(2, [Scene::service(Policy::public(), 1)]));
        assert_eq!(scene.serving.flows.len(), 1);
        scene.serving.apply(&plan(3, [Scene::service(Policy::deny(), 1)]));
        let mut rest = Vec::new();
        let _ = visitor.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        until(|| scene.serving.flows.len() == 0).await;
        assert_eq!(scene.serving.counters.snapshot().revoked, 1);
    });
}

#[test]
fn a_drain_finishes_requests_and_takes_no_more() {
    local(async {
        let scene = Scene::new(1);
        let (finish, finished) = tokio::sync::watch::channel(false);
        scene.online(
            1,
            script(move |mut stream, _| {
                let mut finished = finished.clone();
                async move {
                    read_head(&mut stream).await;
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
                        .await
                        .unwrap();
                    let _ = finished.wait_for(|finished| *finished).await;
                    stream.write_all(b"-last").await.unwrap();
                }
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http1).await;
        let mut idle = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
            .await
            .unwrap();
        read_head(&mut visitor).await;
        scene.begin.begin();
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        finish.send(true).unwrap();
        visitor.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"first-last");
    });
}

/// A visitor that opens no window for what it asked for.
async fn takes_nothing(
    scene: &Scene,
) -> (
    client2::SendRequest<Full<Bytes>>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    let visitor = TokioIo::new(scene.visit(Protocol::Http2).await);
    let (sender, connection) = client2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(visitor)
        .await
        .unwrap();
    (sender, tokio::task::spawn_local(connection))
}

fn asks() -> Request<Full<Bytes>> {
    Request::get(format!("https://{HOST}/"))
        .body(Full::default())
        .unwrap()
}

async fn endless() -> SocketAddr {
    script(|mut stream, _| async move {
        read_head(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[0; CHUNK]).await.is_ok() {}
    })
    .await
}

/// Such a visitor answers pings, and its socket is never full: it would hold its flows for ever.
#[test]
fn a_stream_of_which_the_visitor_takes_nothing_is_reset_and_its_flow_given_back() {
    local(async {
        let timeouts = Timeouts {
            write: Duration::from_millis(300),
            ..Timeouts::default()
        };
        let scene = Scene::with(Policy::public(), 1, timeouts);
        scene.online(1, endless().await);
        let (mut sender, connection) = takes_nothing(&scene).await;
        let mut response = sender.send_request(asks()).await.unwrap();
        assert_eq!(scene.serving.flows.len(), 1);
        assert!(response.body_mut().frame().await.unwrap().is_err());
        until(|| scene.serving.flows.len() == 0).await;
        // A page of ours is no other.
        scene.serving.apply(&plan(2, []));
        let mut response = sender.send_request(asks()).await.unwrap();
        assert_eq!(response.status(), 404);
        assert!(response.body_mut().frame().await.unwrap().is_err());
        assert!(!connection.is_finished());
    });
}

/// DESIGN invariant 5 holds for whoever takes nothing, too.
#[test]
fn a_revoked_visitor_that_takes_nothing_is_cut() {
    local(async {
        let scene = Scene::new(1);
        scene.online(1, endless().await);
        let (mut sender, _connection) = takes_nothing(&scene).await;
        let mut response = sender.send_request(asks()).await.unwrap();
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
            .await
            .unwrap();
        read_head(&mut visitor).await;
        assert_eq!(scene.serving.flows.len(), 2);
        scene.serving.apply(&plan(2, [Scene::service(Policy::deny(), 1)]));
        until(|| scene.serving.flows.len() == 0).await;
        assert!(response.body_mut().frame().await.unwrap().is_err());
    });
}

/// LESSONS, advisory 7: a cap per address, on what takes a flow to an agent.
#[test]
fn one_address_has_only_so_many_requests_open() {
    local(async {
        let mut scene = Scene::new(1);
        scene.online(1, endless().await);
        let serving = Rc::get_mut(&mut scene.serving).unwrap();
        serving.requests = crate::gateway::per_address::PerAddress::new(2);
        let (mut sender, connection) = takes_nothing(&scene).await;
        let first = sender.send_request(asks()).await.unwrap();
        let second = sender.send_request(asks()).await.unwrap();
        assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
        assert_eq!(sender.send_request(asks()).await.unwrap().status(), 503);
        assert_eq!(scene.serving.counters.snapshot().requests_refused, 1);
        drop((first, second, sender));
        connection.abort();
        until(|| scene.serving.requests.addresses() == 0).await;
        let mut visitor = scene.visit(Protocol::Http1).await;
        visitor
            .write_all(b"GET / HTTP/1.1\r\nHost: h.example\r\n\r\n")
            .await
            .unwrap();
        assert!(read_head(&mut visitor).await.starts_with("HTTP/1.1 200"));
    });
}
