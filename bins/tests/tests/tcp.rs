//! Raw TCP services: their ports open and close with the plan.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::ErrorKind;
use std::net::SocketAddr;

use kakuremichi_tests::deployment::target;
use kakuremichi_tests::{Deployment, Echo, Pattern, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// LESSONS: "new raw port = three file edits and a restart".
#[test]
fn a_port_opens_moves_and_closes_with_the_plan() {
    let Some(world) = Deployment::start() else { return };
    let echo = Echo::on(world.edge());
    let rest = world.control.rest();
    let service = rest.create("services", &tcp(5432, echo.port(), &json!("public")));
    let path = format!("services/{}", service["id"].as_str().unwrap());
    opened(&world, 5432);
    let stays = connected(&world, 5432);

    rest.replace(&path, &tcp(5433, echo.port(), &json!("public")));
    opened(&world, 5433);
    closed(&world, 5432);

    rest.delete(&path);
    closed(&world, 5433);
    drop(stays);
}

/// A path that swallows long packets, and the messages that would say so (RFC 2923): flows that are open when it
/// becomes one go on with shorter packets.
#[test]
fn bytes_arrive_whole_over_a_path_that_becomes_narrow() {
    const LENGTH: usize = 2 * 1024 * 1024;
    let Some(world) = Deployment::start() else { return };
    let echo = Echo::on(world.edge());
    let rest = world.control.rest();
    rest.create("services", &tcp(5432, echo.port(), &json!("public")));
    opened(&world, 5432);
    let address = world.gateways[0].host().at(5432);
    let bytes = Pattern::new(7).bytes(LENGTH);
    let (first, second) = bytes.split_at(LENGTH / 2);
    let mut back = vec![0; LENGTH];
    world.visitors.block_on(async || {
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let (before, after) = back.split_at_mut(LENGTH / 2);
        let wide = async { tokio::join!(write.write_all(first), read.read_exact(before)) };
        let (sent, received) = tokio::time::timeout(wait::PATIENCE, wide).await.unwrap();
        sent.unwrap();
        received.unwrap();
        world.edge().narrows(1_400);
        let narrow = async { tokio::join!(write.write_all(second), read.read_exact(after)) };
        // It takes seconds to find out, and what was lost meanwhile is sent again ever more rarely.
        let (sent, received) = tokio::time::timeout(3 * wait::PATIENCE, narrow).await.unwrap();
        sent.unwrap();
        received.unwrap();
    });
    assert!(back == bytes);
}

#[test]
fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    const LENGTH: usize = 8 * 1024 * 1024 + 5;
    let Some(world) = Deployment::start() else { return };
    let echo = Echo::on(world.edge());
    let rest = world.control.rest();
    rest.create("services", &tcp(5432, echo.port(), &json!("public")));
    opened(&world, 5432);
    let address = world.gateways[0].host().at(5432);
    let bytes = Pattern::new(3).bytes(LENGTH);
    let back = world.visitors.block_on(async || {
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let mut back = Vec::with_capacity(LENGTH);
        let send = async {
            write.write_all(&bytes).await.unwrap();
            // The echo ends its direction only after ours (LESSONS: "EOF in one direction closes both").
            write.shutdown().await.unwrap();
        };
        let both = async { tokio::join!(send, read.read_to_end(&mut back)).1 };
        tokio::time::timeout(wait::PATIENCE, both).await.unwrap().unwrap();
        back
    });
    assert!(
        back == bytes,
        "{} bytes came back, some of them others",
        back.len()
    );
}

/// DESIGN section 2, invariant 5: what is no longer permitted is closed, open or not.
#[test]
fn a_connection_ends_when_its_policy_denies_it() {
    let Some(world) = Deployment::start() else { return };
    let echo = Echo::on(world.edge());
    let rest = world.control.rest();
    let service = rest.create("services", &tcp(5432, echo.port(), &json!("public")));
    opened(&world, 5432);
    let open = connected(&world, 5432);
    let path = format!("services/{}", service["id"].as_str().unwrap());
    rest.replace(&path, &tcp(5432, echo.port(), &json!("deny")));
    world.visitors.block_on(async || {
        let mut open = TcpStream::from_std(open).unwrap();
        let mut byte = [0];
        let ended = tokio::time::timeout(wait::PATIENCE, open.read(&mut byte))
            .await
            .unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    });
    let address = world.gateways[0].host().at(5432);
    wait::until_right("nobody gets in", || {
        world
            .visitors
            .block_on(async || exchange(address).await)
            .map_or(Ok(()), |()| Err("it was echoed".to_owned()))
    });
}

fn tcp(port: u16, target_port: u16, access: &Value) -> Value {
    json!({
        "name": "database",
        "tcp": { "port": port, "targets": [target(target_port)] },
        "policy": { "access": access },
    })
}

/// Waits until what is sent to a port of the gateway is echoed.
#[track_caller]
fn opened(world: &Deployment, port: u16) {
    let address = world.gateways[0].host().at(port);
    wait::until_right("an open port", || {
        let done = world.visitors.block_on(async || exchange(address).await);
        done.map_err(|error| error.to_string())
    });
}

/// Waits until a port of the gateway refuses connections.
#[track_caller]
fn closed(world: &Deployment, port: u16) {
    let address = world.gateways[0].host().at(port);
    wait::until_right("a closed port", || {
        match world
            .visitors
            .block_on(async || TcpStream::connect(address).await)
        {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// A connection over which something was echoed already.
fn connected(world: &Deployment, port: u16) -> std::net::TcpStream {
    let address = world.gateways[0].host().at(port);
    world.visitors.block_on(async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        ping(&mut stream).await.unwrap();
        stream.into_std().unwrap()
    })
}

async fn exchange(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    ping(&mut stream).await
}

async fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut back = [0; 4];
    let read = stream.read_exact(&mut back);
    tokio::time::timeout(wait::PATIENCE, read).await??;
    assert_eq!(&back, b"ping");
    Ok(())
}
