//! An agent that reaches its gateways in a way of your own: here through a relay on a Unix socket, elsewhere
//! through whatever leads out of your network.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example custom_lane -- https://control.example.net AGENT-TOKEN DIR HOST SOCKET
//! ```
//!
//! The relay is told in one line where a connection goes, and passes on what follows. It sees ciphertext only.
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, routing::get};
use kakuremichi_examples::{Error, interrupted};
use kakuremichi_tunnel::{
    Agent, Service,
    agent::{LaneDial, LanePreference, LaneStream, LaneTransport},
};
use tokio::{io::AsyncWriteExt as _, net::UnixStream};

/// A relay on this machine.
#[derive(Debug)]
struct Relay {
    socket: PathBuf,
}

#[async_trait]
impl LaneTransport for Relay {
    async fn dial(&self, to: LaneDial<'_>) -> io::Result<LaneStream> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(format!("{}\n", to.endpoint).as_bytes()).await?;
        Ok(LaneStream::new(stream))
    }

    fn name(&self) -> &str {
        "relay"
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, dir, host, socket] = arguments.as_slice() else {
        return Err("usage: custom_lane CONTROL-URL AGENT-TOKEN DIR HOST SOCKET".into());
    };
    let relay = Relay {
        socket: socket.into(),
    };
    run(url, token, Path::new(dir), host, relay, interrupted()).await
}

/// Serves at `host`, over nothing but the relay, until `stop` ends.
async fn run(
    url: &str,
    token: &str,
    dir: &Path,
    host: &str,
    relay: Relay,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let agent = Agent::builder(url, token)
        .state_dir(dir)
        .lane(LanePreference::Tls)
        .lane_transport(relay)
        .spawn()
        .await?;
    let listener = agent.expose(Service::http(host).public()).await?;
    println!("serving at {}", listener.url());

    let app = Router::new().route("/", get(async || "hello\n"));
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        reason = agent.closed() => return Err(reason.into()),
        () = stop => {}
    }
    agent.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use kakuremichi_examples::Playground;
    use kakuremichi_tests::{Visitor, wait};
    use tokio::{
        io::{AsyncBufReadExt as _, BufReader, copy_bidirectional},
        net::{TcpStream, UnixListener},
        sync::oneshot,
    };

    use super::*;

    /// Leads wherever it is told to.
    async fn lead(stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut to = String::new();
        stream.read_line(&mut to).await?;
        let mut gateway = TcpStream::connect(to.trim_end()).await?;
        copy_bidirectional(&mut stream, &mut gateway).await.map(drop)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn visitors_come_through_the_relay() {
        let world = Playground::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("relay.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let led = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&led);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(lead(stream));
            }
        });

        let token = world.agent_token("hello.localhost", "1-65535").await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (control, path) = (world.control_url(), dir.path().join("agent"));
        let example = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            let relay = Relay { socket };
            run(&control, token.expose(), &path, "hello.localhost", relay, stop).await
        });
        let visitor = Visitor::trusting(&[world.ca()]);
        let url = format!("https://hello.localhost:{}/", world.https_address().port());
        let page = wait::until_async("the page", async || {
            visitor.get(&url).await.ok().filter(|page| page.status == 200)
        });
        assert_eq!(page.await.text(), "hello\n");
        // The lane's control connection, and one at least for flows. The page may have come before both.
        let led = wait::until_async("the relay leads more than one connection", async || {
            (led.load(Ordering::Relaxed) >= 2).then_some(())
        });
        led.await;
        assert_eq!(visitor.get(&url).await.unwrap().status, 200);
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
