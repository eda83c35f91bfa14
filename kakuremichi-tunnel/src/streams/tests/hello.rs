//! Proofs of identity.

use kakuremichi_core::id::GatewayId;
use kakuremichi_proto::lane::hello::{HelloRefusal, Purpose};
use tokio::io::duplex;

use super::{AGENT, run};
use crate::{
    keys::NodeKeys,
    streams::hello::{Ends, HelloError, introduce, receive},
};

const GATEWAY: GatewayId = GatewayId::from_bytes([2; 16]);

/// What both ends make of a hello: the agent's view, and the gateway's.
fn meet(
    exporters: ([u8; 32], [u8; 32]),
    known: bool,
    gateway_key: Option<&NodeKeys>,
    stranger: bool,
) -> (Result<(), HelloError>, Result<(), HelloError>) {
    let (agent, gateway) = (NodeKeys::generate().unwrap(), NodeKeys::generate().unwrap());
    let ends = Ends {
        agent: AGENT,
        gateway: GATEWAY,
        gateway_key: gateway_key.unwrap_or(&gateway).identity(),
        keys: agent.clone(),
    };
    let other = NodeKeys::generate().unwrap().identity();
    let identity = if stranger { other } else { agent.identity() };
    run(async {
        let (mut near, mut far) = duplex(1024);
        let (asked, received) = tokio::join!(
            introduce(&mut near, &exporters.0, &ends, Purpose::Flows),
            receive(
                &mut far,
                &exporters.1,
                Some(GATEWAY),
                &gateway,
                |_| known.then_some(identity),
                |agent, purpose| {
                    assert_eq!((agent, purpose), (AGENT, Purpose::Flows));
                    Some(())
                },
            )
        );
        (asked, received.map(|_| ()))
    })
}

#[test]
fn both_ends_prove_who_they_are() {
    let same = ([7; 32], [7; 32]);
    let refused = |met: (Result<(), HelloError>, Result<(), HelloError>)| match met {
        (Err(HelloError::Refused(told)), Err(HelloError::Refused(why))) => {
            assert_eq!(told, why);
            why
        }
        other => panic!("{other:?}"),
    };
    let (asked, received) = meet(same, true, None, false);
    assert!(asked.is_ok() && received.is_ok());
    assert_eq!(refused(meet(same, false, None, false)), HelloRefusal::Unknown);
    assert_eq!(refused(meet(same, true, None, true)), HelloRefusal::Identity);
    // Somebody in between has another secret with either end.
    let intercepted = ([7; 32], [8; 32]);
    assert_eq!(
        refused(meet(intercepted, true, None, false)),
        HelloRefusal::Intercepted
    );
    // Another gateway than the one that the agent means signs with another key.
    let other = NodeKeys::generate().unwrap();
    assert_eq!(
        refused(meet(same, true, Some(&other), false)),
        HelloRefusal::Identity
    );
}
