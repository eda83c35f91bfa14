//! A gateway and an agent, real sockets, real TLS, real WireGuard, no Control: plans come from the test.

mod http;
mod ingress;
mod life;
mod scene;
mod site;
mod tcp;
