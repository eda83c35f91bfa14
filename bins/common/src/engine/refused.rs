//! What the engine refused of strangers and of peers that are not in order.

use super::Metric;

pub(super) const REFUSED: &[Metric] = &[
    (
        "kakuremichi_datagrams_malformed_total",
        "Datagrams dropped that are no message of WireGuard.",
        |count| count.wireguard.malformed,
    ),
    (
        "kakuremichi_datagrams_without_session_total",
        "Datagrams dropped for a session or a handshake that does not exist, or not any more.",
        |count| count.wireguard.unknown_session,
    ),
    (
        "kakuremichi_datagrams_replayed_total",
        "Datagrams dropped that were received before.",
        |count| count.wireguard.replayed,
    ),
    (
        "kakuremichi_datagrams_forged_total",
        "Datagrams dropped that are not what their peer sent.",
        |count| count.wireguard.forged,
    ),
    (
        "kakuremichi_handshakes_total",
        "Handshakes that were answered, by this node or by a peer.",
        |count| count.wireguard.sessions,
    ),
    (
        "kakuremichi_handshakes_bad_mac_total",
        "Handshakes dropped of those who do not know this node's key.",
        |count| count.wireguard.bad_mac,
    ),
    (
        "kakuremichi_handshakes_of_strangers_total",
        "Handshakes dropped of keys that are no peer's.",
        |count| count.wireguard.unknown_peer,
    ),
    (
        "kakuremichi_tunnel_packets_disallowed_total",
        "Packets dropped whose source is not their peer's.",
        |count| count.wireguard.disallowed,
    ),
    (
        "kakuremichi_tunnel_packets_overflowed_total",
        "Packets dropped that waited for a session.",
        |count| count.wireguard.overflowed,
    ),
    (
        "kakuremichi_tunnel_packets_malformed_total",
        "Packets of peers dropped that make no sense.",
        |count| count.netstack.malformed,
    ),
    (
        "kakuremichi_tunnel_packets_astray_total",
        "Packets of peers dropped for other addresses or of other protocols.",
        |count| count.netstack.not_ours + count.netstack.unhandled + count.netstack.lost_pongs,
    ),
    (
        "kakuremichi_tunnel_flows_refused_total",
        "Flows and sessions that peers tried to open at ports where nobody listens; refused.",
        |count| count.netstack.refused,
    ),
    (
        "kakuremichi_tunnel_segments_stray_total",
        "Segments of no flow; reset.",
        |count| count.netstack.stray,
    ),
    (
        "kakuremichi_tunnel_echoes_total",
        "Echo requests of peers that were answered.",
        |count| count.netstack.echoed,
    ),
];
