//! tsnet, Tailscale's library for embedding: a node at either end, on a direct path between two namespaces, since
//! it learns addresses from interfaces. The nodes and their control server are in `compare/tsnet/`.

use std::process::Command;

use kakuremichi_benches::machine::{Namespace, Scratch, Trouble, peer};

use super::{Origin, System};

pub(crate) const NAME: &str = "tsnet";

/// The control server with its relay, and the two nodes.
pub(super) fn start(origin: &Origin) -> Result<System, Trouble> {
    const BULK: u16 = 7001;
    const HTTP: u16 = 7002;
    let (near_address, far_address, host_address) = ("10.215.1.1", "10.215.1.2", "10.215.2.1");
    let control = format!("{near_address}:8080");
    let mut system = System::new(NAME, BULK, HTTP);
    system.scratch.push(Scratch::new("tsnet")?);
    let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
    near.join(
        Some(&far),
        &format!("{near_address}/24"),
        &format!("{far_address}/24"),
    )?;
    far.join(None, "10.215.2.2/24", &format!("{host_address}/24"))?;
    near.run(&["ip", "route", "add", "default", "via", far_address])?;
    far.run(&["ip", "route", "add", "default", "via", near_address])?;

    let role = |namespace: &Namespace, name: &str, forward: &str| {
        let mut command = namespace.command(peer("tsnet")?);
        command.args(["-test.run", &format!("^Test{name}$"), "-test.timeout", "0"]);
        command.env("ADDRESS", &control).env("FORWARD", forward);
        Ok::<Command, Trouble>(command)
    };
    system.beside(&mut role(&near, "Control", "")?)?;
    let targets = format!(
        "{BULK}={host_address}:{} {HTTP}={host_address}:{}",
        origin.bulk_port, origin.http_port
    );
    system.end(&mut role(&far, "Far", &targets)?)?;
    let listeners = format!("127.0.0.1:{BULK}={BULK} 127.0.0.1:{HTTP}={HTTP}");
    system.end(&mut role(&near, "Near", &listeners)?)?;
    system.namespaces = vec![near, far];
    Ok(system)
}
