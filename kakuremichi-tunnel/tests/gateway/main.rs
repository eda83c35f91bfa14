//! A gateway and an agent, real sockets, real TLS, real WireGuard, no Control: plans come from the test.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests run tasks, wait within a time, and end where something is not as it should be"
)]

mod abuse;
mod http;
mod ingress;
mod life;
mod middlebox;
mod relay;
mod scene;
mod sessions;
mod shards;
mod site;
mod streams;
mod tcp;
mod udp;
