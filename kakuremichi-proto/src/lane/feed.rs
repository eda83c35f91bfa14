//! The lane feed: what an agent, or another gateway, tells a gateway through their lane, so that it works
//! with Control gone.
//!
//! Whoever tells opens a TCP flow to the port [`FEED_PORT`] of the gateway's overlay address as soon as a
//! lane is up. An agent tells of its own targets, a gateway of the agents that it reaches and of their
//! targets. Frames follow each other: two bytes of length (big endian, of what comes behind them),
//! two of tag, and a postcard body. Tags are a registry that only grows; one that is not known is
//! skipped.

use kakuremichi_core::id::{AgentId, TargetId};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, List};

/// The TCP port of a gateway's overlay address at which it takes feeds. No target has it.
pub const FEED_PORT: u16 = 1;

/// The TCP port of a gateway's overlay address at which it takes flows that another gateway has it pass on
/// to an agent. Each begins with a [preface](crate::preface) and is answered with a
/// [reply](crate::flow::FlowReply). No target has it. The UDP port likewise takes sessions, of which nobody
/// is told but by a port-unreachable that they are not passed on.
pub const RELAY_PORT: u16 = 2;

/// The largest frame with its length, in bytes.
pub const MAX_FEED_FRAME: usize = 16 * 1024;

/// The most targets of one frame. A longer report is sent as several.
pub const MAX_FEED_TARGETS: usize = 512;

/// The most agents of one frame, the same.
pub const MAX_FEED_AGENTS: usize = 512;

const LENGTH: usize = 2;
const TAG: usize = 2;
const TARGETS: u16 = 1;
const DRAINING: u16 = 2;
const AGENTS: u16 = 3;

/// Whether a target passes its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetHealth {
    /// The target.
    pub target: TargetId,
    /// Whether it passes.
    pub passing: bool,
}

/// Whether a gateway passes flows on to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentReach {
    /// The agent.
    pub agent: AgentId,
    /// Whether it does: their lane is up, and the agent does not drain.
    pub reached: bool,
}

/// A frame of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedFrame {
    /// The health of targets.
    Targets {
        /// Whether what was said before is void; otherwise this adds to it.
        replace: bool,
        /// The targets.
        targets: Vec<TargetHealth>,
    },
    /// Whether the agent is about to stop: it takes no new flows then, and waits for those that are
    /// open.
    Draining(bool),
    /// The agents that a gateway reaches.
    Agents {
        /// Whether what was said before is void; otherwise this adds to it.
        replace: bool,
        /// The agents.
        agents: Vec<AgentReach>,
    },
    /// A frame of a kind that this build does not know, to be skipped.
    Unknown(u16),
}

/// Why bytes are not a feed. The flow is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A frame is shorter than its tag, or longer than any.
    #[error("a frame of {0} bytes cannot be in a feed")]
    Length(usize),
    /// A body does not decode.
    #[error("a frame of the feed does not decode: {0}")]
    Body(#[from] CodecError),
}

#[derive(Serialize, Deserialize)]
struct Targets {
    replace: bool,
    targets: List<([u8; 16], bool), MAX_FEED_TARGETS>,
}

#[derive(Serialize, Deserialize)]
struct Agents {
    replace: bool,
    agents: List<([u8; 16], bool), MAX_FEED_AGENTS>,
}

/// Appends the health of targets to a feed, in as many frames as it takes.
pub fn encode_targets(replace: bool, targets: &[TargetHealth], out: &mut Vec<u8>) {
    let mut pieces = targets.chunks(MAX_FEED_TARGETS);
    let mut replace = replace;
    let mut piece = pieces.next().unwrap_or_default();
    loop {
        let states = piece
            .iter()
            .map(|state| (*state.target.as_bytes(), state.passing));
        let body = codec::encode(&Targets {
            replace,
            targets: List::truncated(states),
        });
        put(TARGETS, &body, out);
        match pieces.next() {
            Some(next) => (piece, replace) = (next, false),
            None => return,
        }
    }
}

/// Appends to a feed whether the agent is about to stop.
pub fn encode_draining(draining: bool, out: &mut Vec<u8>) {
    put(DRAINING, &codec::encode(&draining), out);
}

/// Appends to a feed which agents a gateway reaches, in as many frames as it takes.
pub fn encode_agents(replace: bool, agents: &[AgentReach], out: &mut Vec<u8>) {
    let mut pieces = agents.chunks(MAX_FEED_AGENTS);
    let mut replace = replace;
    let mut piece = pieces.next().unwrap_or_default();
    loop {
        let states = piece.iter().map(|state| (*state.agent.as_bytes(), state.reached));
        let body = codec::encode(&Agents {
            replace,
            agents: List::truncated(states),
        });
        put(AGENTS, &body, out);
        match pieces.next() {
            Some(next) => (piece, replace) = (next, false),
            None => return,
        }
    }
}

