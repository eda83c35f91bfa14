//! `ssh -R` with AES-128-GCM: what a person without any of this would use.

use std::process::Command;

use kakuremichi_benches::machine::{
    Process, Scratch, Trouble, cpu_seconds, free_port, output, wait_for_port,
};

use super::{Origin, Parts, System};

/// What the system is called.
pub(crate) const NAME: &str = "ssh -R aes128-gcm";

/// An sshd of our own, and a client of it.
#[derive(Debug)]
pub(super) struct Ssh {
    server: Process,
    client: Process,
    _scratch: Scratch,
}

impl System {
    /// An sshd of our own and a client that forwards two ports back to the services.
    pub(crate) fn ssh(origin: &Origin) -> Result<Self, Trouble> {
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
        let server = Process::start(
            Command::new("/usr/sbin/sshd").arg("-D").arg("-f").arg(&config),
            None,
        )?;
        wait_for_port(port)?;
        let (bulk_port, http_port) = (free_port()?, free_port()?);
        let forward = |near: u16, far: u16| format!("127.0.0.1:{near}:127.0.0.1:{far}");
        let client = Process::start(
            Command::new("ssh")
                .args(["-N", "-F", "none", "-c", "aes128-gcm@openssh.com"])
                .args([
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                ])
                .args(["-o", "ExitOnForwardFailure=yes", "-p", &port.to_string()])
                .args(["-R", &forward(bulk_port, origin.bulk_port)])
                .args(["-R", &forward(http_port, origin.http_port)])
                .arg("-i")
                .arg(&user_key)
                .arg("127.0.0.1"),
            None,
        )?;
        Ok(Self {
            name: NAME,
            bulk_port,
            http_port,
            parts: Parts::Ssh(Ssh {
                server,
                client,
                _scratch: scratch,
            }),
        })
    }
}

impl Ssh {
    /// Seconds of processor time of the client, the server and the processes that the server split off
    /// for the session.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let mut found = vec![self.client.id(), self.server.id()];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        found.into_iter().map(cpu_seconds).sum()
    }
}
