//! Programs that tests need and that are not ours; `cargo xtask setup` installs them.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::{env, fs};

/// Names of components to do without, separated by commas; set by `cargo xtask test --without NAME`.
pub const WITHOUT: &str = "KAKUREMICHI_TEST_WITHOUT";

/// Where `cargo xtask setup` puts programs of PyPI.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python/bin");

/// A component: what `--without` calls it, and the program that must be there.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    name: &'static str,
    program: &'static str,
}

/// Network namespaces.
pub const IPROUTE2: Component = Component {
    name: "iproute2",
    program: "ip",
};
/// The NAT before an agent.
pub const NFTABLES: Component = Component {
    name: "nftables",
    program: "nft",
};
/// A stock WireGuard device.
pub const WIREGUARD_GO: Component = Component {
    name: "wireguard-go",
    program: "wireguard-go",
};
/// What configures it.
pub const WIREGUARD_TOOLS: Component = Component {
    name: "wireguard-tools",
    program: "wg",
};

/// A browser.
pub const CHROMIUM: Component = Component {
    name: "chromium",
    program: "chromium",
};
/// Has the browser trust a certificate authority.
pub const NSS_TOOLS: Component = Component {
    name: "libnss3-tools",
    program: "certutil",
};
/// A mail server that keeps what it gets.
pub const AIOSMTPD: Component = Component {
    name: "aiosmtpd",
    program: "aiosmtpd",
};
/// What runs programs from npm.
pub const NODE: Component = Component {
    name: "nodejs",
    program: "node",
};
/// An OpenID Connect provider, from npm.
pub const OIDC_PROVIDER: Component = Component {
    name: "oidc-provider",
    program: "oidc-provider/package.json",
};
/// An OAuth 2.0 server that is no OpenID Connect provider, from npm.
pub const OAUTH2_SERVER: Component = Component {
    name: "oauth2-server",
    program: "@node-oauth/oauth2-server/package.json",
};
/// A PostgreSQL server, which Debian keeps out of PATH.
pub const POSTGRESQL: Component = Component {
    name: "postgresql",
    program: "postgres",
};

/// Asks an API whether it does what its document says.
pub const SCHEMATHESIS: Component = Component {
    name: "schemathesis",
    program: "schemathesis",
};

/// True when a test can have all of these; false when it was asked to do without one, which is said on stderr: then
/// the test returns at once.
///
/// # Panics
///
/// One is missing and nobody asked to do without it.
#[must_use]
pub fn have(components: &[Component]) -> bool {
    let without = env::var(WITHOUT).unwrap_or_default();
    for component in components {
        let Component { name, program } = component;
        if without.split(',').any(|left_out| left_out == *name) {
            eprintln!("left out: this test needs {name}");
            return false;
        }
        assert!(
            path(program).is_some(),
            "{name} is missing: `cargo xtask setup` installs it, {WITHOUT}={name} does without"
        );
    }
    true
}

/// Where a program is. Directories of administrators, and of PostgreSQL's programs, count, though they are not
/// always in PATH.
#[must_use]
pub fn path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(sbin)
        .chain(postgresql())
        .chain([PathBuf::from(PYTHON), node_modules()])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Where what comes from npm is.
#[must_use]
pub fn node_modules() -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    PathBuf::from(root).join("target/npm/node_modules")
}

/// The directories of the PostgreSQL releases that are installed, the newest first.
fn postgresql() -> Vec<PathBuf> {
    let releases = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut releases: Vec<(u32, PathBuf)> = releases
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    releases.sort_by_key(|(release, _)| Reverse(*release));
    releases.into_iter().map(|(_, directory)| directory).collect()
}
