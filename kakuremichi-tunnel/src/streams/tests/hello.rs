//! Proofs of identity.

use kakuremichi_core::id::GatewayId;
use kakuremichi_proto::lane::hello::{HelloRefusal, Purpose};
use tokio::{io::duplex, sync::watch};

use super::{AGENT, run};
use crate::{
    keys::{Held, KeyRing, NodeKeys},
    streams::hello::{Ends, HelloError, Identities, Shown, introduce, receive},
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
    let other = NodeKeys::generate().unwrap().identity();
    let known = known.then_some(Identities {
        current: if stranger { other } else { agent.identity() },
        previous: None,
    });
    let shown = Shown {
        gateway: gateway_key.unwrap_or(&gateway).identity(),
        own: agent,
    };
    met(exporters, &shown, KeyRing::of(gateway).held(), known)
}

/// The same, with all keys that the two may know of each other.
fn met(
    exporters: ([u8; 32], [u8; 32]),
    shown: &Shown,
    held: Held,
    known: Option<Identities>,
) -> (Result<(), HelloError>, Result<(), HelloError>) {
    let (_, gateway_keys) = watch::channel(Identities {
        current: shown.gateway,
        previous: None,
    });
    let ends = Ends {
        agent: AGENT,
        gateway: GATEWAY,
        gateway_keys,
        keys: KeyRing::of(shown.own.clone()),
    };
    let proven = shown.own.identity();
    run(async {
        let (mut near, mut far) = duplex(1024);
        let (asked, received) = tokio::join!(
            introduce(&mut near, &exporters.0, &ends, shown, Purpose::Flows),
            receive(
                &mut far,
                &exporters.1,
                Some(GATEWAY),
                &held,
                |_| known,
                |agent, identity| {
                    assert_eq!((agent, identity), (AGENT, proven));
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

/// Not everybody hears of new keys at the same moment: each pair of those that count is a lane of the two.
#[test]
fn while_keys_are_rotated_each_pair_that_counts_is_taken() {
    let [agent, old_agent, gateway, next_gateway, old_gateway] =
        [(); 5].map(|()| NodeKeys::generate().unwrap());
    let held = Held {
        current: gateway.clone(),
        next: Some(next_gateway.clone()),
        previous: Some(old_gateway.clone()),
    };
    let known = Identities {
        current: agent.identity(),
        previous: Some(old_agent.identity()),
    };
    let same = ([7; 32], [7; 32]);
    for own in [&agent, &old_agent] {
        for gateway in [&gateway, &next_gateway, &old_gateway] {
            let shown = Shown {
                own: own.clone(),
                gateway: gateway.identity(),
            };
            let (asked, received) = met(same, &shown, held.clone(), Some(known));
            assert!(asked.is_ok() && received.is_ok(), "{asked:?}, {received:?}");
        }
    }
    // Those of before are nobody's once they count no more, at either end.
    let shown = Shown {
        own: old_agent,
        gateway: gateway.identity(),
    };
    let alone = Identities {
        previous: None,
        ..known
    };
    let (asked, _) = met(same, &shown, held.clone(), Some(alone));
    assert!(matches!(asked, Err(HelloError::Refused(HelloRefusal::Identity))));
    let shown = Shown {
        own: agent,
        gateway: old_gateway.identity(),
    };
    let held = Held {
        previous: None,
        ..held
    };
    let (asked, _) = met(same, &shown, held, Some(known));
    assert!(matches!(asked, Err(HelloError::Refused(HelloRefusal::Identity))));
}
