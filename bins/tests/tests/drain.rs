//! Asked to end, a process lets what is under way end first.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use kakuremichi_tests::client::request;
use kakuremichi_tests::pattern::Digest;
use kakuremichi_tests::{Deployment, Origin, Pattern, Process, Version};
use rustix::process::Signal;
use tokio::sync::oneshot;

/// More than all buffers on the way hold together.
const LENGTH: u64 = 96 * 1024 * 1024;

#[test]
fn a_gateway_ends_after_the_downloads_that_it_carries() {
    for version in [Version::Http1, Version::Http2] {
        let Some(mut world) = Deployment::start() else {
            return;
        };
        let origin = Origin::on(world.edge(), "origin");
        world.publish("web", origin.port());
        carried_to_its_end(&mut world, version, |world| world.gateways[0].process());
        assert!(world.gateways[0].process().ended().success());
    }
}

#[test]
fn an_agent_ends_after_the_downloads_that_it_carries() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    carried_to_its_end(&mut world, Version::Http1, |world| world.agent.process());
    assert!(world.agent.process().ended().success());
}

/// LESSONS: "WebSockets cut at deploy".
#[test]
fn a_websocket_is_told_that_its_gateway_goes() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let visitor = world.visitor_at(0);
    let gateway = &mut world.gateways[0];
    world.visitors.block_on(async || {
        let mut socket = visitor.websocket("https://web.test/ws").await.unwrap();
        socket.send("here".into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "here");
        gateway.process().signal(Signal::TERM);
        let last = socket.next().await.unwrap().unwrap();
        assert!(last.is_close(), "{last:?}");
        while let Some(Ok(_)) = socket.next().await {}
    });
    assert!(gateway.process().ended().success());
}

#[test]
fn with_nothing_under_way_everything_ends_at_once() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    assert!(world.gateways[0].stop().success());
    assert!(world.agent.stop().success());
    assert!(world.control.process().stop().success());
}

/// Begins a download, asks a process to end while most of it is still to come, and takes the rest.
fn carried_to_its_end(
    world: &mut Deployment,
    version: Version,
    process: impl FnOnce(&mut Deployment) -> &mut Process,
) {
    let visitor = world.visitor_at(0);
    let visitors = world.visitors.namespace().clone();
    let (began, has_begun) = oneshot::channel();
    let (asked, is_asked) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let download = scope.spawn(|| {
            visitors.block_on(async || {
                let url = format!("https://web.test/bytes/{LENGTH}?3");
                let mut connection = visitor.connect(&url, version).await.unwrap();
                let response = connection.send(request(Method::GET, &url)).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                let mut body = response.into_body();
                let mut digest = Digest::new();
                digest.update(&body.frame().await.unwrap().unwrap().into_data().unwrap());
                began.send(()).unwrap();
                is_asked.await.unwrap();
                while let Some(frame) = body.frame().await {
                    digest.update(&frame.unwrap().into_data().unwrap_or_default());
                }
                assert_eq!(digest.length(), LENGTH);
                digest.finish()
            })
        });
        has_begun.blocking_recv().unwrap();
        let process = process(world);
        process.signal(Signal::TERM);
        process.line_with("draining");
        asked.send(()).unwrap();
        assert_eq!(download.join().unwrap(), Pattern::new(3).digest(LENGTH));
    });
}
