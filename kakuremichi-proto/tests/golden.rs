//! The bytes of every frame, record and text, as they were released. A difference here is a break of
//! the protocol: what has to change becomes something new under a new tag.
//!
//! `KAKUREMICHI_BLESS=1 cargo test -p kakuremichi-proto --test golden` writes the files anew, for what is
//! not released yet.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, sync::Arc};

use data_encoding::HEXLOWER;
use kakuremichi_core::{
    auth::{Principal, Strength},
    id::{AgentId, GatewayId, NodeId, ServiceId, SessionId, TargetId, UserId},
    key::IdentityKey,
    model::Role,
    plan::{AgentRecord, GatewayRecord},
    secret::Secret,
    time::Timestamp,
};
use kakuremichi_proto::{
    capability::Capabilities,
    flow::FlowReply,
    frame::{self, Incoming, Tag},
    identity::{ApiKeyText, ServiceTokenText, Signature, SignedProof, TokenText, Transcript},
    lane::{
        self, AgentReach, TargetHealth,
        hello::{AgentHello, GatewayAnswer, HelloRefusal, LaneTranscript, Purpose, binding},
        record::{Echo, Record, ResetCode},
    },
    plan::{PlanRecord, RecordTag, WirePlan, WireRecord},
    preface::{ConnectionId, Preface, TlsFacts},
    report::LaneKind,
    session::UsageQueue,
    sign_in::{GatewaySession, Ticket},
    testing::{ToyKeys, samples},
    version::Version,
};

/// Compares bytes with those of the file, 32 to a line.
fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hex"));
    let lines: Vec<_> = bytes.chunks(32).map(|line| HEXLOWER.encode(line)).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os("KAKUREMICHI_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, expected, "{name} changed");
}

#[test]
fn frames_have_the_bytes_that_were_released() {
    for message in samples::messages() {
        let frame = message.encode().unwrap();
        golden(&format!("frame-{}", message.tag()), &frame);
        assert_eq!(frame::decode(&frame), Ok(Incoming::Known(message)));
    }
}

#[test]
fn records_have_the_bytes_that_were_released_and_read_as_what_was_written() {
    let gateway = samples::gateway_plan(7, 1);
    let agent = samples::agent_plan(7, 3);
    let (gateway_wire, agent_wire) = (
        WirePlan::from_plan(&gateway).unwrap(),
        WirePlan::from_plan(&agent).unwrap(),
    );
    let (udp_gateway, udp_agent) = samples::udp_service();
    let udp = [udp_gateway.to_wire().unwrap(), udp_agent.to_wire().unwrap()].map(Arc::new);
    assert_eq!(GatewayRecord::from_wire(&udp[0]), Ok(Some(udp_gateway)));
    assert_eq!(AgentRecord::from_wire(&udp[1]), Ok(Some(udp_agent)));
    let guarded = samples::guarded_service();
    let guarded_wire = guarded
        .each_ref()
        .map(|record| Arc::new(record.to_wire().unwrap()));
    for (wire, record) in guarded_wire.iter().zip(guarded) {
        assert_eq!(GatewayRecord::from_wire(wire), Ok(Some(record)));
    }
    let discreet = samples::discreet_services();
    let discreet_wire = discreet
        .each_ref()
        .map(|record| Arc::new(record.to_wire().unwrap()));
    for (wire, record) in discreet_wire.iter().zip(discreet) {
        assert_eq!(GatewayRecord::from_wire(wire), Ok(Some(record)));
    }
    let sign_in = samples::sign_in_records();
    let sign_in_wire = sign_in
        .each_ref()
        .map(|record| Arc::new(record.to_wire().unwrap()));
    for (wire, record) in sign_in_wire.iter().zip(sign_in) {
        assert_eq!(GatewayRecord::from_wire(wire), Ok(Some(record)));
    }
    let (previous_gateway, previous_agent) = samples::previous_keys();
    let mut previous: Vec<_> = previous_gateway
        .iter()
        .map(|record| Arc::new(record.to_wire().unwrap()))
        .collect();
    for (wire, record) in previous.iter().zip(previous_gateway) {
        assert_eq!(GatewayRecord::from_wire(wire), Ok(Some(record)));
    }
    previous.push(Arc::new(previous_agent.to_wire().unwrap()));
    assert_eq!(AgentRecord::from_wire(&previous[2]), Ok(Some(previous_agent)));
    let mut seen = Vec::new();
    let records = gateway_wire.records().chain(agent_wire.records());
    for record in records
        .chain(&udp)
        .chain(&guarded_wire)
        .chain(&sign_in_wire)
        .chain(&previous)
        .chain(&discreet_wire)
    {
        let tag = RecordTag::from_code(record.tag()).unwrap();
        let count = seen.iter().filter(|other| **other == tag).count();
        seen.push(tag);
        let mut bytes = Vec::new();
        record.encode_into(&mut bytes);
        golden(&format!("record-{tag}-{count}"), &bytes);
        assert_eq!(WireRecord::decode(&bytes).as_ref(), Some(&**record));
    }
    assert!(
        RecordTag::ALL.iter().all(|tag| seen.contains(tag)),
        "a sample of each record"
    );

    let gateway_id = NodeId::from(GatewayId::from_bytes([0x90; 16]));
    let agent_id = NodeId::from(AgentId::from_bytes([0xa0; 16]));
    let decoded = gateway_wire.to_plan::<GatewayRecord>(gateway_id).unwrap();
    assert_eq!((decoded.plan, decoded.rejected), (gateway, vec![]));
    let decoded = agent_wire.to_plan::<AgentRecord>(agent_id).unwrap();
    assert_eq!((decoded.plan, decoded.rejected), (agent.clone(), vec![]));
    assert!(
        agent_wire.to_plan::<AgentRecord>(gateway_id).is_err(),
        "the plan is for another node"
    );
    assert!(agent.records().all(|record| record.to_wire().is_ok()));

    golden("plan-hash-gateway", &gateway_wire.hash().0);
    golden("plan-hash-agent", &agent_wire.hash().0);
    golden("plan-file", &agent_wire.to_bytes());
}

