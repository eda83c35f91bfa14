//! wireguard-go: a WireGuard device that is not ours.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::component::{self, Component};
use crate::net::Host;
use crate::process::{Process, Program};
use crate::wait;

/// What a [`StockPeer`] needs besides a network.
pub const COMPONENTS: [Component; 2] = [component::WIREGUARD_GO, component::WIREGUARD_TOOLS];

/// A stock WireGuard device on a host; it ends when dropped.
#[derive(Debug)]
pub struct StockPeer<'a> {
    host: &'a Host,
    process: Process,
    interface: String,
    socket: PathBuf,
    public_key: String,
}

/// The other end of a [`StockPeer`].
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its public key, in base64.
    pub public_key: &'a str,
    /// Where it listens; `None` when it is to come by itself.
    pub endpoint: Option<SocketAddr>,
    /// What may come from it and is sent to it, such as `fd00::/64`.
    pub allowed: &'a [String],
    /// Seconds between keepalives; 0 for none.
    pub keepalive: u16,
}

impl<'a> StockPeer<'a> {
    /// Starts a device with a new key that listens on `port` and has these addresses, such as `fd00::2/64`.
    ///
    /// # Panics
    ///
    /// A component is missing, or the system refuses.
    #[must_use]
    pub fn start(host: &'a Host, port: u16, addresses: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Its control socket is named after it, in a directory that namespaces share. At most 15 bytes.
        let interface = format!("kw{:x}-{number:x}", std::process::id());
        let program = component::path("wireguard-go").expect("wireguard-go is there");
        let program = Program::other(program).args(["-f", &interface]).on(host);
        let process = program
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
            .start();
        let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
        wait::until("the device's control socket", || socket.exists().then_some(()));
        let private_key = wg(&["genkey"], "");
        let public_key = wg(&["pubkey"], &private_key);
        let key = tempfile::NamedTempFile::new().unwrap();
        fs::write(key.path(), &private_key).unwrap();
        let peer = Self {
            host,
            process,
            interface,
            socket,
            public_key,
        };
        peer.run("wg", &["set", &peer.interface, "listen-port", &port.to_string()]);
        peer.run(
            "wg",
            &[
                "set",
                &peer.interface,
                "private-key",
                &key.path().display().to_string(),
            ],
        );
        for address in addresses {
            peer.address(address);
        }
        peer.run("ip", &["link", "set", &peer.interface, "mtu", "1420", "up"]);
        peer
    }

    /// Its public key, in base64.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Gives the device one more address, such as `fd00::2/64`.
    ///
    /// # Panics
    ///
    /// The system refuses.
    pub fn address(&self, address: &str) {
        let mut words = vec!["address", "add", address, "dev", &self.interface];
        if address.contains("::") || address.matches(':').count() > 1 {
            // Nobody else has it; without this it could not be used for a second.
            words.push("nodad");
        }
        self.run("ip", &words);
    }

    /// Adds or changes a peer, and routes what is allowed to it.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn peer(&self, peer: &Peer<'_>) {
        let allowed = peer.allowed.join(",");
        let keepalive = peer.keepalive.to_string();
        let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
        let mut words = vec![
            "set",
            &self.interface,
            "peer",
            peer.public_key,
            "allowed-ips",
            &allowed,
        ];
        words.extend(["persistent-keepalive", &keepalive]);
        if let Some(endpoint) = &endpoint {
            words.extend(["endpoint", endpoint]);
        }
        self.run("wg", &words);
        for network in peer.allowed {
            self.run("ip", &["route", "replace", network, "dev", &self.interface]);
        }
    }

    /// Removes a peer.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn forget(&self, public_key: &str) {
        self.run("wg", &["set", &self.interface, "peer", public_key, "remove"]);
    }

    /// Waits for a handshake with a peer.
    ///
    /// # Panics
    ///
    /// None comes within [`wait::PATIENCE`].
    #[track_caller]
    pub fn handshake(&self, public_key: &str) {
        wait::until("a WireGuard handshake", || {
            let handshakes = self.run("wg", &["show", &self.interface, "latest-handshakes"]);
            let mut fields = handshakes.lines().filter_map(|line| line.split_once('\t'));
            fields
                .any(|(key, time)| key == public_key && time != "0")
                .then_some(())
        });
    }

    /// The device's process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    fn run(&self, program: &str, words: &[&str]) -> String {
        let path = component::path(program).unwrap_or_else(|| panic!("{program} is missing"));
        let output = self.host.command(&path).args(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {words:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for StockPeer<'_> {
    fn drop(&mut self) {
        self.process.kill();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Runs `wg` with something on its standard input, and trims what it prints.
fn wg(words: &[&str], input: &str) -> String {
    let mut command = Command::new(component::path("wg").expect("wireguard-tools is there"));
    let mut child = command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "wg {words:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
