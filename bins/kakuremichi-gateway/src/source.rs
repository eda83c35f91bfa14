//! What a gateway tells on its admin address.

use std::{collections::BTreeMap, sync::Arc};

use kakuremichi_bins_common::{AdminSource, Exposition, MetricKind, Readiness, engine};
use kakuremichi_core::model::Transport;
use kakuremichi_tunnel::gateway::{Gateway, GatewayMetrics, GatewayStatus, LaneKind, PeerState, Phase};
use tokio::sync::watch;

/// Answers from the gateway's status and counters.
#[derive(Debug)]
pub struct Source {
    gateway: Gateway,
    status: watch::Receiver<Arc<GatewayStatus>>,
}

impl Source {
    /// Answers about this gateway.
    #[must_use]
    pub fn new(gateway: &Gateway) -> Self {
        Self {
            gateway: gateway.clone(),
            status: gateway.watch_status(),
        }
    }
}

/// The name of a counter, what it counts, and how to read it.
type Counter = (&'static str, &'static str, fn(&GatewayMetrics) -> u64);

const COUNTERS: &[Counter] = &[
    (
        "kakuremichi_connections_total",
        "Connections accepted.",
        |count| count.accepted,
    ),
    (
        "kakuremichi_connections_refused_total",
        "Connections closed because of a bound.",
        |count| count.refused,
    ),
    (
        "kakuremichi_requests_refused_total",
        "HTTP requests refused: too many of one address were open.",
        |count| count.requests_refused,
    ),
    (
        "kakuremichi_tls_failures_total",
        "TLS handshakes that failed.",
        |count| count.handshakes_failed,
    ),
    ("kakuremichi_requests_total", "HTTP requests answered.", |count| {
        count.requests
    }),
    (
        "kakuremichi_failures_total",
        "Answers of the gateway itself with a 5xx status.",
        |count| count.failures,
    ),
    (
        "kakuremichi_permitted_total",
        "Decisions that permitted.",
        |count| count.permitted,
    ),
    (
        "kakuremichi_challenged_total",
        "Decisions that asked for a proof.",
        |count| count.challenged,
    ),
    ("kakuremichi_denied_total", "Decisions that denied.", |count| {
        count.denied
    }),
    (
        "kakuremichi_revoked_total",
        "Open exchanges that a new plan closed.",
        |count| count.revoked,
    ),
    (
        "kakuremichi_websockets_total",
        "Connections upgraded to WebSockets.",
        |count| count.websockets,
    ),
    (
        "kakuremichi_tcp_connections_total",
        "Connections to TCP services.",
        |count| count.tcp_connections,
    ),
    (
        "kakuremichi_udp_sessions_total",
        "Sessions at UDP services.",
        |count| count.udp_sessions,
    ),
    (
        "kakuremichi_udp_overflowed_total",
        "Datagrams dropped that would have begun a UDP session beyond a bound.",
        |count| count.udp_overflowed,
    ),
    (
        "kakuremichi_udp_shed_total",
        "Datagrams of UDP sessions dropped because too many waited.",
        |count| count.udp_shed,
    ),
    (
        "kakuremichi_udp_refusals_total",
        "How often targets did not want the datagrams of a UDP session.",
        |count| count.udp_refusals,
    ),
    ("kakuremichi_flows_total", "Flows opened to targets.", |count| {
        count.flows
    }),
    (
        "kakuremichi_flows_failed_total",
        "Flows that could not be opened.",
        |count| count.flows_failed,
    ),
    (
        "kakuremichi_password_checks_total",
        "Passwords verified by their hash.",
        |count| count.verifications,
    ),
    (
        "kakuremichi_wrong_credentials_total",
        "Credentials that did not verify.",
        |count| count.wrong_credentials,
    ),
    (
        "kakuremichi_judgements_failed_total",
        "Questions that an authenticator or authorizer did not answer.",
        |count| count.judgements_failed,
    ),
    (
        "kakuremichi_throttled_total",
        "Requests refused after too many of those.",
        |count| count.throttled,
    ),
    (
        "kakuremichi_lane_connections_total",
        "Connections of TLS stream lanes that were taken.",
        |count| count.lanes_accepted,
    ),
    (
        "kakuremichi_lane_connections_refused_total",
        "Connections of TLS stream lanes refused because of a bound.",
        |count| count.lanes_refused,
    ),
    (
        "kakuremichi_lane_connections_failed_total",
        "Connections of TLS stream lanes whose proof of identity failed.",
        |count| count.lanes_failed,
    ),
    (
        "kakuremichi_lane_flows_total",
        "Flows over TLS streams.",
        |count| count.lane_flows,
    ),
    (
        "kakuremichi_lane_overflows_total",
        "Flows refused because too many waited for a connection of a lane.",
        |count| count.lane_overflows,
    ),
    (
        "kakuremichi_lane_sessions_total",
        "UDP sessions over TLS streams.",
        |count| count.lane_sessions,
    ),
    (
        "kakuremichi_lane_sessions_overflowed_total",
        "UDP sessions that did not begin because an agent had too many over TLS streams.",
        |count| count.lane_sessions_overflowed,
    ),
    (
        "kakuremichi_relay_flows_total",
        "Flows and UDP sessions to agents without a lane here that another gateway passed on.",
        |count| count.relay_flows,
    ),
    (
        "kakuremichi_relay_failures_total",
        "Offers of such flows and sessions that another gateway refused or did not answer.",
        |count| count.relay_failures,
    ),
    (
        "kakuremichi_relayed_flows_total",
        "Flows passed on for other gateways.",
        |count| count.relays_taken,
    ),
    (
        "kakuremichi_relayed_sessions_total",
        "UDP sessions passed on for other gateways.",
        |count| count.relayed_sessions,
    ),
    (
        "kakuremichi_relayed_flows_refused_total",
        "Flows and UDP sessions not passed on because of a bound.",
        |count| count.relays_refused,
    ),
    (
        "kakuremichi_relayed_flows_denied_total",
        "Flows and UDP sessions not passed on because the plan does not allow it.",
        |count| count.relays_denied,
    ),
    (
        "kakuremichi_relayed_bytes_total",
        "Bytes of ended flows and UDP sessions that were passed on for other gateways, both ways.",
        |count| count.relayed_bytes,
    ),
    (
        "kakuremichi_sibling_overflows_total",
        "What other gateways said of agents and targets beyond what is kept of it.",
        |count| count.sibling_overflows,
    ),
    (
        "kakuremichi_visitor_bytes_in_total",
        "Bytes that visitors sent.",
        |count| count.bytes_in,
    ),
    (
        "kakuremichi_visitor_bytes_out_total",
        "Bytes sent to visitors.",
        |count| count.bytes_out,
    ),
];

