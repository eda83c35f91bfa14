//! The services behind every system.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use kakuremichi_benches::machine::{Process, Scratch, Trouble, free_port, wait_for_port};

/// Bytes that are sent through each system and back before anything is measured.
const SAMPLE: usize = 8 * 1024 * 1024;

/// An iperf3 server, and nginx with a file of 1 KB, which also keeps what it is sent.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) bulk_port: u16,
    pub(crate) http_port: u16,
    sample: PathBuf,
    _processes: [Process; 2],
    _scratch: Scratch,
}

impl Origin {
    pub(crate) fn start() -> Result<Self, Trouble> {
        let scratch = Scratch::new("origin")?;
        let (bulk_port, http_port) = (free_port()?, free_port()?);
        // Some systems reach it from a namespace of their own.
        let iperf3 = Process::start(
            Command::new("iperf3").args(["-s", "-p", &bulk_port.to_string()]),
            None,
        )?;
        let at = scratch.path().display();
        scratch.write("index.html", &"k".repeat(1024))?;
        let sample = scratch.path().join("sample");
        std::fs::write(&sample, noise(SAMPLE)).map_err(Trouble::io("a sample"))?;
        let config = scratch.write(
            "nginx.conf",
            &format!(
                "daemon off; user root; worker_processes 1; worker_rlimit_nofile 20000; pid {at}/pid;\n\
                 error_log {at}/error.log;\n\
                 events {{ worker_connections 19000; }}\n\
                 http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600;\n\
                 client_max_body_size 1g; client_body_temp_path {at}/body;\n\
                 proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi;\n\
                 scgi_temp_path {at}/scgi;\n\
                 server {{ listen {http_port} backlog=4096; root {at}; dav_methods PUT; }} }}\n"
            ),
        )?;
        let nginx = Process::start(&mut nginx(&config), None)?;
        wait_for_port(http_port)?;
        Ok(Self {
            bulk_port,
            http_port,
            sample,
            _processes: [iperf3, nginx],
            _scratch: scratch,
        })
    }

    /// A file of bytes that look random.
    pub(crate) fn sample(&self) -> &Path {
        &self.sample
    }
}

/// nginx with a configuration of its own.
pub(super) fn nginx(config: &Path) -> Command {
    // Debian has it where only administrators look.
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut nginx = Command::new("nginx");
    nginx.env("PATH", path).arg("-c").arg(config);
    nginx
}

/// Bytes in which no block is like another (xorshift64).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(count).collect()
}
