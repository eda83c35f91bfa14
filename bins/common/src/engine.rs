//! What a node's engine counts, as metrics: the same of a gateway, with all its shards together, and of an agent.

mod refused;

use kakuremichi_tunnel::engine::Metrics;

use self::refused::REFUSED;
use crate::metrics::{Exposition, MetricKind};

/// Writes all of it to a page.
pub fn tell(page: &mut Exposition, metrics: &Metrics) {
    for (name, help, read) in GAUGES {
        page.single(name, help, MetricKind::Gauge, read(metrics));
    }
    for (name, help, read) in COUNTERS.iter().chain(REFUSED) {
        page.single(name, help, MetricKind::Counter, read(metrics));
    }
}

/// The name of a metric, what it says, and how to read it.
type Metric = (&'static str, &'static str, fn(&Metrics) -> u64);

const GAUGES: &[Metric] = &[
    (
        "kakuremichi_tunnel_flows",
        "TCP flows with peers open now.",
        |now| now.flows as u64,
    ),
    (
        "kakuremichi_tunnel_sessions",
        "UDP sessions with peers there are now.",
        |now| now.sessions as u64,
    ),
    (
        "kakuremichi_tunnel_flow_memory_bytes",
        "Memory that the rings of these flows hold now, at most.",
        |now| now.flow_memory as u64,
    ),
];

const COUNTERS: &[Metric] = &[
    (
        "kakuremichi_datagrams_received_total",
        "Datagrams of peers received.",
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
        "kakuremichi_peers_rotated_total",
        "Peers whose session went over to another WireGuard key of theirs, or of this node.",
        |count| count.wireguard.rotated,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_written_once_and_named_by_its_kind() {
        let mut page = Exposition::default();
        tell(&mut page, &Metrics::default());
        let text = page.into_string();
        let kinds: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        assert_eq!(kinds.len(), GAUGES.len() + COUNTERS.len() + REFUSED.len());
        for kind in kinds {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            let sample = text.lines().filter(|line| line.starts_with(&format!("{name} ")));
            assert_eq!(sample.count(), 1, "{name}");
        }
    }
}
