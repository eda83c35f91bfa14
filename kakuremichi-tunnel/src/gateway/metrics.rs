//! What the gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that only grow, shared by everything on the gateway.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// What the gateway counted since it started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct GatewayMetrics {
            $($(#[$doc])* pub $name: u64,)*
            /// Requests, WebSockets, TCP connections and UDP sessions that are open now.
            pub open: u64,
        }

        impl Counters {
            /// Reads all of them.
            pub(crate) fn snapshot(&self) -> GatewayMetrics {
                GatewayMetrics {
                    $($name: self.$name.get(),)*
                    open: self.opened.get().saturating_sub(self.ended.get()),
                }
            }
        }
    };
}

counters! {
    /// Connections accepted, those refused at a bound not counted.
    accepted,
    /// Connections closed at once: a bound of [`Limits`](super::Limits) is reached.
    refused,
    /// HTTP requests refused: too many of one address are open.
    requests_refused,
    /// TLS handshakes that failed or took too long.
    handshakes_failed,
    /// HTTP requests answered, by whomever.
    requests,
    /// Answers of the gateway itself that say why a request failed (5xx).
    failures,
    /// Decisions that permitted.
    permitted,
    /// Decisions that asked for a proof.
    challenged,
    /// Decisions that denied.
    denied,
    /// Visitors who came back from signing in, and got a session.
    signed_in,
    /// Visitors who came back from signing in, and got none.
    sign_ins_failed,
    /// Open exchanges that a new plan closed.
    revoked,
    /// Connections that were upgraded to WebSockets.
    websockets,
    /// Connections to TCP services.
    tcp_connections,
    /// Sessions at UDP services.
    udp_sessions,
    /// Datagrams that would have begun a UDP session beyond a bound of [`Limits`](super::Limits); dropped.
    udp_overflowed,
    /// Datagrams of UDP sessions dropped: too many waited, or a socket was full.
    udp_shed,
    /// How often targets said that they do not want the datagrams of a UDP session.
    udp_refusals,
    /// Flows opened to targets.
    flows,
    /// Flows that could not be opened or were refused.
    flows_failed,
    /// Passwords verified by their hash.
    verifications,
    /// Credentials that did not verify.
    wrong_credentials,
    /// Questions that an `Authenticator` or `Authorizer` did not answer: it failed, took too long, or was
    /// not asked since too many were open.
    judgements_failed,
    /// Requests refused because of too many of those from one address.
    throttled,
    /// Bytes of bodies, WebSockets, TCP connections and datagrams that visitors sent.
    bytes_in,
    /// The same toward visitors.
    bytes_out,
    /// Connections of TLS stream lanes that were taken.
    lanes_accepted,
    /// The same that were refused at a bound.
    lanes_refused,
    /// The same of which none came: TLS failed, or the proof of identity, or it took too long.
    lanes_failed,
    /// Flows over TLS streams.
    lane_flows,
    /// Flows refused because too many waited for a connection.
    lane_overflows,
    /// UDP sessions over TLS streams.
    lane_sessions,
    /// UDP sessions that did not begin because an agent had too many over TLS streams.
    lane_sessions_overflowed,
    /// Flows and UDP sessions to agents without a lane here that another gateway passes on.
    relay_flows,
    /// Offers of such flows and sessions that another gateway refused or did not answer.
    relay_failures,
    /// Flows passed on for other gateways.
    relays_taken,
    /// UDP sessions passed on for other gateways.
    relayed_sessions,
    /// Flows and sessions of other gateways that were refused at a bound.
    relays_refused,
    /// The same that the plan does not allow.
    relays_denied,
    /// Bytes of flows and sessions passed on for other gateways, both ways, once they have ended.
    relayed_bytes,
    /// What other gateways said of agents and targets beyond what is kept of it.
    sibling_overflows,
    /// Exchanges that began.
    opened,
    /// Exchanges that ended.
    ended,
}

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
