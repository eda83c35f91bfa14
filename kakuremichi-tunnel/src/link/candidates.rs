//! Where a node may be, by the endpoints that the plan has of it.

#![expect(clippy::disallowed_methods, reason = "names have to resolve within a time")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use futures_util::future::join_all;
use kakuremichi_core::net::Endpoint;
use tokio::time::timeout;

use super::dial::{self, DialError};

/// How long names have to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// What came of looking for a node.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// The addresses worth a try, best first, each once.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What was wrong with endpoints that gave none, as a person reads it.
    pub(crate) failures: Vec<String>,
}

/// Resolves the names of all endpoints anew, at the same time (LESSONS: "name resolved once"). What is not
/// routable from here is left out, so that a host without IPv6, or without IPv4, need not wait for what it
/// cannot reach; where nothing seems to be, everything stays, since a route may come.
pub(crate) async fn candidates(endpoints: &[Endpoint]) -> Candidates {
    let resolving = endpoints.iter().map(|endpoint| async move {
        let resolved = timeout(RESOLVE, dial::resolve(endpoint)).await;
        resolved.unwrap_or(Err(DialError::TimedOut))
    });
    let (mut addresses, mut failures) = (Vec::new(), Vec::new());
    for (endpoint, resolved) in endpoints.iter().zip(join_all(resolving).await) {
        match resolved {
            Ok(found) => {
                for address in found {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%endpoint, %error, "an endpoint cannot be resolved");
                failures.push(format!("{endpoint}: {error}"));
            }
        }
    }
    if addresses.iter().any(is_routable) {
        addresses.retain(is_routable);
    }
    Candidates { addresses, failures }
}

/// Whether the host has a way to an address. Nothing is sent to find out.
fn is_routable(address: &SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(address).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn each_address_is_there_once_and_in_order() {
        let found = candidates(&endpoints(&["127.0.0.1:9", "127.0.0.2:9", "127.0.0.1:9"])).await;
        let expected = ["127.0.0.1:9", "127.0.0.2:9"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(found.addresses, expected);
        assert!(found.failures.is_empty());
    }

    #[tokio::test]
    async fn what_does_not_resolve_is_told_and_hides_nothing() {
        // A name that no system resolves (RFC 6761, section 6.4).
        let found = candidates(&endpoints(&["nowhere.invalid:9", "127.0.0.1:9"])).await;
        assert_eq!(found.addresses, ["127.0.0.1:9".parse().unwrap()]);
        assert!(found.failures[0].starts_with("nowhere.invalid:9: "), "{found:?}");
    }

    /// The broadcast address cannot be connected to, whatever routes there are.
    #[tokio::test]
    async fn what_is_not_routable_is_left_out_unless_nothing_else_is_there() {
        let unreachable = "255.255.255.255:9";
        let found = candidates(&endpoints(&[unreachable, "127.0.0.1:9"])).await;
        assert_eq!(found.addresses, ["127.0.0.1:9".parse().unwrap()]);
        let found = candidates(&endpoints(&[unreachable])).await;
        assert_eq!(found.addresses, [unreachable.parse().unwrap()]);
    }
}
