//! A protocol of your own over raw TCP, public on a port of every gateway, in a process without a local port: it
//! answers each line in upper case.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example embed_tcp -- https://control.example.net AGENT-TOKEN DIR PORT
//! ```
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{io, path::Path, time::Duration};

use kakuremichi_examples::{Error, interrupted};
use kakuremichi_tunnel::{
    Agent, Service,
    agent::{TunnelListener, VisitorStream},
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, dir, port] = arguments.as_slice() else {
        return Err("usage: embed_tcp CONTROL-URL AGENT-TOKEN DIR PORT".into());
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
    let listener = agent.expose(Service::tcp(port).public()).await?;
    println!("serving at {}", listener.url());

    tokio::select! {
        () = serve(listener) => {}
        reason = agent.closed() => return Err(reason.into()),
        () = stop => {}
    }
    let report = agent.shutdown(Duration::from_secs(10)).await;
    println!("stopped; connections cut: {}", report.cut);
    Ok(())
}

/// Serves visitors until the listener says that there will be no more.
async fn serve(mut listener: TunnelListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => tokio::spawn(async move {
                let source = stream.visitor().source();
                match talk(stream).await {
                    Ok(lines) => println!("{source} said {lines} lines"),
                    Err(error) => println!("{source} went away: {error}"),
                }
            }),
            Err(reason) => return println!("no more visitors: {reason}"),
        };
    }
}

async fn talk(stream: VisitorStream) -> io::Result<usize> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader).lines();
    let mut count = 0;
    while let Some(line) = lines.next_line().await? {
        count += 1;
        let answer = format!("{}\n", line.to_uppercase());
        writer.write_all(answer.as_bytes()).await?;
    }
    writer.shutdown().await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use kakuremichi_examples::Playground;
    use kakuremichi_tests::wait;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn lines_come_back_in_upper_case() {
        let world = Playground::start().await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
        let answered = wait::until_async("an answer", async || {
            let mut visitor = TcpStream::connect(address).await.ok()?;
            visitor.write_all(b"hello\ntunnel\n").await.ok()?;
            visitor.shutdown().await.ok()?;
            let mut answer = String::new();
            visitor.read_to_string(&mut answer).await.ok()?;
            (!answer.is_empty()).then_some(answer)
        });
        assert_eq!(answered.await, "HELLO\nTUNNEL\n");
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
