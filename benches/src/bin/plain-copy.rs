//! Copies TCP both ways between ports on loopback: `plain-copy FROM:TO …`. The reference for what two
//! hops cost before anything is done to the bytes.

use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};

/// Bytes of each direction's buffer: what kernel proxies use.
const BUFFER: usize = 64 * 1024;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut hops = tokio::task::JoinSet::new();
    for pair in std::env::args().skip(1) {
        let ports = pair
            .split_once(':')
            .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        let (from, to): (u16, u16) =
            ports.ok_or_else(|| std::io::Error::other("usage: plain-copy FROM:TO ..."))?;
        hops.spawn(serve(TcpListener::bind((Ipv4Addr::LOCALHOST, from)).await?, to));
    }
    while let Some(ended) = hops.join_next().await {
        ended.map_err(std::io::Error::other)??;
    }
    Ok(())
}

async fn serve(listener: TcpListener, to: u16) -> std::io::Result<()> {
    loop {
        let (mut visitor, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut target = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
            visitor.set_nodelay(true)?;
            target.set_nodelay(true)?;
            tokio::io::copy_bidirectional_with_sizes(&mut visitor, &mut target, BUFFER, BUFFER).await
        });
    }
}