fn put(tag: u16, body: &[u8], out: &mut Vec<u8>) {
    // A full frame is far below the bound, and the bound below what two bytes can say.
    let length = (TAG + body.len()) as u16;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(body);
}

/// Reads a frame from the head of a feed, and how many bytes it has. `None` when there are not yet
/// enough; never more than [`MAX_FEED_FRAME`] are needed.
///
/// # Errors
/// When the bytes are not a feed.
pub fn parse(bytes: &[u8]) -> Result<Option<(FeedFrame, usize)>, FeedError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < TAG || LENGTH + length > MAX_FEED_FRAME {
        return Err(FeedError::Length(LENGTH + length));
    }
    let Some((tag, body)) = rest
        .get(..length)
        .and_then(|frame| frame.split_first_chunk::<TAG>())
    else {
        return Ok(None);
    };
    let frame = match u16::from_be_bytes(*tag) {
        TARGETS => {
            let Targets { replace, targets } = codec::decode(body)?;
            let health = |(target, passing)| TargetHealth {
                target: TargetId::from_bytes(target),
                passing,
            };
            FeedFrame::Targets {
                replace,
                targets: targets.into_vec().into_iter().map(health).collect(),
            }
        }
        DRAINING => FeedFrame::Draining(codec::decode(body)?),
        AGENTS => {
            let Agents { replace, agents } = codec::decode(body)?;
            let reach = |(agent, reached)| AgentReach {
                agent: AgentId::from_bytes(agent),
                reached,
            };
            FeedFrame::Agents {
                replace,
                agents: agents.into_vec().into_iter().map(reach).collect(),
            }
        }
        unknown => FeedFrame::Unknown(unknown),
    };
    Ok(Some((frame, LENGTH + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(count: u16) -> Vec<TargetHealth> {
        (0..count)
            .map(|number| TargetHealth {
                target: TargetId::from_bytes([number as u8; 16]),
                passing: number % 3 == 0,
            })
            .collect()
    }

    #[test]
    fn a_long_report_is_cut_into_frames() {
        let mut bytes = Vec::new();
        encode_targets(true, &health(1300), &mut bytes);
        let (mut rest, mut read, mut replaces) = (bytes.as_slice(), Vec::new(), Vec::new());
        while let Some((frame, length)) = parse(rest).unwrap() {
            assert!(length <= MAX_FEED_FRAME);
            let FeedFrame::Targets { replace, targets } = frame else {
                panic!("{frame:?}");
            };
            replaces.push(replace);
            read.extend(targets);
            rest = &rest[length..];
        }
        assert_eq!(
            (read, replaces, rest.len()),
            (health(1300), vec![true, false, false], 0)
        );
    }

    #[test]
    fn nothing_to_say_is_said() {
        let mut bytes = Vec::new();
        encode_targets(true, &[], &mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None));
        }
        let nothing = FeedFrame::Targets {
            replace: true,
            targets: vec![],
        };
        assert_eq!(parse(&bytes), Ok(Some((nothing, bytes.len()))));
    }

    #[test]
    fn agents_are_told_in_frames() {
        let told: Vec<_> = (0..700_u16)
            .map(|number| AgentReach {
                agent: AgentId::from_bytes([number as u8; 16]),
                reached: number % 2 == 0,
            })
            .collect();
        let mut bytes = Vec::new();
        encode_agents(true, &told, &mut bytes);
        let (mut rest, mut read) = (bytes.as_slice(), Vec::new());
        while let Some((frame, length)) = parse(rest).unwrap() {
            assert!(length <= MAX_FEED_FRAME);
            let FeedFrame::Agents { replace, agents } = frame else {
                panic!("{frame:?}");
            };
            assert_eq!(replace, read.is_empty());
            read.extend(agents);
            rest = &rest[length..];
        }
        assert_eq!((read, rest.len()), (told, 0));
    }

    #[test]
    fn a_drain_is_said_and_taken_back() {
        for draining in [true, false] {
            let mut bytes = Vec::new();
            encode_draining(draining, &mut bytes);
            let read = parse(&bytes).unwrap();
            assert_eq!(read, Some((FeedFrame::Draining(draining), bytes.len())));
        }
    }

    #[test]
    fn a_feed_is_bounded_and_newer_frames_are_skipped() {
        assert_eq!(parse(&[0xff, 0xff]), Err(FeedError::Length(0x10001)));
        assert_eq!(parse(&[0, 1, 0]), Err(FeedError::Length(3)));
        assert_eq!(parse(&[0, 3, 0, 9, 7]), Ok(Some((FeedFrame::Unknown(9), 5))));
        assert!(parse(&[0, 3, 0, 1, 7]).is_err());
    }
}
