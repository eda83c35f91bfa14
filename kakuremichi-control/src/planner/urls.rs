//! Where visitors find a service.

use std::collections::BTreeSet;

use kakuremichi_core::{
    model::{Node, Service, ServiceKind, Transport},
    name::HostPattern,
    net::Endpoint,
};

use super::landscape::gateway_of;

/// The port that a URL with `https` need not name.
const HTTPS_PORT: u16 = 443;
/// The most URLs of one service that are told, and the most bytes of them; the others are left out.
const MAX_URLS: usize = 1024;
const MAX_URL_BYTES: usize = 64 * 1024;

/// Where visitors find a service: one URL for each host and each HTTPS port that the active gateways among
/// `nodes` have, or one for each gateway's first endpoint at a TCP or UDP service. In the order of hosts and nodes,
/// each once. A gateway that has not said yet where it is does not count.
#[must_use]
pub fn service_urls<'a>(service: &Service, nodes: impl IntoIterator<Item = &'a Node>) -> Vec<String> {
    let mut urls = Vec::new();
    let mut seen = BTreeSet::new();
    let active = nodes.into_iter().filter(|node| node.is_active());
    let known = active
        .filter_map(gateway_of)
        .filter(|(endpoints, _)| !endpoints.is_empty());
    for (endpoints, https_port) in known {
        let found: Vec<String> = match &service.kind {
            ServiceKind::Http { hosts, .. } => hosts.iter().map(|host| https_url(host, https_port)).collect(),
            ServiceKind::Tcp { port, .. } | ServiceKind::Udp { port, .. } => {
                let scheme = match service.kind.transport() {
                    Transport::Tcp => "tcp",
                    Transport::Udp => "udp",
                };
                let public = endpoints.first().map(|endpoint| Endpoint {
                    host: endpoint.host.clone(),
                    port: *port,
                });
                public
                    .map(|public| format!("{scheme}://{public}"))
                    .into_iter()
                    .collect()
            }
        };
        urls.extend(found.into_iter().filter(|url| seen.insert(url.clone())));
    }
    let mut bytes = 0;
    let fit = urls.iter().take(MAX_URLS).take_while(|url| {
        bytes += url.len();
        bytes <= MAX_URL_BYTES
    });
    let fit = fit.count();
    urls.truncate(fit);
    urls
}

fn https_url(host: &HostPattern, port: u16) -> String {
    if port == HTTPS_PORT {
        format!("https://{host}/")
    } else {
        format!("https://{host}:{port}/")
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{model::NodeKind, store::conformance::sample};

    use super::*;

    #[test]
    fn a_service_is_found_at_each_gateway_once() {
        let gateway = |n: u8, port: u16| {
            let mut node = sample::gateway(0, n);
            node.revoked = None;
            if let NodeKind::Gateway { https_port, .. } = &mut node.kind {
                *https_port = port;
            }
            node
        };
        let mut revoked = gateway(4, 9443);
        revoked.revoked = Some(sample::NOW);
        let nodes = [
            sample::agent(0, 1),
            gateway(1, 443),
            gateway(2, 443),
            gateway(3, 8443),
            revoked,
        ];
        let http = service_urls(&sample::http_service(0, 1), &nodes);
        assert_eq!(
            http,
            [
                "https://app-1.example.net/",
                "https://*.app-1.example.net/",
                "https://app-1.example.net:8443/",
                "https://*.app-1.example.net:8443/",
            ]
        );
        assert_eq!(
            service_urls(&sample::tcp_service(0, 1), &nodes),
            ["tcp://gw.example.net:5001"]
        );
        assert!(service_urls(&sample::tcp_service(0, 1), &nodes[..1]).is_empty());
    }
}
