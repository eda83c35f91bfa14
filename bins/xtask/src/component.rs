//! What the project needs besides the Rust toolchain and a C compiler.

use std::env;
use std::path::Path;

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
    /// A program on crates.io.
    Cargo(&'static str),
}

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

/// Looks through PATH, and through the directories of administrators, which are not always in it.
fn found(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    env::split_paths(&path)
        .chain(sbin)
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