#[test]
fn what_crosses_the_browser_has_the_text_that_was_released() {
    let ticket = Ticket {
        id: [1; 16],
        service: ServiceId::from_bytes([2; 16]),
        host: "app.example.net".parse().unwrap(),
        binding: [3; 32],
        user: UserId::from_bytes([4; 16]),
        session: SessionId::from_bytes([5; 16]),
        session_expires: Timestamp::from_millis(1_700_003_600_000),
        strength: Strength::PhishingResistant,
        authenticated: None,
        made: Timestamp::from_millis(1_700_000_000_000),
    };
    let keys = ToyKeys([7; 32]);
    golden("sign-in-ticket", ticket.seal(&keys).as_bytes());
    golden(
        "gateway-session",
        GatewaySession::of(&ticket).seal(&keys).as_bytes(),
    );
    let dated = Ticket {
        authenticated: Some(Timestamp::from_millis(1_699_999_999_000)),
        ..ticket
    };
    golden("sign-in-ticket-dated", dated.seal(&keys).as_bytes());
    golden(
        "gateway-session-dated",
        GatewaySession::of(&dated).seal(&keys).as_bytes(),
    );
}

#[test]
fn what_is_signed_has_the_bytes_that_were_released() {
    let transcript = Transcript {
        offered: &[1, 2],
        version: Version::V1,
        node_capabilities: Capabilities::PLAN_DELTA,
        control_capabilities: Capabilities::PLAN_DELTA,
        role: Role::Agent,
        node_nonce: &[1; 32],
        control_nonce: &[2; 32],
        node_key: IdentityKey::from_bytes([3; 32]),
        control_key: IdentityKey::from_bytes([4; 32]),
        wireguard: kakuremichi_core::key::WireGuardKey::from_bytes([5; 32]),
        url: "https://control.example",
        node: Some(AgentId::from_bytes([6; 16]).into()),
    };
    golden("signed-control", &transcript.control_message());
    golden("signed-node-known", &transcript.node_message(SignedProof::Known));
    let enrol = SignedProof::Enrol {
        secret_hash: &[7; 32],
        name: "home",
    };
    golden("signed-node-enrol", &transcript.node_message(enrol));
}

#[test]
fn texts_have_the_form_that_was_released() {
    let key = IdentityKey::from_bytes([2; 32]);
    let token = |ca| TokenText::new(Secret::new([1; 32]), key, ca).to_text();
    golden("text-token", token(None).expose().as_bytes());
    golden("text-token-ca", token(Some([3; 32])).expose().as_bytes());
    let api = ApiKeyText::new(Secret::new([4; 32])).to_text();
    golden("text-api-key", api.expose().as_bytes());
    let service = ServiceTokenText::new(Secret::new([5; 32])).to_text();
    golden("text-service-token", service.expose().as_bytes());
}

