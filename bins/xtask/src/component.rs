//! What the project needs besides the Rust toolchain and a C compiler.

use std::path::Path;
use std::{env, fs};

use crate::workspace;

/// Who needs a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The tests themselves.
    Tests,
    /// `cargo xtask check`.
    Checks,
    /// Only the benches that measure against something else.
    Benches,
}

/// Where a component comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// A Debian package.
    Apt(&'static str),
    /// A package on npm, with its version.
    Npm(&'static str),
    /// A program on crates.io.
    Cargo(&'static str),
    /// A program of PyPI, with its version.
    Pip(&'static str),
    /// A program on crates.io that is measured: as its authors build it, and apart from the tools.
    CargoPeer {
        package: &'static str,
        /// Its own lock file still builds.
        locked: bool,
    },
    /// A program of the Go module proxy that is measured, with its version.
    GoPeer(&'static str),
    /// A Go test binary of this directory of ours that is measured.
    GoTestPeer(&'static str),
}

/// Where peers are installed, from the root of the workspace.
pub(crate) const PEERS: &str = "target/peers";

/// The Python environment of what comes from PyPI, from the root of the workspace.
pub(crate) const PYTHON: &str = "target/python";

/// Where packages from npm are installed, from the root of the workspace.
pub(crate) const NPM: &str = "target/npm";

/// Something that is installed once.
#[derive(Debug)]
pub(crate) struct Component {
    /// What `--without` calls it.
    pub(crate) name: &'static str,
    /// Programs that must be found for it to count as present.
    pub(crate) programs: &'static [&'static str],
    pub(crate) source: Source,
    pub(crate) need: Need,
    /// What it is used for.
    pub(crate) purpose: &'static str,
}

/// Everything there is to install.
pub(crate) const ALL: &[Component] = &[
    Component {
        name: "iproute2",
        programs: &["ip"],
        source: Source::Apt("iproute2"),
        need: Need::Tests,
        purpose: "network namespaces: hosts with addresses of their own",
    },
    Component {
        name: "nftables",
        programs: &["nft"],
        source: Source::Apt("nftables"),
        need: Need::Tests,
        purpose: "the NAT that agents stand behind",
    },
    Component {
        name: "wireguard-go",
        programs: &["wireguard-go"],
        source: Source::Apt("wireguard-go"),
        need: Need::Tests,
        purpose: "a stock WireGuard device",
    },
    Component {
        name: "wireguard-tools",
        programs: &["wg"],
        source: Source::Apt("wireguard-tools"),
        need: Need::Tests,
        purpose: "configures the stock WireGuard device",
    },
    Component {
        name: "aiosmtpd",
        programs: &["aiosmtpd"],
        source: Source::Apt("python3-aiosmtpd"),
        need: Need::Tests,
        purpose: "a mail server that keeps what it gets",
    },
    Component {
        name: "chromium",
        programs: &["chromium"],
        source: Source::Apt("chromium"),
        need: Need::Tests,
        purpose: "a browser, with an authenticator for passkeys",
    },
    Component {
        name: "libnss3-tools",
        programs: &["certutil"],
        source: Source::Apt("libnss3-tools"),
        need: Need::Tests,
        purpose: "has the browser trust the authorities of the tests",
    },
    Component {
        name: "postgresql",
        programs: &["postgres"],
        source: Source::Apt("postgresql"),
        need: Need::Tests,
        purpose: "a PostgreSQL server for the store",
    },
    Component {
        name: "schemathesis",
        programs: &["schemathesis"],
        source: Source::Pip("schemathesis==4.32.5"),
        need: Need::Tests,
        purpose: "asks the REST API whether it does what its document says",
    },
    Component {
        name: "nodejs",
        programs: &["node"],
        source: Source::Apt("nodejs"),
        need: Need::Tests,
        purpose: "runs what comes from npm",
    },
    Component {
        name: "npm",
        programs: &["npm"],
        source: Source::Apt("npm"),
        need: Need::Tests,
        purpose: "installs what comes from npm",
    },
    // The newest that Debian 12's Node runs.
    Component {
        name: "oidc-provider",
        programs: &["oidc-provider/package.json"],
        source: Source::Npm("oidc-provider@8"),
        need: Need::Tests,
        purpose: "an OpenID Connect provider",
    },
    Component {
        name: "oauth2-server",
        programs: &["@node-oauth/oauth2-server/package.json"],
        source: Source::Npm("@node-oauth/oauth2-server@5"),
        need: Need::Tests,
        purpose: "an OAuth 2.0 server that is no OpenID Connect provider",
    },
    Component {
        name: "cargo-deny",
        programs: &["cargo-deny"],
        source: Source::Cargo("cargo-deny"),
        need: Need::Checks,
        purpose: "licences, banned crates and sources",
    },
    Component {
        name: "iperf3",
        programs: &["iperf3"],
        source: Source::Apt("iperf3"),
        need: Need::Benches,
        purpose: "bulk throughput",
    },
    Component {
        name: "nginx",
        programs: &["nginx"],
        source: Source::Apt("nginx"),
        need: Need::Benches,
        purpose: "the service that requests go to",
    },
    Component {
        name: "nginx-stream",
        programs: &["/usr/lib/nginx/modules/ngx_stream_module.so"],
        source: Source::Apt("libnginx-mod-stream"),
        need: Need::Benches,
        purpose: "one plain hop",
    },
    Component {
        name: "haproxy",
        programs: &["haproxy"],
        source: Source::Apt("haproxy"),
        need: Need::Benches,
        purpose: "one plain hop",
    },
    Component {
        name: "openssl",
        programs: &["openssl"],
        source: Source::Apt("openssl"),
        need: Need::Benches,
        purpose: "a certificate for rathole",
    },
    Component {
        name: "libssl-dev",
        programs: &["/usr/include/openssl/ssl.h"],
        source: Source::Apt("libssl-dev"),
        need: Need::Benches,
        purpose: "what rathole is built with",
    },
    Component {
        name: "pkg-config",
        programs: &["pkg-config"],
        source: Source::Apt("pkg-config"),
        need: Need::Benches,
        purpose: "finds what rathole is built with",
    },
    Component {
        name: "rathole",
        programs: &["rathole"],
        // Its lock file names a release of `time` that today's compiler refuses.
        source: Source::CargoPeer {
            package: "rathole",
            locked: false,
        },
        need: Need::Benches,
        purpose: "a peer",
    },
    Component {
        name: "bore",
        programs: &["bore"],
        source: Source::CargoPeer {
            package: "bore-cli",
            locked: true,
        },
        need: Need::Benches,
        purpose: "a peer",
    },
    Component {
        name: "dumbpipe",
        programs: &["dumbpipe"],
        source: Source::CargoPeer {
            package: "dumbpipe",
            locked: true,
        },
        need: Need::Benches,
        purpose: "a peer",
    },
    Component {
        name: "newt",
        programs: &["newt"],
        source: Source::GoPeer("github.com/fosrl/newt@latest"),
        need: Need::Benches,
        purpose: "a peer",
    },
    Component {
        name: "tsnet",
        programs: &["tsnet"],
        source: Source::GoTestPeer("benches/compare/tsnet"),
        need: Need::Benches,
        purpose: "a peer",
    },
    Component {
        name: "openssh-client",
        programs: &["ssh", "ssh-keygen"],
        source: Source::Apt("openssh-client"),
        need: Need::Benches,
        purpose: "ssh -R, the tunnel that everybody has",
    },
    Component {
        name: "openssh-server",
        programs: &["sshd"],
        source: Source::Apt("openssh-server"),
        need: Need::Benches,
        purpose: "the other end of ssh -R",
    },
    Component {
        name: "wrk",
        programs: &["wrk"],
        source: Source::Apt("wrk"),
        need: Need::Benches,
        purpose: "requests per second",
    },
];

impl Component {
    /// True when all its programs are there.
    pub(crate) fn present(&self) -> bool {
        self.programs.iter().all(|program| found(program))
    }
}

/// Looks through PATH, through the directories of administrators and of PostgreSQL's programs, which are not
/// always in it, and among what is installed for this workspace only. A whole path is found where it says.
fn found(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    let own = [PEERS, PYTHON].map(|directory| workspace::root().join(directory).join("bin"));
    let modules = workspace::root().join(NPM).join("node_modules");
    let postgresql = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let postgresql = postgresql.flatten().map(|release| release.path().join("bin"));
    env::split_paths(&path)
        .chain(sbin)
        .chain(postgresql)
        .chain(own)
        .chain([modules])
        .any(|directory| is_file(&directory, program))
}

fn is_file(directory: &Path, program: &str) -> bool {
    directory.join(program).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_path_is_found() {
        assert!(found("cargo"));
        assert!(!found("no-such-program"));
    }
}
