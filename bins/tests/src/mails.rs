//! A mail server that keeps what it gets.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use crate::component;
use crate::net::Host;
use crate::process::{Process, Program};
use crate::wait;

/// A mail server on a host. It ends when dropped.
#[derive(Debug)]
pub struct Mails {
    directory: PathBuf,
    _server: Process,
}

/// A mail that it got.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Where it is kept; another one for each.
    pub path: PathBuf,
    /// All of it, with the lines as they were before they were cut for the way.
    pub text: String,
}

impl Mails {
    /// Where it listens, on its host only.
    pub const ADDRESS: &str = "127.0.0.1:2525";

    /// Starts one that keeps mails in a directory of its own.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start(host: &Host, directory: &Path) -> Self {
        let server = Program::other(component::path("aiosmtpd").unwrap()).on(host);
        let server = server.args(["-n", "-l", Self::ADDRESS, "-c", "aiosmtpd.handlers.Mailbox"]);
        let server = server.arg(directory).start();
        wait::until("the mail server", || {
            host.block_on(async || TcpStream::connect(Self::ADDRESS).ok())
        });
        Self {
            directory: directory.to_owned(),
            _server: server,
        }
    }

    /// What it got, in no order.
    ///
    /// # Panics
    ///
    /// One cannot be read.
    #[must_use]
    pub fn all(&self) -> Vec<Mail> {
        // There is none before the first one.
        let Ok(kept) = fs::read_dir(self.directory.join("new")) else {
            return Vec::new();
        };
        let mails = kept.flatten().map(|entry| {
            // Long lines are cut, in quoted-printable (RFC 2045, section 6.7).
            let text = fs::read_to_string(entry.path()).unwrap();
            Mail {
                path: entry.path(),
                text: text.replace("=\n", "").replace("=3D", "="),
            }
        });
        mails.collect()
    }
}