#[test]
fn the_data_path_has_the_bytes_that_were_released() {
    let preface = Preface {
        source: "198.51.100.7:40000".parse().unwrap(),
        destination: "203.0.113.1:443".parse().unwrap(),
        gateway: GatewayId::from_bytes([1; 16]),
        relay: None,
        connection: ConnectionId([2; 16]),
        service: ServiceId::from_bytes([3; 16]),
        target: TargetId::from_bytes([4; 16]),
        tls: Some(TlsFacts {
            version: "TLSv1.3".to_owned(),
            cipher: Some("TLS13_AES_128_GCM_SHA256".to_owned()),
            server_name: Some("www.example.net".parse().unwrap()),
            alpn: Some(b"h2".to_vec()),
        }),
        principal: Some(Principal::new("basic", "alice")),
    };
    let mut bytes = Vec::new();
    preface.encode(&mut bytes).unwrap();
    golden("preface-v4", &bytes);
    let bare = Preface {
        source: "[2001:db8::7]:40000".parse().unwrap(),
        destination: "[2001:db8::1]:443".parse().unwrap(),
        tls: None,
        principal: None,
        ..preface
    };
    bytes.clear();
    bare.encode(&mut bytes).unwrap();
    golden("preface-v6", &bytes);
    bytes.clear();
    bare.encode_datagram(&mut bytes).unwrap();
    golden("preface-datagram", &bytes);
    let relayed = Preface {
        relay: Some(GatewayId::from_bytes([5; 16])),
        ..bare
    };
    bytes.clear();
    relayed.encode(&mut bytes).unwrap();
    golden("preface-relayed", &bytes);
    let replies: Vec<_> = FlowReply::ALL.iter().flat_map(|reply| reply.encode()).collect();
    golden("flow-replies", &replies);
    let states = [true, false].map(|passing| TargetHealth {
        target: TargetId::from_bytes([u8::from(passing); 16]),
        passing,
    });
    let mut feed = Vec::new();
    lane::encode_targets(true, &states, &mut feed);
    lane::encode_draining(true, &mut feed);
    golden("lane-feed", &feed);
    let reached = [true, false].map(|reached| AgentReach {
        agent: AgentId::from_bytes([u8::from(reached); 16]),
        reached,
    });
    feed.clear();
    lane::encode_agents(true, &reached, &mut feed);
    golden("lane-feed-agents", &feed);
}

#[test]
fn stream_lanes_have_the_bytes_that_were_released() {
    let (agent, gateway) = (AgentId::from_bytes([1; 16]), GatewayId::from_bytes([2; 16]));
    let transcript = LaneTranscript {
        exporter: &[3; 32],
        agent,
        gateway,
        agent_key: IdentityKey::from_bytes([4; 32]),
        gateway_key: IdentityKey::from_bytes([5; 32]),
        purpose: Purpose::Flows,
    };
    golden("lane-signed-agent", &transcript.agent_message());
    golden("lane-signed-gateway", &transcript.gateway_message());
    let hello = AgentHello {
        agent,
        gateway,
        purpose: Purpose::Flows,
        binding: binding(&[3; 32]),
        signature: Signature([6; 64]),
    };
    golden("lane-hello", &hello.encode());
    let answers = [
        GatewayAnswer::Accepted(Signature([7; 64])),
        GatewayAnswer::Refused(HelloRefusal::Unknown),
        GatewayAnswer::Refused(HelloRefusal::Intercepted),
        GatewayAnswer::Refused(HelloRefusal::Identity),
        GatewayAnswer::Refused(HelloRefusal::Overloaded),
    ];
    let answers: Vec<_> = answers.iter().flat_map(|answer| answer.encode()).collect();
    golden("lane-answers", &answers);
    let echo = Echo {
        sequence: 0x0102,
        payload: [3, 4, 5, 6, 7, 8, 9, 10],
    };
    let mut bytes = Vec::new();
    for record in [
        Record::Begin {
            port: 2000,
            preface: b"preface",
        },
        Record::Reply(FlowReply::Connected),
        Record::Data(1),
    ] {
        record.encode(&mut bytes);
    }
    bytes.push(b'x');
    for record in [
        Record::End,
        Record::Retire,
        Record::Reset(ResetCode::Aborted),
        Record::Reset(ResetCode::Cancelled),
        Record::Reset(ResetCode::TimedOut),
        Record::Reset(ResetCode::Protocol),
        Record::Ping(echo),
        Record::Pong(echo),
        Record::Demand(300),
        Record::Choice(LaneKind::WireGuard),
        Record::Choice(LaneKind::TlsStream),
    ] {
        record.encode(&mut bytes);
    }
    golden("lane-records", &bytes);
    let mut datagrams = Vec::new();
    Record::Datagram(0).encode(&mut datagrams);
    Record::Datagram(2).encode(&mut datagrams);
    datagrams.extend(b"hi");
    golden("lane-datagrams", &datagrams);
}

#[test]
fn stored_usage_has_the_bytes_that_were_released() {
    let mut queue = UsageQueue::new(9);
    let batch = samples::usage();
    for (service, amount) in &batch.entries {
        let service = service.unwrap_or(ServiceId::from_bytes([1; 16]));
        queue.record(service, *amount, batch.from);
    }
    queue.seal(batch.to);
    queue.record(ServiceId::from_bytes([2; 16]), batch.entries[0].1, batch.to);
    golden("usage-file", &queue.to_bytes());
}

/// Nothing lies in the folder that no test looks at.
#[test]
fn every_tag_has_its_file() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for tag in Tag::ALL {
        assert!(files.contains(&format!("frame-{tag}.hex")), "{tag}");
    }
    let frames = files.iter().filter(|name| name.starts_with("frame-")).count();
    assert_eq!(frames, Tag::ALL.len());
}
