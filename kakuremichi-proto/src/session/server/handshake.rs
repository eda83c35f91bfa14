//! From the first frame of a node to what it has.

use std::time::Instant;

use kakuremichi_core::{
    code::Code,
    id::NodeId,
    key::{IdentityKey, WireGuardKey},
    model::Role,
    name::Label,
};

use super::{
    Accepted, AuthenticateRequest, EnrolRequest, Online, Resumed, ServerConfig, ServerEvent, unexpected,
    violation,
};
use crate::{
    capability::Capabilities,
    codec::Array,
    convert::role_of,
    frame::Message,
    identity::{CanonicalUrl, Signature, SignedProof, Transcript, secret_hash},
    message::{self, ProofKind},
    session::{DECISION_TIMEOUT, HELLO_TIMEOUT, PROOF_TIMEOUT, RESUME_TIMEOUT, Reason, is_current},
    version::Version,
};

/// The states before a session is open. Each has a deadline; together they take at most
/// [`MAX_HANDSHAKE_BYTES`](crate::session::MAX_HANDSHAKE_BYTES).
#[derive(Debug)]
pub(super) struct Handshake {
    state: State,
    nonce: [u8; 32],
    deadline: Instant,
}

#[derive(Debug)]
enum State {
    Hello,
    Proof {
        hello: message::Hello,
        version: Version,
    },
    Decision {
        role: Role,
        claimed: Option<NodeId>,
        proven: Proven,
    },
    Resume {
        accepted: Accepted,
        proven: Proven,
    },
}

/// What came of the proof.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proven {
    /// Tells the handshake from every other one.
    pub(super) binding: [u8; 32],
    /// Who the node is.
    pub(super) identity: IdentityKey,
    /// What both sides can do.
    pub(super) capabilities: Capabilities,
}

/// What a frame leads to.
#[derive(Debug)]
pub(super) enum Step {
    Reply(message::Challenge),
    Ask(ServerEvent),
    Wait,
    Done(Box<Online>, ServerEvent),
}

impl Handshake {
    pub(super) fn new(nonce: [u8; 32], now: Instant) -> Self {
        Self {
            state: State::Hello,
            nonce,
            deadline: now + HELLO_TIMEOUT,
        }
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        match &self.state {
            State::Resume { accepted, .. } => Some(accepted.node),
            State::Hello | State::Proof { .. } | State::Decision { .. } => None,
        }
    }

    pub(super) fn handle_timeout(&self, now: Instant) -> Result<(), Reason> {
        if now < self.deadline {
            return Ok(());
        }
        Err(match self.state {
            State::Decision { .. } => Reason::passing(Code::TRY_LATER, "Control could not decide in time"),
            State::Hello | State::Proof { .. } | State::Resume { .. } => {
                Reason::passing(Code::HEARTBEAT_LOST, "the node did not go on with the handshake")
            }
        })
    }

    pub(super) fn handle(
        &mut self,
        message: Message,
        config: &ServerConfig,
        now: Instant,
    ) -> Result<Step, Reason> {
        match (&self.state, message) {
            (State::Hello, Message::Hello(hello)) => {
                let (challenge, version) = answer(&hello, &self.nonce, config)?;
                self.state = State::Proof { hello, version };
                self.deadline = now + PROOF_TIMEOUT;
                Ok(Step::Reply(challenge))
            }
            (State::Proof { hello, version }, Message::Proof(proof)) => {
                let event = verify(hello, *version, &self.nonce, &proof, config)?;
                let transcript = transcript(hello, *version, &self.nonce, config);
                self.state = State::Decision {
                    role: hello.role.into(),
                    claimed: hello.node.map(NodeId::from),
                    proven: Proven {
                        binding: transcript.binding(),
                        identity: transcript.node_key,
                        capabilities: transcript.node_capabilities.common(config.capabilities),
                    },
                };
                self.deadline = now + DECISION_TIMEOUT;
                Ok(Step::Ask(event))
            }
            (State::Resume { accepted, proven }, Message::Resume(resume)) => {
                if !is_current(resume.subject, accepted.subject())? {
                    return Ok(Step::Wait);
                }
                let resumed = Resumed::try_from(resume).map_err(violation)?;
                let online = Online::new(accepted, *proven, &resumed, now);
                Ok(Step::Done(Box::new(online), ServerEvent::Ready(resumed)))
            }
            (_, Message::Ping(_) | Message::Pong(_)) => Ok(Step::Wait),
            (_, message) => Err(unexpected(message.tag())),
        }
    }

