//! kakuremichi over each of its lanes, as raw TCP.

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, free_port},
};

use super::{Origin, System};

pub(crate) const WIREGUARD: &str = "kakuremichi, WireGuard";
pub(crate) const TLS: &str = "kakuremichi, TLS streams";

/// Over WireGuard.
pub(super) fn wireguard(origin: &Origin) -> Result<System, Trouble> {
    start(origin, WIREGUARD, "wireguard")
}

/// Over TLS streams.
pub(super) fn tls(origin: &Origin) -> Result<System, Trouble> {
    start(origin, TLS, "tls")
}

/// Control, a gateway and an agent, with a raw TCP service for each of the two.
fn start(origin: &Origin, name: &'static str, lane: &str) -> Result<System, Trouble> {
    let mut system = System::new(name, free_port()?, free_port()?);
    let deployment = Deployment::start(lane, &["--lane", lane])?;
    deployment.publish_tcp("bulk", system.bulk.port(), origin.bulk_port)?;
    deployment.publish_tcp("requests", system.http.port(), origin.http_port)?;
    system.deployment = Some(deployment);
    Ok(system)
}
