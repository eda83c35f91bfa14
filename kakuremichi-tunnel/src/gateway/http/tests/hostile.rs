//! Visitors that mean no good, or do badly.

use hyper::client::conn::http2 as client2;

use super::*;
use crate::gateway::testing::local;

/// LESSONS, advisory 6: what could be read in two ways is 400, the connection closed, and nothing of
/// it reaches a target.
#[test]
fn smuggled_requests_are_refused() {
    local(async {
        let notes = Notes::default();
        let noted = notes.clone();
        let scene = Scene::answering(move |request| {
            noted.note(request.uri().path());
            async { ok("ok") }
        })
        .await;
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h.example\r\n\r\n";
        for framing in [
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
            "Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
            "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "Content-Length: +0\r\n\r\n",
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "X: a\n\r\n",
            "X: a\nContent-Length: 44\r\n\r\n",
            "X: a\r\n Content-Length: 44\r\n\r\n",
            "X: a\rContent-Length: 44\r\n\r\n",
        ] {
            let attempt = format!("POST / HTTP/1.1\r\nHost: h.example\r\n{framing}{smuggled}");
            let answer = scene.raw(attempt.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{framing:?}: {answer}");
            assert!(!answer[12..].contains("HTTP/1.1"), "{framing:?}: {answer}");
        }
        for line in [
            "GET http://other.example/ HTTP/1.1",
            "CONNECT other.example:443 HTTP/1.1",
            "GET /a/../b HTTP/1.1",
            "GET /a%2fb HTTP/1.1",
            "GET /a%00b HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET  / HTTP/1.1",
        ] {
            let answer = scene
                .raw(format!("{line}\r\nHost: h.example\r\n\r\n{smuggled}").as_bytes())
                .await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{line}: {answer}");
            assert!(!answer[12..].contains("HTTP/1.1"), "{line}: {answer}");
        }
        for hosts in [
            "",
            "Host: h.example\r\nHost: h.example\r\n",
            "Host: [::1]\r\n",
            "Host: h.example:x\r\n",
        ] {
            let answer = scene
                .raw(format!("GET / HTTP/1.1\r\n{hosts}\r\n{smuggled}").as_bytes())
                .await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{hosts:?}: {answer}");
            assert!(!answer[12..].contains("HTTP/1.1"), "{hosts:?}: {answer}");
        }
        assert_eq!(notes.all(), Vec::<String>::new());
    });
}

#[test]
fn requests_behind_each_other_are_answered_in_order() {
    local(async {
        let scene = Scene::answering(echo).await;
        let both = "POST /1 HTTP/1.1\r\nHost: h.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                    GET /2 HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\n\r\n";
        let answer = scene.raw(both.as_bytes()).await;
        let first = answer.find("POST /1").unwrap();
        let second = answer.find("GET /2").unwrap();
        assert!(first < second && answer.contains("\n\nabc"), "{answer}");
    });
}

/// LESSONS, advisory 7: a head has a deadline and a byte bound, also between two requests.
#[test]
fn slow_and_endless_heads_are_cut() {
    local(async {
        let timeouts = Timeouts {
            head: Duration::from_millis(200),
            ..Timeouts::default()
        };
        let scene = Scene::with(Policy::public(), 1, timeouts);
        scene.online(1, serve_target(echo).await);
        for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: h.example\r\nX:"] {
            let answer = scene.raw(begun.as_bytes()).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
                "{begun}: {answer}"
            );
        }
        let mut drip = scene.visit(Protocol::Http1).await;
        let started = tokio::time::Instant::now();
        while drip.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(started.elapsed() < Duration::from_secs(5));
        let endless = format!(
            "GET / HTTP/1.1\r\nHost: h.example\r\nX: {}\r\n\r\n",
            "x".repeat(100_000)
        );
        let answer = scene.raw(endless.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let many = format!(
            "GET / HTTP/1.1\r\nHost: h.example\r\n{}\r\n",
            "X: y\r\n".repeat(200)
        );
        assert!(scene.raw(many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    });
}

#[test]
fn a_quiet_http_2_connection_is_closed() {
    local(async {
        let timeouts = Timeouts {
            head: Duration::from_millis(100),
            keep_alive: Duration::from_millis(200),
            ..Timeouts::default()
        };
        let scene = Scene::with(Policy::public(), 1, timeouts);
        scene.online(1, serve_target(echo).await);
        let mut silent = scene.visit(Protocol::Http2).await;
        let mut bytes = Vec::new();
        silent.read_to_end(&mut bytes).await.unwrap();
        let visitor = scene.visit(Protocol::Http2).await;
        let (mut sender, connection) =
            client2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(visitor))
                .await
                .unwrap();
        let connection = tokio::task::spawn_local(connection);
        let request = Request::get(format!("https://{HOST}/"))
            .body(Full::<Bytes>::default())
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        connection.await.unwrap().unwrap();
    });
}

/// LESSONS, advisory 8: streams that are reset as soon as they are opened (CVE-2023-44487).
#[test]
fn rapid_resets_end_the_connection() {
    local(async {
        let scene = Scene::new(1);
        scene.online(
            1,
            script(|stream, _| async move {
                let _held = stream;
                std::future::pending().await
            })
            .await,
        );
        let mut visitor = scene.visit(Protocol::Http2).await;
        visitor
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        // :method GET, :scheme https, :path /, :authority h.example, as literals of the static table.
        let mut block = vec![0x82, 0x87, 0x84, 0x41, 9];
        block.extend_from_slice(b"h.example");
        let mut ended = false;
        for number in 0..10_000_u32 {
            let stream = (number * 2 + 1).to_be_bytes();
            let mut frames = vec![0, 0, u8::try_from(block.len()).unwrap(), 0x01, 0x05];
            frames.extend_from_slice(&stream);
            frames.extend_from_slice(&block);
            frames.extend_from_slice(&[0, 0, 4, 0x03, 0]);
            frames.extend_from_slice(&stream);
            frames.extend_from_slice(&8_u32.to_be_bytes());
            if visitor.write_all(&frames).await.is_err() {
                ended = true;
                break;
            }
            let mut sink = [0; 4096];
            match visitor.try_read(&mut sink) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(_) | Err(_) => tokio::task::yield_now().await,
            }
        }
        assert!(ended, "ten thousand resets were taken");
    });
}

/// LESSONS, advisory 8: a header list that goes on over CONTINUATION frames without end.
#[test]
fn endless_continuations_end_the_connection() {
    local(async {
        let scene = Scene::new(1);
        let mut visitor = scene.visit(Protocol::Http2).await;
        visitor
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        visitor
            .write_all(&[0, 0, 1, 0x01, 0x01, 0, 0, 0, 1, 0x82])
            .await
            .unwrap();
        let mut frame = vec![0, 0x10, 0, 0x09, 0, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n([0x40, 0x01, b'x', 0x01, b'y', 0x40, 0x00, 0x00], 512).flatten());
        let mut frames = 0;
        while visitor.write_all(&frame).await.is_ok() {
            frames += 1;
            assert!(frames < 10_000, "forty megabytes of header were taken");
            tokio::task::yield_now().await;
        }
    });
}
