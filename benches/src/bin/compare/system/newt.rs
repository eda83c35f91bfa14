//! newt, Pangolin's agent. wireguard-go on a TUN stands for gerbil, its gateway, without the reverse proxy that is in
//! front of it there: visitors reach the TUN straight away.

use std::{net::SocketAddr, process::Command};

use kakuremichi_benches::machine::{Namespace, Scratch, Trouble, free_port, output, peer, sibling, wait_for};

use super::{Origin, System};

pub(crate) const NAME: &str = "newt";
pub(crate) const NATIVE: &str = "newt --native-main";

/// What tells one of the two from the other.
struct Variant {
    name: &'static str,
    /// A name for interfaces, and a number for addresses.
    number: u8,
    flags: &'static [&'static str],
}

/// Its default: a TCP stack in the process.
pub(super) fn netstack(origin: &Origin) -> Result<System, Trouble> {
    let variant = Variant {
        name: NAME,
        number: 1,
        flags: &[],
    };
    start(origin, &variant)
}

/// Its fast mode: a TUN at the edge, too, which wants root.
pub(super) fn native(origin: &Origin) -> Result<System, Trouble> {
    let variant = Variant {
        name: NATIVE,
        number: 2,
        flags: &["--native-main"],
    };
    start(origin, &variant)
}

fn start(origin: &Origin, variant: &Variant) -> Result<System, Trouble> {
    const BULK: u16 = 7001;
    const HTTP: u16 = 7002;
    let Variant { name, number, flags } = *variant;
    let mut system = System::new(name, BULK, HTTP);
    let address = |host: u8| format!("10.213.{number}.{host}");
    let inside = |host: u8| format!("10.214.{number}.{host}");
    system.bulk = SocketAddr::new(inside(2).parse().map_err(|_| Trouble::Usage("an address"))?, BULK);
    system.http = SocketAddr::new(system.bulk.ip(), HTTP);
    let scratch = Scratch::new(&format!("newt-{number}"))?;

    let gateway = Namespace::new(&format!("newt{number}"))?;
    gateway.join(None, &format!("{}/24", address(2)), &format!("{}/24", address(1)))?;
    let device = format!("kkbn{number}x{}", std::process::id());
    let key = output(Command::new("wg").arg("genkey"))?;
    let file = scratch.write("gateway.key", key.trim())?;
    let file = file.display().to_string();
    let public = output(Command::new("sh").args(["-c", "wg pubkey < \"$0\"", &file]))?;
    system.scratch.push(scratch);
    let mut wireguard = gateway.command("wireguard-go");
    system.end(wireguard.args(["-f", &device]).env("LOG_LEVEL", "error"))?;
    wait_for("wireguard-go", || {
        let shown = gateway.run(&["wg", "show", &device]);
        shown.is_ok()
    })?;
    gateway.run(&["wg", "set", &device, "private-key", &file, "listen-port", "51820"])?;
    gateway.run(&[
        "ip",
        "address",
        "add",
        &format!("{}/24", inside(1)),
        "dev",
        &device,
    ])?;
    gateway.run(&["ip", "link", "set", &device, "mtu", "1280", "up"])?;

    let port = free_port()?;
    let mut pangolin = gateway.command(sibling("pangolin-stand-in")?);
    pangolin.args([&format!("{}:{port}", address(2)), &device, public.trim()]);
    pangolin.args([&inside(1), &inside(2)]);
    pangolin.args([
        format!("{BULK}:127.0.0.1:{}", origin.bulk_port),
        format!("{HTTP}:127.0.0.1:{}", origin.http_port),
    ]);
    system.beside(&mut pangolin)?;
    let mut newt = Command::new(peer("newt")?);
    let endpoint = format!("http://{}:{port}", address(2));
    newt.args([
        "--endpoint",
        &endpoint,
        "--id",
        "bench",
        "--secret",
        "bench",
        "--log-level",
        "WARN",
    ]);
    newt.args([
        "--disable-clients",
        "--disable-ssh",
        "--config-file",
        &format!("{file}.newt"),
    ]);
    if !flags.is_empty() {
        newt.args(flags).args([
            "--interface-main",
            &format!("kkbn{number}y{}", std::process::id()),
        ]);
    }
    system.end(&mut newt)?;
    system.namespaces.push(gateway);
    Ok(system)
}
