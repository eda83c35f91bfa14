//! kakuremichi over each of its lanes, as raw TCP.

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, free_port},
};

use super::{Origin, Parts, System};

impl System {
    /// Over WireGuard.
    pub(crate) fn wireguard_lane(origin: &Origin) -> Result<Self, Trouble> {
        Self::kakuremichi(origin, "kakuremichi, WireGuard", "wireguard")
    }

    /// Over TLS streams.
    pub(crate) fn tls_lane(origin: &Origin) -> Result<Self, Trouble> {
        Self::kakuremichi(origin, "kakuremichi, TLS streams", "tls")
    }

    /// Control, a gateway and an agent, with a raw TCP service for each of the two.
    fn kakuremichi(origin: &Origin, name: &'static str, lane: &str) -> Result<Self, Trouble> {
        let deployment = Deployment::start(&["--lane", lane])?;
        let (bulk_port, http_port) = (free_port()?, free_port()?);
        deployment.publish_tcp("bulk", bulk_port, origin.bulk_port)?;
        deployment.publish_tcp("requests", http_port, origin.http_port)?;
        Ok(Self {
            name,
            bulk_port,
            http_port,
            parts: Parts::Kakuremichi(deployment),
        })
    }
}