    /// Lets the node in. `None` if it did not ask for it, or no longer.
    pub(super) fn accept(
        &mut self,
        accepted: Accepted,
        now: Instant,
    ) -> Result<Option<message::Welcome>, Reason> {
        let State::Decision {
            role,
            claimed,
            proven,
        } = self.state
        else {
            return Ok(None);
        };
        // An error of the caller's, which must not let a node in as another.
        if role_of(accepted.node) != role || claimed.is_some_and(|claimed| claimed != accepted.node) {
            return Err(Reason::passing(
                Code::INTERNAL,
                "Control mistook the node for another",
            ));
        }
        let welcome = message::Welcome::from(&accepted);
        self.state = State::Resume { accepted, proven };
        self.deadline = now + RESUME_TIMEOUT;
        Ok(Some(welcome))
    }
}

fn answer(
    hello: &message::Hello,
    nonce: &[u8; 32],
    config: &ServerConfig,
) -> Result<(message::Challenge, Version), Reason> {
    let version = Version::negotiate(hello.versions.as_slice()).ok_or_else(|| {
        Reason::passing(
            Code::VERSION_UNSUPPORTED,
            "Control speaks none of the node's protocol versions",
        )
    })?;
    // Who was led here by another name may be talking to somebody in between.
    if hello.url.parse::<CanonicalUrl>().as_ref() != Ok(&config.url) {
        let message = format!("this Control is {}, use that URL", config.url);
        // An enrolled node was right before: perhaps it is Control that was started with a wrong URL.
        return Err(Reason {
            permanent: hello.node.is_none(),
            ..Reason::passing(Code::URL_MISMATCH, message)
        });
    }
    if let Some(node) = hello.node
        && role_of(node.into()) != Role::from(hello.role)
    {
        return Err(violation("the node's identifier is of the other role"));
    }
    let transcript = transcript(hello, version, nonce, config);
    let challenge = message::Challenge {
        version: version.0,
        capabilities: config.capabilities.bits(),
        nonce: *nonce,
        control: *config.signer.public_key().as_bytes(),
        signature: Array(config.signer.sign(&transcript.control_message()).0),
    };
    Ok((challenge, version))
}

fn verify(
    hello: &message::Hello,
    version: Version,
    nonce: &[u8; 32],
    proof: &message::Proof,
    config: &ServerConfig,
) -> Result<ServerEvent, Reason> {
    let transcript = transcript(hello, version, nonce, config);
    let identity = IdentityKey::from_bytes(hello.identity);
    let wireguard = WireGuardKey::from_bytes(hello.wireguard);
    let (signed, event) = match (&proof.kind, hello.node) {
        (ProofKind::Enrol { secret, name }, None) => {
            let secret_hash = secret_hash(secret.0.expose());
            let signed = transcript.node_message(SignedProof::Enrol {
                secret_hash: secret_hash.as_bytes(),
                name,
            });
            let request = EnrolRequest {
                secret_hash,
                role: hello.role.into(),
                name: name.parse::<Label>().map_err(violation)?,
                identity,
                wireguard,
            };
            (signed, ServerEvent::Enrol(request))
        }
        (ProofKind::Known, Some(node)) => {
            let request = AuthenticateRequest {
                node: node.into(),
                identity,
                wireguard,
            };
            (
                transcript.node_message(SignedProof::Known),
                ServerEvent::Authenticate(request),
            )
        }
        (ProofKind::Enrol { .. }, Some(_)) | (ProofKind::Known, None) => {
            return Err(violation("the proof is of another kind than the hello"));
        }
    };
    if !config
        .verifier
        .verify(&identity, &signed, &Signature(proof.signature.0))
    {
        return Err(Reason::passing(
            Code::PROOF_INVALID,
            "the node's signature does not verify",
        ));
    }
    Ok(event)
}

fn transcript<'a>(
    hello: &'a message::Hello,
    version: Version,
    nonce: &'a [u8; 32],
    config: &ServerConfig,
) -> Transcript<'a> {
    Transcript {
        offered: hello.versions.as_slice(),
        version,
        node_capabilities: Capabilities::from_bits(hello.capabilities),
        control_capabilities: config.capabilities,
        role: hello.role.into(),
        node_nonce: &hello.nonce,
        control_nonce: nonce,
        node_key: IdentityKey::from_bytes(hello.identity),
        control_key: config.signer.public_key(),
        wireguard: WireGuardKey::from_bytes(hello.wireguard),
        url: &hello.url,
        node: hello.node.map(NodeId::from),
    }
}
