//! Services that a program publishes by itself, as far as its token allows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;

use http::StatusCode;
use kakuremichi_tests::{Deployment, Echo, Host, wait};
use kakuremichi_tunnel::agent::{Agent, Service, TunnelListener};
use kakuremichi_tunnel::error::ExposeError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[test]
fn inside_the_scope_of_its_token_a_program_publishes_what_it_likes() {
    let Some(world) = Deployment::by_address() else {
        return;
    };
    let program = world.network.host_behind_nat("program");
    let echo = Echo::on(&program);
    let agent = embedded(
        &world,
        &program,
        &["--allow-host", "*.mine.test", "--allow-port", "6000-6009"],
    );
    let (web, quiet, database) = program.block_on(async || {
        let web = agent
            .expose(Service::http("web.mine.test").public())
            .await
            .unwrap();
        let quiet = agent.expose(Service::http("quiet.mine.test")).await.unwrap();
        let database = Service::tcp(6001).named("database").public();
        let target = format!("127.0.0.1:{}", echo.port());
        (web, quiet, agent.forward(database, &target).await.unwrap())
    });
    assert_eq!(web.url(), "https://web.mine.test/");
    serve(&program, web, || {
        world.served("https://web.mine.test/");
        let page = world.answered(0, "https://quiet.mine.test/", StatusCode::FORBIDDEN);
        assert!(
            page.text().contains("KKM-G003"),
            "nobody may, unless it is said: {}",
            page.text()
        );
        echoed(&world, world.gateways[0].host().at(6001));
        // A listener that is dropped takes its service along.
        drop(quiet);
        world.gone(0, "https://quiet.mine.test/");
        assert_eq!(world.get("https://web.mine.test/").text(), "in process");
    });
    // What is ephemeral goes with its listener, too, when that was served.
    world.gone(0, "https://web.mine.test/");
    drop(database);
}

#[test]
fn outside_of_it_a_program_is_refused_with_a_reason() {
    let Some(world) = Deployment::by_address() else {
        return;
    };
    let origin = kakuremichi_tests::Origin::on(world.edge(), "origin");
    let rest = world.control.rest();
    let mut taken = kakuremichi_tests::deployment::public("taken", origin.port());
    taken["http"]["hosts"] = serde_json::json!(["taken.mine.test"]);
    rest.create("services", &taken);
    let program = world.network.host_behind_nat("program");
    let agent = embedded(
        &world,
        &program,
        &["--allow-host", "*.mine.test", "--allow-port", "6000-6009"],
    );
    let humble = embedded(&world, &program, &[]);
    let cases = [
        (
            &agent,
            Service::http("web.other.test").public(),
            "KKM-D001",
            "web.other.test",
        ),
        (
            &agent,
            Service::http("*.mine.test").host("mine.test").public(),
            "KKM-D001",
            "mine.test",
        ),
        (
            &agent,
            Service::http("a.b.mine.test").public(),
            "KKM-D001",
            "a.b.mine.test",
        ),
        (&agent, Service::tcp(5999).public(), "KKM-D002", "5999"),
        (
            &agent,
            Service::http("taken.mine.test").public(),
            "KKM-D004",
            "taken.mine.test",
        ),
        (
            &humble,
            Service::http("web.mine.test").public(),
            "KKM-D003",
            "token",
        ),
    ];
    for (agent, service, code, words) in cases {
        let refused = program.block_on(async || agent.expose(service).await);
        let Err(error @ ExposeError::Refused(_)) = refused else {
            panic!("{code}: {refused:?}");
        };
        assert_eq!(error.code().map(|code| code.as_str()), Some(code), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let published = rest.get("services");
    assert_eq!(published["items"].as_array().unwrap().len(), 1, "{published}");
}

/// An agent inside this test, on a host of the deployment.
fn embedded(world: &Deployment, host: &Host, scope: &[&str]) -> Agent {
    let token = world.control.token("agent", scope);
    let url = world.control.url();
    host.block_on(async || {
        let agent = Agent::builder(url, token).spawn().await.unwrap();
        tokio::time::timeout(wait::PATIENCE, agent.online())
            .await
            .unwrap();
        agent
    })
}

/// Answers what comes to a listener while something is done.
fn serve(host: &Host, mut listener: TunnelListener, work: impl FnOnce()) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            host.block_on(async move || {
                loop {
                    tokio::select! {
                        _ = &mut stopped => return,
                        stream = listener.accept() => {
                            let mut stream = stream.unwrap();
                            tokio::spawn(async move {
                                let mut head = vec![0; 4096];
                                // One request fits into one read: it is a GET from a gateway.
                                let _ = stream.read(&mut head).await;
                                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nin process";
                                let _ = stream.write_all(answer).await;
                                let _ = stream.shutdown().await;
                            });
                        }
                    }
                }
            });
        });
        work();
        drop(stop);
    });
}

/// Waits until what is sent to an address is echoed.
#[track_caller]
fn echoed(world: &Deployment, address: SocketAddr) {
    wait::until_right("an echo", || {
        let echo = async || {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"ping").await?;
            let mut back = [0; 4];
            stream.read_exact(&mut back).await?;
            Ok::<_, std::io::Error>(back)
        };
        match world.visitors.block_on(echo) {
            Ok(back) if &back == b"ping" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}
