//! Those that end TLS, read HTTP, and pass it on to the origin in the clear over connections that they keep: one hop.
//! Bulk goes through the same process as TCP.

use std::{io, path::PathBuf, process::Command};

use kakuremichi_benches::machine::{Scratch, Trouble, free_port, wait_for_port};

use super::{HOST, Origin, System, origin};

pub(super) const NGINX: &str = "nginx HTTP, one hop";
pub(super) const HAPROXY: &str = "haproxy HTTP, one hop";

/// nginx as a reverse proxy.
pub(super) fn nginx(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(NGINX, free_port()?, free_port()?);
    let scratch = Scratch::new("nginx-http")?;
    let identity = identity(&scratch, &mut system)?;
    let (at, identity) = (scratch.path().display(), identity.display());
    let config = scratch.write(
        "nginx.conf",
        &format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; user root; worker_processes 2; worker_rlimit_nofile 20000; pid {at}/pid;\n\
             error_log {at}/error.log;\n\
             events {{ worker_connections 19000; }}\n\
             stream {{ server {{ listen {bulk} backlog=4096; proxy_pass 127.0.0.1:{bulk_origin}; }} }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600;\n\
             client_max_body_size 1g; client_body_temp_path {at}/body;\n\
             proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi;\n\
             scgi_temp_path {at}/scgi;\n\
             upstream origin {{ server 127.0.0.1:{http_origin}; keepalive 256; keepalive_requests 1000000000; \
             keepalive_timeout 600; }}\n\
             server {{ listen {http} ssl backlog=4096; ssl_certificate {identity}; ssl_certificate_key {identity};\n\
             location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
            bulk = system.bulk,
            http = system.http,
            bulk_origin = origin.bulk_port,
            http_origin = origin.http_port,
        ),
    )?;
    system.scratch.push(scratch);
    system.end(&mut origin::nginx(&config))?;
    wait_for_port(system.http.port())?;
    Ok(system)
}

/// haproxy in its HTTP mode.
pub(super) fn haproxy(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(HAPROXY, free_port()?, free_port()?);
    let scratch = Scratch::new("haproxy-http")?;
    let identity = identity(&scratch, &mut system)?;
    let config = scratch.write(
        "haproxy.cfg",
        &format!(
            "global\n  nbthread 2\n  maxconn 9000\ndefaults\n  timeout connect 5s\n  timeout client 10m\n\
             \x20 timeout server 10m\n\
             listen bulk\n  mode tcp\n  bind {bulk} backlog 4096\n  server origin 127.0.0.1:{bulk_origin}\n\
             listen requests\n  mode http\n  bind {http} ssl crt {identity} backlog 4096\n\
             \x20 server origin 127.0.0.1:{http_origin}\n",
            identity = identity.display(),
            bulk = system.bulk,
            http = system.http,
            bulk_origin = origin.bulk_port,
            http_origin = origin.http_port,
        ),
    )?;
    system.scratch.push(scratch);
    system.end(Command::new("/usr/sbin/haproxy").arg("-db").arg("-f").arg(config))?;
    wait_for_port(system.http.port())?;
    Ok(system)
}

/// A certificate with its key in one file, and its visitors' trust in it.
fn identity(scratch: &Scratch, system: &mut System) -> Result<PathBuf, Trouble> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]);
    // The same kind of key as the gateway's own authority has: ECDSA with P-256.
    let made = made.map_err(|error| Trouble::io("a certificate")(io::Error::other(error)))?;
    let certificate = made.cert.pem();
    system.trusted = Some(scratch.write("trusted.pem", &certificate)?);
    scratch.write("identity.pem", &(certificate + &made.signing_key.serialize_pem()))
}
