//! kakuremichi over its WireGuard lane, as raw TCP.

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, free_port},
};

use super::{Origin, Parts, System};

impl System {
    /// Control, a gateway and an agent, with a raw TCP service for each of the two.
    pub(crate) fn kakuremichi(origin: &Origin) -> Result<Self, Trouble> {
        let deployment = Deployment::start()?;
        let (bulk_port, http_port) = (free_port()?, free_port()?);
        deployment.publish_tcp("bulk", bulk_port, origin.bulk_port)?;
        deployment.publish_tcp("requests", http_port, origin.http_port)?;
        Ok(Self {
            name: "kakuremichi, WireGuard",
            bulk_port,
            http_port,
            parts: Parts::Kakuremichi(deployment),
        })
    }
}
