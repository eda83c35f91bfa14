//! kakuremichi over each of its lanes, as raw TCP and as an HTTPS gateway.

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, free_port},
};

use super::{HOST, Origin, System};

pub(crate) const WIREGUARD: &str = "kakuremichi, WireGuard";
pub(crate) const TLS: &str = "kakuremichi, TLS streams";
pub(super) const HTTP_WIREGUARD: &str = "kakuremichi HTTP, WireGuard";
pub(super) const HTTP_TLS: &str = "kakuremichi HTTP, TLS streams";

/// Over WireGuard.
pub(super) fn wireguard(origin: &Origin) -> Result<System, Trouble> {
    start(origin, WIREGUARD, "wireguard")
}

/// Over TLS streams.
pub(super) fn tls(origin: &Origin) -> Result<System, Trouble> {
    start(origin, TLS, "tls")
}

/// HTTPS at the gateway, and WireGuard behind it.
pub(super) fn http_wireguard(origin: &Origin) -> Result<System, Trouble> {
    start_http(origin, HTTP_WIREGUARD, "wireguard")
}

/// HTTPS at the gateway, and TLS streams behind it.
pub(super) fn http_tls(origin: &Origin) -> Result<System, Trouble> {
    start_http(origin, HTTP_TLS, "tls")
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

/// The same with an HTTP service for requests. Bulk goes beside it over the same lane, for what one does to the other.
fn start_http(origin: &Origin, name: &'static str, lane: &str) -> Result<System, Trouble> {
    let deployment = Deployment::start(&format!("http-{lane}"), &["--lane", lane])?;
    let mut system = System::new(name, free_port()?, deployment.https().port());
    deployment.publish_tcp("bulk", system.bulk.port(), origin.bulk_port)?;
    deployment.publish_http("requests", HOST, origin.http_port)?;
    system.trusted = Some(deployment.authority());
    system.deployment = Some(deployment);
    Ok(system)
}
