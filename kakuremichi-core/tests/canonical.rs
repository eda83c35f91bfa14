//! Properties of what is canonical: whatever a visitor or a person sends, it has one spelling, and
//! reading that spelling again changes nothing.

use kakuremichi_core::{
    id::ServiceId,
    name::{HostPattern, Hostname, PathPattern},
    net::{Cidr, Endpoint, PortRange},
    request::CanonicalRequest,
};
use proptest::prelude::*;

fn request(authority: &str, target: &str) -> Option<CanonicalRequest> {
    CanonicalRequest::parse("GET", authority, target).ok()
}

proptest! {
    /// LESSONS, advisory 1: parse once. Parsing what was forwarded gives the same request.
    #[test]
    fn forwarding_is_idempotent(path in "/[a-zA-Z0-9%/.~!$&'()*+,;=:@_-]{0,40}", query in proptest::option::of("[ -~]{0,20}")) {
        let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        if let Some(first) = request("h.example", &target) {
            prop_assert_eq!(request("h.example", &first.target()), Some(first));
        }
    }

    /// LESSONS, advisory 1: no canonical path holds what servers read in different ways.
    #[test]
    fn canonical_paths_are_unambiguous(path in "(/|%2[fF]|%5[cC]|%2[eE]|%00|\\.|a|%61|\\\\){0,12}") {
        if let Some(request) = request("h.example", &format!("/{path}")) {
            let lower = request.path().to_ascii_lowercase();
            for bad in ["//", "%2f", "%5c", "%00", "%2e", "\\"] {
                prop_assert!(!lower.contains(bad), "{}", lower);
            }
            prop_assert!(lower.split('/').all(|segment| segment != "." && segment != ".."));
        }
    }

    #[test]
    fn garbage_is_refused_or_canonical(authority in "\\PC{0,40}", target in "\\PC{0,60}") {
        if let Some(request) = request(&authority, &target) {
            let again: Hostname = request.host().as_str().parse().unwrap();
            prop_assert_eq!(&again, request.host());
            prop_assert!(request.path().starts_with('/') && request.path().is_ascii());
        }
    }

    #[test]
    fn texts_are_read_back(text in "\\PC{0,30}") {
        if let Ok(host) = text.parse::<HostPattern>() {
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }
        if let Ok(path) = text.parse::<PathPattern>() {
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
        if let Ok(range) = text.parse::<PortRange>() {
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }
    }

    #[test]
    fn identifiers_are_read_back(bytes: [u8; 16]) {
        let id = ServiceId::from_bytes(bytes);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_network_contains_what_shares_its_bits(bits: u32, length in 0u8..=32, other: u32) {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let network = Cidr::new(std::net::Ipv4Addr::from_bits(bits & mask).into(), length).unwrap();
        prop_assert_eq!(network.contains(std::net::Ipv4Addr::from_bits(other).into()), other & mask == bits & mask);
        prop_assert_eq!(network.to_string().parse(), Ok(network));
    }

    /// A pattern that covers another matches whatever the other matches.
    #[test]
    fn covering_means_matching(a in "(\\*\\.)?[ab]\\.[ab]\\.[ab]", b in "(\\*\\.)?[ab]\\.[ab]\\.[ab]", host in "[ab](\\.[ab]){2,3}") {
        let (a, b): (HostPattern, HostPattern) = (a.parse().unwrap(), b.parse().unwrap());
        let host: Hostname = host.parse().unwrap();
        if a.covers(&b) && b.matches(&host) {
            prop_assert!(a.matches(&host));
        }
    }
}
