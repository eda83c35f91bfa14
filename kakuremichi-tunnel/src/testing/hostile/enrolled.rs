//! Taking the place of an agent that was enrolled.

use std::{io, net::SocketAddr, path::Path};

use kakuremichi_core::plan::AgentRecord;
use kakuremichi_proto::plan::WirePlan;

use super::Place;
use crate::state::StateDir;

impl Place {
    /// The place of an agent that was enrolled and has stopped, toward the first gateway of its plan, which
    /// receives datagrams at `endpoint`.
    ///
    /// # Errors
    /// When the agent's state directory does not have all of that.
    pub fn of_agent(state: &Path, endpoint: SocketAddr) -> io::Result<Self> {
        let state = StateDir::open(state).map_err(io::Error::other)?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let enrolment = state.enrolment().map_err(io::Error::other)?.ok_or_else(missing)?;
        let plan = state.plan().map_err(io::Error::other)?.ok_or_else(missing)?;
        let plan = WirePlan::from_bytes(&plan).map_err(io::Error::other)?;
        let plan = plan
            .to_plan::<AgentRecord>(enrolment.node)
            .map_err(io::Error::other)?
            .plan;
        let node = plan.node().ok_or_else(missing)?;
        let gateway = plan.gateways().next().ok_or_else(missing)?;
        Ok(Self {
            private_key: state.keys().map_err(io::Error::other)?.wireguard_private(),
            own: node.address.into(),
            gateway: gateway.wireguard,
            overlay: gateway.address.into(),
            endpoint,
        })
    }
}
