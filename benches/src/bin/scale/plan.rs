//! The gateway's plan, with a crowd in it.
//!
//! Control has made the plan, and the gateway keeps it on its disk. The crowd's agents are added there as
//! Control would add them, and the gateway serves it with Control gone.

use std::path::Path;

use kakuremichi_benches::machine::Trouble;
use kakuremichi_core::{
    id::{AgentId, PeerId},
    key::{IdentityKey, WireGuardKey},
    net::Cidr,
    plan::{GatewayNode, GatewayPeer, GatewayRecord, Revision},
};
use kakuremichi_proto::plan::{PlanRecord as _, WirePlan};

use crate::simulated::{overlay, public_key};

/// Writes so many agents into the plan of a gateway that does not run. Returns the gateway as the plan has it.
pub(crate) fn widen(data: &Path, count: u32) -> Result<GatewayNode, Trouble> {
    let path = data.join("plan");
    let bytes = std::fs::read(&path).map_err(Trouble::io(path.display().to_string()))?;
    let plan = WirePlan::from_bytes(&bytes).map_err(unreadable)?;
    let node = plan
        .records()
        .find_map(|record| match GatewayRecord::from_wire(record) {
            Ok(Some(GatewayRecord::Node(node))) => Some(node),
            Ok(_) | Err(_) => None,
        });
    let node = node.ok_or_else(|| unreadable("no gateway"))?;
    let mut records: Vec<_> = plan.records().map(|record| record.as_ref().clone()).collect();
    for number in 0..count {
        records.push(peer(&node, number)?.to_wire().map_err(unreadable)?);
    }
    let widened = WirePlan::new(Revision(plan.revision().0 + 1), records).map_err(unreadable)?;
    std::fs::write(&path, widened.to_bytes()).map_err(Trouble::io(path.display().to_string()))?;
    Ok(node)
}

/// The gateway's own public key, from its data directory.
pub(crate) fn gateway_key(data: &Path) -> Result<WireGuardKey, Trouble> {
    let path = data.join("wireguard.key");
    let text = std::fs::read_to_string(&path).map_err(Trouble::io(path.display().to_string()))?;
    let private: WireGuardKey = text.trim().parse().map_err(unreadable)?;
    let private = kakuremichi_core::secret::Secret::new(*private.as_bytes());
    Ok(kakuremichi_tunnel::wg::public_key(&private))
}

fn peer(node: &GatewayNode, number: u32) -> Result<GatewayRecord, Trouble> {
    let mut id = *b"scale-agent-....";
    id[12..].copy_from_slice(&number.to_be_bytes());
    let address = overlay(node.address, number);
    Ok(GatewayRecord::Peer(GatewayPeer {
        id: PeerId::Agent(AgentId::from_bytes(id)),
        name: format!("crowd-{number}").parse().map_err(unreadable)?,
        identity: Some(IdentityKey::from_bytes(*public_key(number).as_bytes())),
        wireguard: public_key(number),
        address,
        allowed_ips: vec![Cidr::host(address.into())],
        endpoint: None,
    }))
}

fn unreadable(said: impl ToString) -> Trouble {
    Trouble::Unreadable {
        program: "the gateway's plan".to_owned(),
        said: said.to_string(),
    }
}
