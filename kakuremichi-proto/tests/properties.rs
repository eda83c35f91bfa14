//! What holds for any bytes: nothing panics, work is bounded, and what decodes says the same again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use kakuremichi_core::{
    auth::Principal,
    id::{GatewayId, NodeId, PolicyId, ServiceId, TargetId},
    key::SigningKey,
    plan::{GatewayPolicy, GatewayRecord, Revision},
    policy::{Access, Condition, Effect, Rule},
    time::Timestamp,
};
use kakuremichi_proto::{
    flow::FlowReply,
    frame::{self, Incoming, MAX_FRAME, Message},
    identity::Signer,
    lane::record::Record,
    message::{self, MAX_USAGE_ENTRIES},
    plan::{PlanRecord, RecordKey, WirePlan, WireRecord},
    preface::{ConnectionId, Preface, TlsFacts},
    sign_in::{GatewaySession, Ticket},
    testing::{ToyKeys, ToyVerifier, fuzzing, samples},
};
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..Default::default()
    }
}

/// A frame of each kind with a few bytes changed, added or cut off.
fn perturbed() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let messages = samples::messages();
    (
        0..messages.len(),
        edits,
        any::<prop::sample::Index>(),
        prop::collection::vec(any::<u8>(), 0..8),
    )
        .prop_map(move |(which, edits, cut, tail)| {
            let mut frame = messages[which].encode().unwrap();
            for (at, byte) in edits {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            frame.truncate(cut.index(frame.len() * 3));
            frame.extend(tail);
            frame
        })
}

fn usage() -> impl Strategy<Value = message::Usage> {
    let entry =
        (any::<Option<[u8; 16]>>(), any::<[u64; 4]>()).prop_map(|(service, counts)| message::UsageEntry {
            service,
            connections: counts[0],
            requests: counts[1],
            received: counts[2],
            sent: counts[3],
        });
    let entries = prop::collection::vec(entry, 0..40);
    (any::<[u64; 2]>(), any::<[i64; 2]>(), entries).prop_map(|(key, time, entries)| message::Usage {
        subject: samples::subject(),
        epoch: key[0],
        sequence: key[1],
        from: time[0],
        to: time[1],
        entries: kakuremichi_proto::codec::List::truncated(entries),
    })
}

fn tls() -> impl Strategy<Value = TlsFacts> {
    (
        "[ -~]{0,64}",
        prop::option::of("[ -~]{0,64}"),
        prop::option::of("[a-z0-9]{1,20}(\\.[a-z]{1,20}){1,5}"),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..32)),
    )
        .prop_map(|(version, cipher, name, alpn)| TlsFacts {
            version,
            cipher,
            server_name: name.map(|name| name.parse().unwrap()),
            alpn,
        })
}

fn preface() -> impl Strategy<Value = Preface> {
    let addresses = prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| {
            (
                std::net::IpAddr::from(a).to_canonical(),
                std::net::IpAddr::from(b).to_canonical(),
            )
        }),
    ];
    let principal = prop::option::of(("\\PC{0,16}", "\\PC{0,80}"));
    (
        addresses,
        any::<[u16; 2]>(),
        any::<[[u8; 16]; 4]>(),
        prop::option::of(any::<[u8; 16]>()),
        prop::option::of(tls()),
        principal,
    )
        .prop_map(
            |((source, destination), ports, ids, relay, tls, principal)| Preface {
                source: (source, ports[0]).into(),
                destination: (destination, ports[1]).into(),
                gateway: GatewayId::from_bytes(ids[0]),
                relay: relay.map(GatewayId::from_bytes),
                connection: ConnectionId(ids[1]),
                service: ServiceId::from_bytes(ids[2]),
                target: TargetId::from_bytes(ids[3]),
                tls,
                principal: principal.map(|(authority, subject)| Principal::new(authority, subject)),
            },
        )
}

/// A condition of some depth with each kind of leaf.
fn condition() -> impl Strategy<Value = Condition> {
    let (policy, guarding) = (samples::policy(), samples::guarding_policy());
    let mut leaves = vec![Condition::Asn(0), Condition::All(vec![]), Condition::Any(vec![])];
    for rule in policy.rules.iter().chain(&guarding.rules) {
        rule.when.walk(&mut |part| {
            if part.parts().is_empty() {
                leaves.push(part.clone());
            }
        });
    }
    let leaf = prop_oneof![
        prop::sample::select(leaves),
        "\\PC{0,20}".prop_map(Condition::Group),
        any::<u32>().prop_map(Condition::Asn),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Condition::All),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Condition::Any),
            inner.prop_map(|part| Condition::Not(Box::new(part))),
        ]
    })
}

