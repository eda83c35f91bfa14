//! rathole, with each of its transports.

use std::process::Command;

use kakuremichi_benches::machine::{Scratch, Trouble, free_port, output, peer};

use super::{Origin, System};

pub(crate) const PLAIN: &str = "rathole plain";
pub(crate) const NOISE: &str = "rathole noise";
pub(crate) const TLS: &str = "rathole tls";

/// What protects the PKCS#12 file, which will not do without.
const PASSWORD: &str = "rathole";

/// Without encryption.
pub(super) fn plain(origin: &Origin) -> Result<System, Trouble> {
    start(origin, PLAIN, "plain", |_| {
        Ok(["type = \"tcp\"".to_owned(), "type = \"tcp\"".to_owned()])
    })
}

/// Noise with its default pattern: ChaCha20-Poly1305.
pub(super) fn noise(origin: &Origin) -> Result<System, Trouble> {
    start(origin, NOISE, "noise", |_| {
        // Base64 of 32 bytes, as it prints them.
        let keys = output(Command::new(peer("rathole")?).arg("--genkey"))?;
        let key = |line: &str| {
            let mut lines = keys.lines().skip_while(|text| !text.starts_with(line));
            lines.nth(1).unwrap_or_default().trim().to_owned()
        };
        let table =
            |field: &str, key: &str| format!("type = \"noise\"\n[ROLE.transport.noise]\n{field} = \"{key}\"");
        Ok([
            table("local_private_key", &key("Private Key")),
            table("remote_public_key", &key("Public Key")),
        ])
    })
}

/// TLS, by OpenSSL.
pub(super) fn tls(origin: &Origin) -> Result<System, Trouble> {
    start(origin, TLS, "tls", |scratch| {
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let (key, certificate, identity) = (at("key.pem"), at("certificate.pem"), at("identity.pfx"));
        output(Command::new("openssl").args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]))?;
        output(Command::new("openssl").args([
            "pkcs12",
            "-export",
            "-inkey",
            &key,
            "-in",
            &certificate,
            "-passout",
            &format!("pass:{PASSWORD}"),
            "-out",
            &identity,
        ]))?;
        Ok([
            format!(
                "type = \"tls\"\n[ROLE.transport.tls]\npkcs12 = \"{identity}\"\npkcs12_password = \"{PASSWORD}\""
            ),
            format!(
                "type = \"tls\"\n[ROLE.transport.tls]\ntrusted_root = \"{certificate}\"\nhostname = \"localhost\""
            ),
        ])
    })
}

/// A server and a client. `transports` gives what stands in the transport table of each.
fn start(
    origin: &Origin,
    name: &'static str,
    directory: &str,
    transports: impl FnOnce(&Scratch) -> Result<[String; 2], Trouble>,
) -> Result<System, Trouble> {
    let mut system = System::new(name, free_port()?, free_port()?);
    let scratch = Scratch::new(&format!("rathole-{directory}"))?;
    let control = free_port()?;
    let transports = transports(&scratch)?;
    let roles = [
        ("server", "bind_addr", system.bulk.port(), system.http.port()),
        ("client", "local_addr", origin.bulk_port, origin.http_port),
    ];
    let mut files = Vec::new();
    for ((role, field, bulk, http), transport) in roles.into_iter().zip(transports) {
        let main = if role == "server" {
            "bind_addr"
        } else {
            "remote_addr"
        };
        let transport = transport.replace("ROLE", role);
        let config = format!(
            "[{role}]\n{main} = \"127.0.0.1:{control}\"\ndefault_token = \"bench\"\n\
             [{role}.services.bulk]\n{field} = \"127.0.0.1:{bulk}\"\n\
             [{role}.services.requests]\n{field} = \"127.0.0.1:{http}\"\n\
             [{role}.transport]\n{transport}\n"
        );
        files.push((role, scratch.write(&format!("{role}.toml"), &config)?));
    }
    system.scratch.push(scratch);
    for (role, file) in files {
        system.end(Command::new(peer("rathole")?).arg(format!("--{role}")).arg(file))?;
    }
    Ok(system)
}
