//! What the fuzz targets run, here so that their corpora are replayed by the ordinary tests too.
//!
//! Each function takes any bytes, and panics when something holds no longer that always has to hold.

use std::time::Duration;

use kakuremichi_core::{
    id::{AgentId, GatewayId},
    model::Role,
    plan::{AgentRecord, GatewayRecord},
};

use super::{Direction, Pair, samples};
use crate::{
    flow::FlowReply,
    frame::{self, Incoming},
    identity::{ApiKeyText, TokenText},
    lane::{
        self,
        hello::{ANSWER_LEN, AgentHello, GatewayAnswer, HELLO_LEN},
        record::{HEADER, MAX_BODY, MAX_DATA, Record, RecordReader},
    },
    plan::{ChangeParser, StreamError, WirePlan},
    preface::{MAX_PREFACE, Preface, header},
    report::Amount,
    session::UsageQueue,
};

/// The most operations of one run of [`session`].
const MAX_OPERATIONS: usize = 64;

/// Frames, and everything else that is decoded from bytes of the other side or of the disk: nothing
/// panics, and what decodes encodes to something that decodes to the same.
pub fn frame(data: &[u8]) {
    if let Ok(Incoming::Known(message)) = frame::decode(data) {
        // What was in range may be written shorter, never differently.
        let Ok(encoded) = message.encode() else {
            panic!("a message that came in one frame fits in one: {message:?}")
        };
        assert_eq!(frame::decode(&encoded), Ok(Incoming::Known(message)));
    }
    let mut changes = 0;
    let (head, tail) = data.split_at(data.len() / 2);
    let mut parser = ChangeParser::default();
    let mut count = |_| {
        changes += 1;
        Ok::<_, StreamError>(())
    };
    let parsed = parser
        .push(head, &mut count)
        .and_then(|()| parser.push(tail, &mut count));
    // Each change takes five bytes at least: work is bounded by what came in.
    assert!(changes <= data.len() / 5 && (parsed.is_err() || parser.finish().is_ok() || !data.is_empty()));
    if let Ok(plan) = WirePlan::from_bytes(data) {
        check_plan(&plan);
    }
    // The same without a checksum in the way.
    let mut builder = crate::plan::PlanBuilder::default();
    let mut parser = ChangeParser::default();
    let put = |change| builder.apply(change).map_err(|_| StreamError::Malformed);
    if parser.push(data, put).is_ok() {
        check_plan(&builder.finish(kakuremichi_core::plan::Revision(1)));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(token) = text.parse::<TokenText>() {
            assert_eq!(token.to_text().expose(), text);
        }
        if let Ok(key) = text.parse::<ApiKeyText>() {
            assert_eq!(key.to_text().expose(), text);
        }
    }
    if let Ok(queue) = UsageQueue::from_bytes(data) {
        assert_eq!(UsageQueue::from_bytes(&queue.to_bytes()), Ok(queue));
    }
}

fn check_plan(plan: &WirePlan) {
    assert_eq!(WirePlan::from_bytes(&plan.to_bytes()).as_ref(), Ok(plan));
    // A plan that names another node is no plan of ours; all others decode, with what they deny.
    if let Ok(decoded) = plan.to_plan::<AgentRecord>(AgentId::from_bytes([0xa0; 16]).into()) {
        let denied = decoded.denied();
        assert!(
            decoded
                .plan
                .services()
                .all(|service| !denied.contains(&service.id))
        );
        assert!(WirePlan::from_plan(&decoded.plan).is_ok());
    }
    if let Ok(decoded) = plan.to_plan::<GatewayRecord>(GatewayId::from_bytes([0x90; 16]).into()) {
        let denied = decoded.denied();
        assert!(
            decoded
                .plan
                .services()
                .all(|service| !denied.contains(&service.id))
        );
        assert!(WirePlan::from_plan(&decoded.plan).is_ok());
    }
}

/// The bytes at the head of a flow: the preface, its reply, and the lane feed.
pub fn proxy_header(data: &[u8]) {
    if let Ok(Some((preface, length))) = Preface::parse(data) {
        assert!(length <= data.len() && length <= MAX_PREFACE);
        let mut encoded = Vec::new();
        assert_eq!(preface.encode(&mut encoded), Ok(()));
        let length = encoded.len();
        assert_eq!(Preface::parse(&encoded), Ok(Some((preface, length))));
    }
    if let Ok(Some((header, length))) = header::parse(data, MAX_PREFACE) {
        assert!(header.tlvs().count() <= length);
        // A header that is complete is no other with a byte less.
        assert_eq!(header::parse(&data[..length - 1], MAX_PREFACE), Ok(None));
    } else if data.len() >= MAX_PREFACE {
        assert!(
            header::parse(data, MAX_PREFACE).is_err(),
            "nothing is waited for without end"
        );
    }
    if let Ok(Some(reply)) = FlowReply::parse(data) {
        assert_eq!(FlowReply::parse(&reply.encode()), Ok(Some(reply)));
    }
    match lane::parse(data) {
        Ok(Some((_, length))) => assert!(length <= lane::MAX_FEED_FRAME && length <= data.len()),
        Ok(None) => assert!(data.len() < lane::MAX_FEED_FRAME),
        Err(_) => {}
    }
}

