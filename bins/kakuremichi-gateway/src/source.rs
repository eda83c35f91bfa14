//! What a gateway tells on its admin address.

mod refused;

use std::sync::Arc;

use kakuremichi_bins_common::{AdminSource, Exposition, MetricKind, Readiness};
use kakuremichi_core::model::Transport;
use kakuremichi_tunnel::engine::Metrics;
use kakuremichi_tunnel::gateway::{Gateway, GatewayMetrics, GatewayStatus, LaneKind, PeerState, Phase};
use tokio::sync::watch;

use refused::REFUSED;

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

/// The same of the engine, of all shards together.
type EngineCounter = (&'static str, &'static str, fn(&Metrics) -> u64);

const ENGINE: &[EngineCounter] = &[
    (
        "kakuremichi_datagrams_received_total",
        "Datagrams of agents and sites received.",
        |count| count.engine.datagrams_received,
    ),
    (
        "kakuremichi_datagrams_sent_total",
        "Datagrams sent to them.",
        |count| count.engine.datagrams_sent,
    ),
    (
        "kakuremichi_datagrams_dropped_total",
        "Datagrams dropped because the socket was full or refused them.",
        |count| count.engine.datagrams_dropped,
    ),
    (
        "kakuremichi_datagrams_handed_over_total",
        "Datagrams that arrived at another shard than their peer's.",
        |count| count.engine.handed_over,
    ),
    (
        "kakuremichi_handover_dropped_total",
        "Datagrams dropped because too many waited for their shard.",
        |count| count.engine.handover_dropped,
    ),
    (
        "kakuremichi_tunnel_rings_reclaimed_total",
        "Rings of flows that gave back their memory early, as flows held much.",
        |count| count.netstack.rings_reclaimed,
    ),
    (
        "kakuremichi_tunnel_data_refused_total",
        "Segments whose data was not taken, as flows held as much memory as they may.",
        |count| count.netstack.data_refused,
    ),
    (
        "kakuremichi_tunnel_flows_shed_total",
        "Flows that were reset, as flows held as much memory as they may and these the most.",
        |count| count.netstack.flows_shed,
    ),
    (
        "kakuremichi_peers_taken_over_total",
        "Peers that a shard took over from another one.",
        |count| count.wireguard.taken_over,
    ),
    (
        "kakuremichi_handshakes_challenged_total",
        "Handshakes beyond a rate that were answered with a cookie.",
        |count| count.wireguard.challenged,
    ),
    (
        "kakuremichi_handshakes_limited_total",
        "Handshakes dropped because of a rate.",
        |count| count.wireguard.limited,
    ),
    (
        "kakuremichi_mtu_lowered_total",
        "How often packets to a peer were made shorter because long ones did not pass.",
        |count| count.engine.mtu_lowered,
    ),
    (
        "kakuremichi_bad_prefaces_total",
        "Flows and sessions that peers began without a proper preface; refused.",
        |count| count.engine.bad_prefaces,
    ),
    (
        "kakuremichi_tunnel_flows_overflowed_total",
        "Flows that peers tried to open beyond a bound, half-open ones included; reset.",
        |count| count.netstack.overflowed,
    ),
    (
        "kakuremichi_tunnel_flows_without_buffers_total",
        "Flows for which no buffer was free.",
        |count| count.netstack.no_buffers,
    ),
    (
        "kakuremichi_tunnel_flows_timed_out_total",
        "Flows that ended because their peer fell silent.",
        |count| count.netstack.timed_out,
    ),
    (
        "kakuremichi_tunnel_sessions_opened_total",
        "UDP sessions with peers.",
        |count| count.netstack.sessions_opened,
    ),
    (
        "kakuremichi_tunnel_sessions_overflowed_total",
        "Datagrams dropped that would have begun a session with a peer beyond a bound.",
        |count| count.netstack.sessions_overflowed,
    ),
    (
        "kakuremichi_tunnel_datagrams_shed_total",
        "Datagrams of sessions with peers dropped because too many waited.",
        |count| count.engine.datagrams_shed + count.netstack.datagrams_shed,
    ),
    (
        "kakuremichi_tunnel_datagrams_fragmented_total",
        "Datagrams of sessions sent in fragments.",
        |count| count.netstack.fragmented,
    ),
    (
        "kakuremichi_tunnel_datagrams_reassembled_total",
        "Datagrams of sessions received in fragments.",
        |count| count.netstack.reassembled,
    ),
    (
        "kakuremichi_tunnel_fragments_dropped_total",
        "Datagrams of which fragments were missing, did not fit, or were too many; dropped.",
        |count| count.netstack.fragments_dropped,
    ),
    (
        "kakuremichi_tunnel_unreachables_sent_total",
        "Peers told that nobody takes a datagram.",
        |count| count.netstack.unreachables_sent,
    ),
    (
        "kakuremichi_tunnel_unreachables_received_total",
        "What peers said of datagrams and attempts to connect that nobody takes.",
        |count| count.netstack.unreachables_received,
    ),
    (
        "kakuremichi_tunnel_answers_shed_total",
        "Echo requests, and datagrams to be refused, beyond what is answered to a peer in a second; dropped.",
        |count| count.netstack.answers_shed,
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
        let engine = self.gateway.latest_engine_metrics();
        page.single(
            "kakuremichi_shards",
            "Threads that serve visitors and move packets.",
            gauge,
            self.gateway.shards(),
        );
        page.single(
            "kakuremichi_tunnel_flows",
            "TCP flows with agents and sites open now.",
            gauge,
            engine.flows,
        );
        page.single(
            "kakuremichi_tunnel_sessions",
            "UDP sessions with agents and sites there are now.",
            gauge,
            engine.sessions,
        );
        page.single(
            "kakuremichi_tunnel_flow_memory_bytes",
            "Memory that the rings of these flows hold now, at most.",
            gauge,
            engine.flow_memory,
        );
        for (name, help, read) in ENGINE.iter().chain(REFUSED) {
            page.single(name, help, MetricKind::Counter, read(&engine));
        }
    }
}
