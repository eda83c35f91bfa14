//! A protocol of your own over UDP, public on a port of every gateway, in a process without a local port: it answers
//! each datagram in upper case.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example embed_udp -- https://control.example.net AGENT-TOKEN DIR PORT
//! ```
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{io, path::Path, time::Duration};

use kakuremichi_examples::{Error, interrupted};
use kakuremichi_tunnel::{
    Agent, Service,
    agent::{TunnelUdp, VisitorSession},
};

/// No datagram is longer.
const LONGEST: usize = 65_527;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, dir, port] = arguments.as_slice() else {
        return Err("usage: embed_udp CONTROL-URL AGENT-TOKEN DIR PORT".into());
    };
    run(url, token, Path::new(dir), port.parse()?, interrupted()).await
}

/// Serves at `port` of every gateway until `stop` ends.
async fn run(
    url: &str,
    token: &str,
    dir: &Path,
    port: u16,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let agent = Agent::builder(url, token).state_dir(dir).spawn().await?;
    let service = agent.expose_udp(Service::udp(port).public()).await?;
    println!("serving at {}", service.url());

    tokio::select! {
        () = serve(service) => {}
        reason = agent.closed() => return Err(reason.into()),
        () = stop => {}
    }
    agent.shutdown(Duration::from_secs(10)).await;
    println!("stopped");
    Ok(())
}

/// Serves visitors until the service says that there will be no more.
async fn serve(mut service: TunnelUdp) {
    loop {
        match service.accept().await {
            Ok(session) => tokio::spawn(async move {
                let source = session.visitor().source();
                let (datagrams, end) = talk(session).await;
                println!("{source} sent {datagrams} datagrams, until: {end}");
            }),
            Err(reason) => return println!("no more visitors: {reason}"),
        };
    }
}

/// Answers one visitor, for as long as datagrams pass.
async fn talk(mut session: VisitorSession) -> (usize, io::Error) {
    let mut buffer = vec![0; LONGEST];
    let mut count = 0;
    loop {
        let length = match session.recv(&mut buffer).await {
            Ok(length) => length,
            Err(end) => return (count, end),
        };
        count += 1;
        buffer[..length].make_ascii_uppercase();
        // One that cannot be sent is lost, as any may be.
        let _ = session.try_send(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_examples::Playground;
    use kakuremichi_tests::wait;
    use tokio::{net::UdpSocket, sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn datagrams_come_back_in_upper_case() {
        let world = Playground::start().await.unwrap();
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let token = world.agent_token("*.localhost", "1-65535").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (url, path) = (world.control_url(), dir.path().to_owned());
        let example = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            run(&url, token.expose(), &path, address.port(), stop).await
        });
        let visitor = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        visitor.connect(address).await.unwrap();
        let answered = wait::until_async("an answer", async || {
            visitor.send(b"hello tunnel").await.ok()?;
            let mut answer = vec![0; LONGEST];
            let received = timeout(Duration::from_millis(200), visitor.recv(&mut answer)).await;
            answer.truncate(received.ok()?.ok()?);
            Some(answer)
        });
        assert_eq!(answered.await, b"HELLO TUNNEL");
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