/// The bytes of a connection of a TLS stream lane: hello, answer, and records in two pieces.
pub fn lane(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<HELLO_LEN>()
        && let Ok(hello) = AgentHello::parse(bytes)
    {
        assert_eq!(hello.encode(), *bytes);
    }
    if let Some(bytes) = data.first_chunk::<ANSWER_LEN>()
        && let Ok(answer) = GatewayAnswer::parse(bytes)
    {
        assert_eq!(GatewayAnswer::parse(&answer.encode()), Ok(answer));
    }
    let cut = data.first().map_or(0, |first| usize::from(*first) % data.len());
    let whole = records(&[data]);
    let (head, tail) = data.split_at(cut);
    assert_eq!(whole, records(&[head, tail]), "a cut changes nothing");
}

/// What a connection that comes in these pieces is read as: the records encoded anew, the bytes of
/// visitors, and whether it breaks the protocol.
fn records(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, bool) {
    let (mut reader, mut held) = (RecordReader::default(), Vec::new());
    let (mut read, mut data) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut rest = held.as_slice();
        loop {
            let left = reader.data_left().min(rest.len());
            data.extend_from_slice(&rest[..left]);
            reader.took(left);
            rest = &rest[left..];
            match reader.read(rest) {
                Ok(Some((record, length))) => {
                    assert!(length <= rest.len() && length <= HEADER + MAX_BODY);
                    assert!(reader.data_left() <= MAX_DATA);
                    if let Record::Unknown(tag) = record {
                        read.push(tag);
                    } else {
                        record.encode(&mut read);
                    }
                    rest = &rest[length..];
                }
                Ok(None) => {
                    assert!(
                        rest.len() < HEADER + MAX_BODY,
                        "nothing is waited for without end"
                    );
                    break;
                }
                Err(_) => return (read, data, true),
            }
        }
        held = rest.to_vec();
    }
    (read, data, false)
}

/// Both sessions and the network between them: each byte or two is something that happens, and in the
/// end both sides agree.
pub fn session(data: &[u8]) {
    let mut pair = Pair::new(Role::Agent);
    let mut bytes = data.iter().copied();
    let mut revision = 0;
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = bytes.next() else { break };
        let mut next = || bytes.next().unwrap_or_default();
        let direction = if operation & 0x80 == 0 {
            Direction::Up
        } else {
            Direction::Down
        };
        match operation & 0x0f {
            0 | 1 => pair.run(Duration::from_millis(u64::from(next()) * 4)),
            2 => pair.run(Duration::from_secs(next().into())),
            3 => {
                revision += 1;
                publish(&mut pair, revision, next());
            }
            4 => pair
                .node
                .declare(samples::declaration(&format!("service-{}", next() % 8))),
            5 => {
                let name = super::pair::label(&format!("service-{}", next() % 8));
                pair.node.undeclare(&name, operation & 0x80 == 0);
            }
            6 => {
                let amount = Amount {
                    requests: 1,
                    ..Amount::default()
                };
                let service = kakuremichi_core::id::ServiceId::from_bytes([next(); 16]);
                pair.node.record(service, amount, pair.time_of_day());
            }
            7 => pair
                .cuts
                .push((direction, u64::from(u16::from_be_bytes([next(), next()]) % 8192))),
            8 => pair.disconnect(),
            9 => pair.lose_node(Duration::from_millis(u64::from(next()) * 100)),
            10 => pair.restart_node(),
            11 => pair.restart_hub(),
            12 => pair.hub.drain(pair.now),
            13 => {
                let (history, index) = (pair.history(direction), next());
                if let Some(frame) = history.get(usize::from(index) % history.len().max(1)) {
                    pair.inject(direction, frame);
                }
            }
            14 => {
                // A frame of the node's own, with bytes changed.
                let (mut history, index) = (pair.history(direction), next());
                if !history.is_empty() {
                    let mut frame = history.swap_remove(usize::from(index) % history.len());
                    let at = usize::from(next()) % frame.len();
                    frame[at] ^= next();
                    inject_forged(&mut pair, direction, &frame);
                }
            }
            _ => {
                let length = usize::from(next());
                let frame: Vec<u8> = bytes.by_ref().take(length).collect();
                inject_forged(&mut pair, direction, &frame);
            }
        }
    }
    let until = pair.time_of_day();
    pair.node.client.flush_usage(until);
    pair.settle();
}

/// Who holds the channel's keys may say anything about itself: what it says is then not checked for
/// truth, only survived.
fn inject_forged(pair: &mut Pair, direction: Direction, frame: &[u8]) {
    pair.forged = true;
    pair.inject(direction, frame);
}

fn publish(pair: &mut Pair, revision: u64, services: u8) {
    let plan = samples::agent_plan(revision, services.into());
    match WirePlan::from_plan(&plan) {
        Ok(plan) => pair.hub.publish(plan, pair.now),
        Err(error) => panic!("the samples have a form on the wire: {error}"),
    }
}
