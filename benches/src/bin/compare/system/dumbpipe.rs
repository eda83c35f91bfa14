//! dumbpipe: iroh's QUIC, with a connection for each TCP connection, on a direct path.

use std::process::Command;

use kakuremichi_benches::machine::{Scratch, Trouble, free_port, peer, wait_for};

use super::{Origin, System};

pub(crate) const NAME: &str = "dumbpipe (iroh)";

/// A pair of processes for each of the two services.
pub(super) fn start(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(NAME, free_port()?, free_port()?);
    let scratch = Scratch::new("dumbpipe")?;
    let at = scratch.path().to_owned();
    system.scratch.push(scratch);
    let ports = [
        (system.bulk.port(), origin.bulk_port),
        (system.http.port(), origin.http_port),
    ];
    for (near, far) in ports {
        let log = at.join(format!("{}.log", system.ends.len()));
        let mut listen = Command::new(peer("dumbpipe")?);
        system.end(listen.args(["listen-tcp", "--host", &format!("127.0.0.1:{far}")]))?;
        let mut ticket = None;
        wait_for("dumbpipe's ticket", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let mut words = said.split_whitespace();
            ticket = words.find(|word| word.starts_with("endpoint")).map(str::to_owned);
            ticket.is_some()
        })?;
        let mut connect = Command::new(peer("dumbpipe")?);
        connect.args(["connect-tcp", "--addr", &format!("127.0.0.1:{near}")]);
        system.end(connect.args(ticket))?;
    }
    Ok(system)
}
