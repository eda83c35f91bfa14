//! Hosts with addresses of their own: network namespaces on a common bridge.
//!
//! The addresses come from the ranges for documentation (RFC 5737, RFC 3849); no packet leaves the machine.

mod namespace;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

pub use namespace::Namespace;

use crate::component;
use crate::wait;

/// Which versions of IP a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv6 and IPv4.
    Both,
    /// IPv6 only.
    V6,
    /// IPv4 only; IPv6 is switched off in every namespace.
    V4,
}

impl Families {
    const fn has_v4(self) -> bool {
        matches!(self, Self::Both | Self::V4)
    }

    const fn has_v6(self) -> bool {
        matches!(self, Self::Both | Self::V6)
    }
}

/// What every test with a [`Network`] needs.
pub const COMPONENTS: [component::Component; 2] = [component::IPROUTE2, component::NFTABLES];

/// A network to which hosts are attached: a bridge in a namespace of its own.
#[derive(Debug)]
pub struct Network {
    bridge: Namespace,
    families: Families,
    hosts: AtomicU8,
}

/// A host on a [`Network`], removed when dropped. Drop its processes first.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    /// Between the network and a host behind NAT.
    router: Option<Namespace>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Network {
    /// A network without hosts. Needs [`COMPONENTS`] and root.
    ///
    /// # Panics
    ///
    /// The system refuses.
    #[must_use]
    pub fn new(families: Families) -> Self {
        let bridge = Namespace::new("net");
        let name = bridge.name();
        ip(&[
            "-netns",
            name,
            "link",
            "add",
            "net",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ]);
        ip(&["-netns", name, "link", "set", "net", "up"]);
        Self {
            bridge,
            families,
            hosts: AtomicU8::new(1),
        }
    }

    /// A host that everybody on the network can reach.
    ///
    /// # Panics
    ///
    /// The system refuses, or there are more than 250 hosts.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let namespace = self.namespace(name);
        let (v4, v6) = self.attach(&namespace);
        Host {
            namespace,
            router: None,
            v4,
            v6,
        }
    }

    /// A host behind a router of its own that translates addresses: its packets reach the network and their answers
    /// come back; nothing else gets in, and the network has no route to it.
    ///
    /// # Panics
    ///
    /// The system refuses, or there are more than 250 hosts.
    #[must_use]
    pub fn host_behind_nat(&self, name: &str) -> Host {
        let router = self.namespace(&format!("{name}-nat"));
        self.attach(&router);
        let namespace = self.namespace(name);
        let (inside, outside) = (namespace.name(), router.name());
        ip(&[
            "link", "add", "eth0", "netns", inside, "type", "veth", "peer", "name", "inside", "netns",
            outside,
        ]);
        ip(&["-netns", inside, "link", "set", "eth0", "up"]);
        ip(&["-netns", outside, "link", "set", "inside", "up"]);
        let mut host = Host {
            namespace: namespace.clone(),
            router: None,
            v4: None,
            v6: None,
        };
        if self.families.has_v4() {
            let (own, gateway) = (Ipv4Addr::new(192, 168, 77, 2), Ipv4Addr::new(192, 168, 77, 1));
            add_address(&namespace, "eth0", own.into(), 24);
            add_address(&router, "inside", gateway.into(), 24);
            ip(&[
                "-netns",
                inside,
                "route",
                "add",
                "default",
                "via",
                &gateway.to_string(),
            ]);
            router.sysctl("net/ipv4/ip_forward", "1");
            host.v4 = Some(own);
        }
        if self.families.has_v6() {
            let own = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
            let gateway = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
            add_address(&namespace, "eth0", own.into(), 64);
            add_address(&router, "inside", gateway.into(), 64);
            ip(&[
                "-netns",
                inside,
                "-6",
                "route",
                "add",
                "default",
                "via",
                &gateway.to_string(),
            ]);
            router.sysctl("net/ipv6/conf/all/forwarding", "1");
            host.v6 = Some(own);
        }
        router.nft(
            "table inet nat {
                chain leaving { type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }
                chain passing {
                    type filter hook forward priority filter; policy drop;
                    iifname \"inside\" accept
                    ct state established,related accept
                }
                chain entering {
                    type filter hook input priority filter; policy drop;
                    iifname { \"lo\", \"inside\" } accept
                    ct state established,related accept
                    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                }
            }",
        );
        host.router = Some(router);
        host
    }

    fn namespace(&self, name: &str) -> Namespace {
        let namespace = Namespace::new(name);
        if !self.families.has_v6() {
            namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        }
        namespace
    }

    /// Gives a namespace an `eth0` on this network and its addresses.
    fn attach(&self, namespace: &Namespace) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        assert!(number < 250, "too many hosts");
        let (here, bridge) = (namespace.name(), self.bridge.name());
        let port = format!("port{number}");
        ip(&[
            "link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", &port, "netns", bridge,
        ]);
        ip(&["-netns", bridge, "link", "set", &port, "master", "net", "up"]);
        ip(&["-netns", here, "link", "set", "eth0", "up"]);
        let v4 = self
            .families
            .has_v4()
            .then(|| Ipv4Addr::new(198, 51, 100, number));
        let v6 = self
            .families
            .has_v6()
            .then(|| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()));
        if let Some(address) = v4 {
            add_address(namespace, "eth0", address.into(), 24);
        }
        if let Some(address) = v6 {
            add_address(namespace, "eth0", address.into(), 64);
        }
        (v4, v6)
    }
}