fn guarding() -> impl Strategy<Value = GatewayPolicy> {
    let rule = ("[a-z]{1,9}", condition(), any::<bool>()).prop_map(|(name, when, dry_run)| Rule {
        name: name.parse().unwrap(),
        when,
        effect: Effect::Deny,
        dry_run,
    });
    let access = prop::option::of(prop::sample::select(vec![
        Access::Deny,
        Access::Public,
        samples::policy().access,
        samples::guarding_policy().access,
    ]));
    (any::<[u8; 16]>(), prop::collection::vec(rule, 0..4), access).prop_map(|(id, rules, access)| {
        GatewayPolicy {
            id: PolicyId::from_bytes(id),
            rules,
            access,
        }
    })
}

proptest! {
    #![proptest_config(config())]

    /// Whatever a browser shows instead of a ticket or a session is refused, and costs little.
    #[test]
    fn what_is_no_ticket_is_refused(text in "\\PC{0,300}|[A-Za-z0-9_-]{0,1200}") {
        let host = "app.example.net".parse().unwrap();
        let keys = [SigningKey::from_bytes(*ToyKeys([7; 32]).public_key().as_bytes())];
        let now = Timestamp::from_millis(1_700_000_000_000);
        prop_assert!(Ticket::open(&text, &keys, &ToyVerifier, &host, &[0; 32], now).is_err());
        prop_assert!(GatewaySession::open(&text, &keys, &ToyVerifier, &host, now).is_err());
        let _ = Ticket::presumed_binding(&text);
    }

    #[test]
    fn policies_round_trip(policy in guarding()) {
        let record = GatewayRecord::Policy(policy);
        prop_assert_eq!(GatewayRecord::from_wire(&record.to_wire().unwrap()), Ok(Some(record)));
    }

    #[test]
    fn perturbed_policies_harm_nothing(
        which in 0..7usize, at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut records = samples::guarded_service().into_iter().chain(samples::discreet_services());
        let wire = records.nth(which).unwrap().to_wire().unwrap();
        let mut body = wire.body().to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let wire = WireRecord::new(wire.tag(), wire.service(), wire.key().clone(), body).unwrap();
        if let Ok(Some(record)) = GatewayRecord::from_wire(&wire) {
            prop_assert_eq!(GatewayRecord::from_wire(&record.to_wire().unwrap()), Ok(Some(record)));
        }
    }

    #[test]
    fn usage_round_trips(usage in usage()) {
        let message = Message::from(usage);
        let frame = message.encode().unwrap();
        prop_assert_eq!(frame::decode(&frame), Ok(Incoming::Known(message)));
    }

    #[test]
    fn prefaces_round_trip(preface in preface(), tail in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut bytes = Vec::new();
        preface.encode(&mut bytes).unwrap();
        let length = bytes.len();
        bytes.extend(tail);
        prop_assert_eq!(Preface::parse(&bytes), Ok(Some((preface, length))));
    }

    #[test]
    fn random_bytes_harm_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::frame(&bytes);
        fuzzing::proxy_header(&bytes);
        fuzzing::lane(&bytes);
    }

    #[test]
    fn perturbed_records_of_lanes_harm_nothing(
        flows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = vec![0];
        for data in flows {
            Record::Begin { port: 2000, preface: &data }.encode(&mut bytes);
            Record::Reply(FlowReply::Connected).encode(&mut bytes);
            if !data.is_empty() {
                Record::Data(data.len()).encode(&mut bytes);
                bytes.extend(&data);
            }
            Record::Datagram(data.len()).encode(&mut bytes);
            bytes.extend(&data);
            Record::End.encode(&mut bytes);
        }
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // The first byte only says where the stream is cut.
        fuzzing::lane(&bytes[1..]);
        fuzzing::lane(&bytes);
    }

    #[test]
    fn perturbed_frames_harm_nothing(bytes in perturbed()) {
        fuzzing::frame(&bytes);
    }

    #[test]
    fn perturbed_prefaces_harm_nothing(
        preface in preface(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Vec::new();
        preface.encode(&mut bytes).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzzing::proxy_header(&bytes);
    }

    #[test]
    fn perturbed_plan_files_are_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = WirePlan::from_plan(&samples::agent_plan(1, 3)).unwrap().to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(WirePlan::from_bytes(&bytes).is_err());
    }

    /// DESIGN: "a node that meets a record it does not know denies the service the record belongs to".
    #[test]
    fn what_is_not_understood_denies_its_service_and_no_other(
        victim in 0..5u32,
        body in prop::collection::vec(any::<u8>(), 0..40),
        tag in prop_oneof![Just(0x7777u16), Just(0x0103)],
    ) {
        let whole = samples::gateway_plan(1, 5);
        let wire = WirePlan::from_plan(&whole).unwrap();
        let mut id = [0; 16];
        id[..4].copy_from_slice(&victim.to_be_bytes());
        let service = ServiceId::from_bytes(id);
        // Another record beside the one that is understood: of an unknown kind, or of no valid content.
        let key = RecordKey::new(&[&[9], id.as_slice()].concat()).unwrap();
        let odd = WireRecord::new(tag, Some(service), key, body).unwrap();
        let records = wire.records().map(|record| WireRecord::clone(record)).chain([odd.clone()]);
        let wire = WirePlan::new(Revision(2), records).unwrap();
        let node = NodeId::from(GatewayId::from_bytes([0x90; 16]));
        let decoded = wire.to_plan::<GatewayRecord>(node).unwrap();
        prop_assert_eq!(decoded.denied(), vec![service]);
        let served: Vec<_> = decoded.plan.services().map(|service| service.id).collect();
        prop_assert_eq!(served.len(), whole.services().count() - 1);
        prop_assert!(!served.contains(&service));
        // The record is kept: the hash is the sender's, and the next delta starts from the same plan.
        prop_assert!(wire.records().any(|record| **record == odd));
        let stored = WirePlan::from_bytes(&wire.to_bytes()).unwrap();
        prop_assert_eq!(stored.hash(), wire.hash());
    }
}