impl AdminSource for Source {
    fn readiness(&self) -> Readiness {
        let status = Arc::clone(&self.status.borrow());
        let missing = match status.phase {
            _ if status.is_ready() => return Readiness::Ready,
            Phase::Draining => "draining",
            Phase::Closed => "ended",
            _ if status.revision.is_none() => "no plan yet",
            _ => "lanes are coming back",
        };
        Readiness::NotReady(missing.to_owned())
    }

    fn metrics(&self, page: &mut Exposition) {
        let status = Arc::clone(&self.status.borrow());
        let (gauge, flag) = (MetricKind::Gauge, u8::from);
        page.single(
            "kakuremichi_link_up",
            "Whether there is a session with Control.",
            gauge,
            flag(status.link.is_up()),
        );
        let revision = status.revision.unwrap_or_default();
        page.single(
            "kakuremichi_plan_revision",
            "The plan that is served.",
            gauge,
            revision,
        );
        page.family(
            "kakuremichi_peer_up",
            "Whether the lane to the peer carries.",
            gauge,
        );
        for peer in &status.peers {
            let up = matches!(peer.state, PeerState::Up { .. });
            page.sample("kakuremichi_peer_up", &[("peer", peer.name.as_str())], flag(up));
        }
        page.family(
            "kakuremichi_peer_over_tls",
            "Whether new flows to the peer take TLS streams; over WireGuard otherwise.",
            gauge,
        );
        for peer in &status.peers {
            page.sample(
                "kakuremichi_peer_over_tls",
                &[("peer", peer.name.as_str())],
                flag(peer.kind == LaneKind::TlsStream),
            );
        }
        page.family(
            "kakuremichi_peer_mtu_bytes",
            "The longest packet that passes to the peer over WireGuard, as far as is known.",
            gauge,
        );
        for peer in status.peers.iter().filter(|peer| peer.mtu > 0) {
            page.sample(
                "kakuremichi_peer_mtu_bytes",
                &[("peer", peer.name.as_str())],
                peer.mtu,
            );
        }
        page.family(
            "kakuremichi_sibling_up",
            "Whether the lane to the other gateway carries.",
            gauge,
        );
        for sibling in &status.siblings {
            let up = matches!(sibling.state, PeerState::Up { .. });
            let labels = [("gateway", sibling.name.as_str())];
            page.sample("kakuremichi_sibling_up", &labels, flag(up));
        }
        page.family(
            "kakuremichi_sibling_agents",
            "Agents that the other gateway reaches, as it says.",
            gauge,
        );
        for sibling in &status.siblings {
            let labels = [("gateway", sibling.name.as_str())];
            page.sample("kakuremichi_sibling_agents", &labels, sibling.agents);
        }
        page.family(
            "kakuremichi_port_open",
            "Whether the port of a TCP or UDP service is open.",
            gauge,
        );
        for port in &status.ports {
            let number = port.port.to_string();
            let transport = match port.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            page.sample(
                "kakuremichi_port_open",
                &[("port", &number), ("transport", transport)],
                flag(port.error.is_none()),
            );
        }
        page.family(
            "kakuremichi_certificate_expires_seconds",
            "When the certificate with this first name ends, in seconds since the epoch; the earliest of several.",
            gauge,
        );
        let mut first = BTreeMap::new();
        for certificate in &status.certificates {
            let end = certificate.expires.as_millis().div_euclid(1000);
            let known = first.entry(certificate.name.as_str()).or_insert(end);
            *known = end.min(*known);
        }
        for (name, end) in first {
            page.sample("kakuremichi_certificate_expires_seconds", &[("name", name)], end);
        }
        let counts = self.gateway.metrics();
        page.single(
            "kakuremichi_open",
            "Requests, WebSockets, TCP connections and UDP sessions open now.",
            gauge,
            counts.open,
        );
        for (name, help, read) in COUNTERS {
            page.single(name, help, MetricKind::Counter, read(&counts));
        }
        page.single(
            "kakuremichi_shards",
            "Threads that serve visitors and move packets.",
            gauge,
            self.gateway.shards(),
        );
        engine::tell(page, &self.gateway.latest_engine_metrics());
    }
}
