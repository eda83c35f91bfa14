//! Those that encrypt nothing: no system at all, one hop, two hops, and bore.

use std::process::Command;

use kakuremichi_benches::machine::{Scratch, Trouble, free_port, peer, sibling, wait_for_port};

use super::{Origin, System, origin};

pub(super) const DIRECT: &str = "direct";
pub(super) const NGINX: &str = "nginx stream, one hop";
pub(super) const HAPROXY: &str = "haproxy, one hop";
pub(crate) const TWO_HOPS: &str = "two plain hops";
pub(super) const BORE: &str = "bore";

/// No system at all.
pub(super) fn direct(origin: &Origin) -> Result<System, Trouble> {
    Ok(System::new(DIRECT, origin.bulk_port, origin.http_port))
}

/// nginx copying TCP: one hop.
pub(super) fn nginx(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(NGINX, free_port()?, free_port()?);
    let scratch = Scratch::new("nginx")?;
    let at = scratch.path().display();
    let server = |near: u16, far: u16| {
        format!("server {{ listen 127.0.0.1:{near} backlog=4096; proxy_pass 127.0.0.1:{far}; }}\n")
    };
    let config = scratch.write(
        "nginx.conf",
        &format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; user root; worker_processes 2; worker_rlimit_nofile 20000; pid {at}/pid;\n\
             error_log {at}/error.log;\n\
             events {{ worker_connections 19000; }}\n\
             stream {{ {}{} }}\n",
            server(system.bulk.port(), origin.bulk_port),
            server(system.http.port(), origin.http_port),
        ),
    )?;
    system.scratch.push(scratch);
    system.end(&mut origin::nginx(&config))?;
    wait_for_port(system.http.port())?;
    Ok(system)
}

/// haproxy copying TCP: one hop.
pub(super) fn haproxy(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(HAPROXY, free_port()?, free_port()?);
    let scratch = Scratch::new("haproxy")?;
    let listen = |name: &str, near: u16, far: u16| {
        format!("listen {name}\n  bind 127.0.0.1:{near} backlog 4096\n  server origin 127.0.0.1:{far}\n")
    };
    let config = scratch.write(
        "haproxy.cfg",
        &format!(
            "global\n  nbthread 2\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n\
             \x20 timeout server 10m\n{}{}",
            listen("bulk", system.bulk.port(), origin.bulk_port),
            listen("requests", system.http.port(), origin.http_port),
        ),
    )?;
    system.scratch.push(scratch);
    system.end(Command::new("/usr/sbin/haproxy").arg("-db").arg("-f").arg(config))?;
    wait_for_port(system.http.port())?;
    Ok(system)
}

/// Two plain TCP copies in a row: what a tunnel costs that does nothing.
pub(super) fn two_hops(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(TWO_HOPS, free_port()?, free_port()?);
    let (bulk, http) = (free_port()?, free_port()?);
    let hops = [
        [(system.bulk.port(), bulk), (system.http.port(), http)],
        [(bulk, origin.bulk_port), (http, origin.http_port)],
    ];
    for pairs in hops {
        let pairs = pairs.map(|(from, to)| format!("{from}:{to}"));
        system.end(Command::new(sibling("plain-copy")?).args(pairs))?;
    }
    Ok(system)
}

/// bore, whose server listens at one port always.
pub(super) fn bore(origin: &Origin) -> Result<System, Trouble> {
    const CONTROL: u16 = 7835;
    let mut system = System::new(BORE, free_port()?, free_port()?);
    system.scratch.push(Scratch::new("bore")?);
    let bore = || peer("bore").map(Command::new);
    system.end(bore()?.args(["server", "--min-port", "1024", "--bind-addr", "127.0.0.1"]))?;
    wait_for_port(CONTROL)?;
    let ports = [
        (system.bulk.port(), origin.bulk_port),
        (system.http.port(), origin.http_port),
    ];
    for (near, far) in ports {
        let (near, far) = (near.to_string(), far.to_string());
        system.end(bore()?.args(["local", &far, "--to", "127.0.0.1", "--port", &near]))?;
    }
    Ok(system)
}