impl Host {
    /// Its IPv6 address, or its IPv4 address where there is no other.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.v6
            .map(IpAddr::V6)
            .or_else(|| self.v4.map(IpAddr::V4))
            .unwrap()
    }

    /// [`Self::address`] with a port.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// Its IPv4 address, if the network has IPv4.
    #[must_use]
    pub const fn v4(&self) -> Option<Ipv4Addr> {
        self.v4
    }

    /// Its IPv6 address, if the network has IPv6.
    #[must_use]
    pub const fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }

    /// Its namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Makes the processes that are started in it from now on resolve these names, as `/etc/hosts` does.
    pub fn resolves(&self, names: &[(&str, IpAddr)]) {
        self.namespace.resolves(names);
    }

    /// Makes a TCP port of it a black hole: what is sent there is neither answered nor refused.
    ///
    /// # Panics
    ///
    /// The system refuses.
    pub fn swallows(&self, port: u16) {
        self.namespace.nft(&format!(
            "table inet hole_{port} {{
                chain swallowing {{ type filter hook input priority filter; tcp dport {port} drop; }}
            }}"
        ));
    }

    /// Makes the way to and from it a black hole for UDP, until [`Self::passes_udp`]: nothing is answered or
    /// refused.
    ///
    /// # Panics
    ///
    /// The system refuses.
    pub fn swallows_udp(&self) {
        self.namespace.nft(
            "table inet udp_hole {
                chain coming { type filter hook input priority filter; iifname != lo meta l4proto udp drop; }
                chain going { type filter hook output priority filter; oifname != lo meta l4proto udp drop; }
            }",
        );
    }

    /// Lets UDP through again.
    ///
    /// # Panics
    ///
    /// The system refuses, or UDP is not held up.
    pub fn passes_udp(&self) {
        self.namespace.nft("delete table inet udp_hole");
    }

    /// Makes the way to and from another host a black hole, until [`Self::finds`]: nothing is answered or refused.
    ///
    /// # Panics
    ///
    /// The system refuses, or a host is lost already.
    pub fn loses(&self, other: &Self) {
        let either = |ip: Option<String>, ip6: Option<String>| {
            let rule = |family: &str, address: Option<String>| {
                address.map_or_else(String::new, |address| format!("{family} {address} drop;"))
            };
            format!("{} {}", rule("ip", ip), rule("ip6", ip6))
        };
        let named = |word: &str| {
            let (v4, v6) = (other.v4, other.v6);
            either(
                v4.map(|address| format!("{word} {address}")),
                v6.map(|address| format!("{word} {address}")),
            )
        };
        self.namespace.nft(&format!(
            "table inet lost {{
                chain coming {{ type filter hook input priority filter; {} }}
                chain going {{ type filter hook output priority filter; {} }}
            }}",
            named("saddr"),
            named("daddr"),
        ));
    }

    /// Lets everything through again to and from a host that it [lost](Self::loses).
    ///
    /// # Panics
    ///
    /// The system refuses, or no host is lost.
    pub fn finds(&self) {
        self.namespace.nft("delete table inet lost");
    }

    /// Makes the way between its router and the network, and the router and it, narrower: packets longer than `mtu`
    /// bytes vanish, and nobody is told.
    ///
    /// # Panics
    ///
    /// The system refuses, or the host is not behind NAT.
    pub fn narrows(&self, mtu: u16) {
        let router = self.router.as_ref().expect("a host behind NAT");
        router.nft(
            "table inet silent {
                chain telling {
                    type filter hook output priority filter;
                    icmp type destination-unreachable drop
                    icmpv6 type packet-too-big drop
                }
            }",
        );
        for link in ["inside", "eth0"] {
            let mtu = mtu.to_string();
            ip(&["-netns", router.name(), "link", "set", link, "mtu", &mtu]);
        }
    }

    /// Lets nothing leave it but TCP to this port, and what stays on it.
    ///
    /// # Panics
    ///
    /// The system refuses.
    pub fn leaves_only_to(&self, port: u16) {
        self.namespace.nft(&format!(
            "table inet cage {{
                chain leaving {{
                    type filter hook output priority filter; policy drop;
                    oifname \"lo\" accept
                    tcp dport {port} accept
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                }}
            }}"
        ));
    }

    /// A program that will run on this host, as root.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        self.namespace.command(program)
    }

    /// Does something asynchronous on this host, on a thread of its own with a runtime of its own. Every socket that
    /// it opens is the host's.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.namespace.block_on(work)
    }
}

fn add_address(namespace: &Namespace, interface: &str, address: IpAddr, prefix: u8) {
    let cidr = format!("{address}/{prefix}");
    let mut words = vec![
        "-netns",
        namespace.name(),
        "address",
        "add",
        &cidr,
        "dev",
        interface,
    ];
    if address.is_ipv6() {
        // Nobody else has it; without this it could not be used for a second.
        words.push("nodad");
    }
    ip(&words);
    // The system takes an IPv6 address into use a little after it was added.
    wait::until("an address that is in use", || {
        let path = component::path("ip").expect("iproute2 is there");
        let route = ["-netns", namespace.name(), "route", "get", &address.to_string()];
        let shown = Command::new(path).args(route).output().ok()?;
        shown.stdout.starts_with(b"local ").then_some(())
    });
}

/// Runs `ip`.
fn ip(words: &[&str]) {
    run(Command::new(component::path("ip").expect("iproute2 is there")).args(words));
}

/// Runs a program that must succeed.
fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {errors} (network namespaces need root)",
        output.status
    );
}