#[test]
fn a_record_of_no_service_that_is_not_understood_denies_nothing_and_is_reported() {
    let wire = WirePlan::from_plan(&samples::gateway_plan(1, 5)).unwrap();
    let key = RecordKey::new(b"newer").unwrap();
    let odd = WireRecord::new(0x7777, None, key, *b"?").unwrap();
    let records = wire
        .records()
        .map(|record| WireRecord::clone(record))
        .chain([odd]);
    let wire = WirePlan::new(Revision(2), records).unwrap();
    let node = NodeId::from(GatewayId::from_bytes([0x90; 16]));
    let decoded = wire.to_plan::<GatewayRecord>(node).unwrap();
    assert_eq!((decoded.denied(), decoded.rejected.len()), (vec![], 1));
    assert_eq!(decoded.plan.services().count(), 6);
}

#[test]
fn a_record_under_the_key_or_the_service_of_another_is_refused() {
    let wire = WirePlan::from_plan(&samples::gateway_plan(1, 2)).unwrap();
    let node = NodeId::from(GatewayId::from_bytes([0x90; 16]));
    let other = ServiceId::from_bytes([0xee; 16]);
    let records: Vec<_> = wire.records().collect();
    let (first, second) = (records[records.len() - 1], records[records.len() - 2]);
    for forged in [
        WireRecord::new(first.tag(), first.service(), second.key().clone(), first.body()).unwrap(),
        WireRecord::new(first.tag(), Some(other), first.key().clone(), first.body()).unwrap(),
        WireRecord::new(first.tag(), None, first.key().clone(), first.body()).unwrap(),
    ] {
        let plan = WirePlan::new(Revision(2), [forged]).unwrap();
        let decoded = plan.to_plan::<GatewayRecord>(node).unwrap();
        assert_eq!((decoded.plan.services().count(), decoded.rejected.len()), (0, 1));
    }
}

#[test]
fn full_messages_fit_in_their_frames() {
    let entry = message::UsageEntry {
        service: Some([0xff; 16]),
        connections: u64::MAX,
        requests: u64::MAX,
        received: u64::MAX,
        sent: u64::MAX,
    };
    let usage = message::Usage {
        subject: samples::subject(),
        epoch: u64::MAX,
        sequence: u64::MAX,
        from: i64::MIN,
        to: i64::MIN,
        entries: kakuremichi_proto::codec::List::truncated(vec![entry; MAX_USAGE_ENTRIES]),
    };
    assert!(Message::from(usage).encode().unwrap().len() <= MAX_FRAME);
    let mut status = samples::status();
    status.lanes[0].error = Some("x".repeat(5000));
    status.lanes[0].rtt = Some(Duration::MAX);
    status.lanes = vec![status.lanes[0].clone(); 2000];
    status.targets = vec![status.targets[0].clone(); 2000];
    let messages = status.to_messages(samples::subject());
    assert_eq!(messages.len(), 4);
    assert!(
        messages
            .into_iter()
            .all(|message| Message::from(message).encode().is_ok())
    );
}
