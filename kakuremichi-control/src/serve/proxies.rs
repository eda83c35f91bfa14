//! Where a request comes from when reverse proxies stand in front.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use kakuremichi_core::net::Cidr;

/// The header in which each proxy appends the address that it was reached from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Whether a peer is one of the proxies whose word counts. An IPv4-mapped address is that IPv4 address.
pub(super) fn is_trusted(proxies: &[Cidr], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    proxies.iter().any(|network| network.contains(peer))
}

/// Where a request comes from. Only a trusted proxy is believed, and each proxy only about the address that
/// it was reached from: it is the last address in `X-Forwarded-For` that is no trusted proxy's. What stands
/// before that one is a visitor's claim.
pub(super) fn client_address(peer: SocketAddr, proxies: &[Cidr], headers: &HeaderMap) -> SocketAddr {
    if !is_trusted(proxies, peer.ip()) {
        return peer;
    }
    let mut client = peer;
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let texts = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    for text in texts {
        // What no proxy could have written ends what can be believed.
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            break;
        };
        client = SocketAddr::new(address.to_canonical(), 0);
        if !is_trusted(proxies, address) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, proxies: &[&str], forwarded: &[&str]) -> String {
        let proxies: Vec<Cidr> = proxies.iter().map(|text| text.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for text in forwarded {
            headers.append(FORWARDED_FOR, text.parse().unwrap());
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 1000);
        client_address(peer, &proxies, &headers).ip().to_string()
    }

    /// LESSONS, advisory 4: forwarded headers count only from listed peers, and the default list is empty.
    #[test]
    fn advisory_4_a_forwarded_address_counts_only_from_a_listed_peer() {
        let claimed = ["203.0.113.9, 198.51.100.7"];
        assert_eq!(client("192.0.2.1", &[], &claimed), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &["192.0.2.2/32"], &claimed), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &["192.0.2.0/24"], &claimed), "198.51.100.7");
        assert_eq!(
            client("::ffff:127.0.0.1", &["127.0.0.0/8"], &claimed),
            "198.51.100.7"
        );
        assert_eq!(client("192.0.2.1", &["192.0.2.0/24"], &[]), "192.0.2.1");
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_clients() {
        let proxies = ["192.0.2.0/24", "2001:db8::/32"];
        let chain = ["203.0.113.9", "198.51.100.7, 2001:db8::5", " 192.0.2.7"];
        assert_eq!(client("192.0.2.1", &proxies, &chain), "198.51.100.7");
        // Nothing but proxies: the one that is farthest away.
        assert_eq!(
            client("192.0.2.1", &proxies, &["192.0.2.8, 192.0.2.7"]),
            "192.0.2.8"
        );
        // Nobody is believed about what lies behind nonsense.
        assert_eq!(
            client("192.0.2.1", &proxies, &["203.0.113.9, unknown, 192.0.2.7"]),
            "192.0.2.7"
        );
        assert_eq!(client("192.0.2.1", &proxies, &["unknown"]), "192.0.2.1");
    }
}
