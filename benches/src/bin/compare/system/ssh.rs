//! `ssh -R` with AES-128-GCM: what a person without any of this would use.

use std::process::Command;

use kakuremichi_benches::machine::{Scratch, Trouble, free_port, output, wait_for_port};

use super::{Origin, System};

/// What the system is called.
pub(crate) const NAME: &str = "ssh -R aes128-gcm";

/// An sshd of our own and a client that forwards two ports back to the services.
pub(super) fn start(origin: &Origin) -> Result<System, Trouble> {
    let mut system = System::new(NAME, free_port()?, free_port()?);
    let scratch = Scratch::new("ssh")?;
    let key = |name: &str| {
        let path = scratch.path().join(name);
        output(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path),
        )?;
        Ok::<_, Trouble>(path)
    };
    let (host_key, user_key) = (key("host")?, key("user")?);
    let port = free_port()?;
    let config = scratch.write(
        "sshd_config",
        &format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\n\
                 UsePAM no\nPermitRootLogin yes\nPidFile none\nAllowTcpForwarding yes\n",
            host_key.display(),
            user_key.display(),
        ),
    )?;
    // Debian's sshd wants this directory, which only its service makes.
    let _ = std::fs::create_dir_all("/run/sshd");
    system.scratch.push(scratch);
    system.end(Command::new("/usr/sbin/sshd").arg("-D").arg("-f").arg(&config))?;
    wait_for_port(port)?;
    let forward = |near: u16, far: u16| format!("127.0.0.1:{near}:127.0.0.1:{far}");
    let mut client = Command::new("ssh");
    client.args(["-N", "-F", "none", "-c", "aes128-gcm@openssh.com"]);
    let options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ExitOnForwardFailure=yes",
    ];
    for option in options {
        client.args(["-o", option]);
    }
    client.args(["-p", &port.to_string()]);
    client.args(["-R", &forward(system.bulk.port(), origin.bulk_port)]);
    client.args(["-R", &forward(system.http.port(), origin.http_port)]);
    client.arg("-i").arg(&user_key).arg("127.0.0.1");
    system.end(&mut client)?;
    Ok(system)
}
