//! What two sides say to each other when they meet, and commands.

use std::time::Duration;

use kakuremichi_core::{
    id::OrganizationId,
    net::{Cidr, Overlay},
    plan::Revision,
    time::Timestamp,
};

use super::{InField, Invalid, name, net::endpoints, services};
use crate::{
    codec::List,
    message::{self, Subject},
    plan::PlanHash,
    report::{GatewayInfo, MAX_TEXT, NodeInfo, Refusal, UsageKey, cut},
    session::{Accepted, Command, Membership, RequestId, Resumed},
};

impl From<&Accepted> for message::Welcome {
    fn from(accepted: &Accepted) -> Self {
        let mut overlay = [0; 6];
        let address = accepted.overlay.address(&[0; 16]).octets();
        overlay.copy_from_slice(&address[..6]);
        Self {
            node: accepted.node.into(),
            organization: *accepted.organization.as_bytes(),
            name: accepted.name.as_str().to_owned(),
            session: accepted.session,
            overlay,
        }
    }
}

impl TryFrom<&message::Welcome> for Membership {
    type Error = Invalid;

    fn try_from(welcome: &message::Welcome) -> Result<Self, Invalid> {
        let mut address = [0; 16];
        address[..6].copy_from_slice(&welcome.overlay);
        let network = Cidr::new(address.into(), 48).in_field("overlay")?;
        Ok(Self {
            node: welcome.node.into(),
            organization: OrganizationId::from_bytes(welcome.organization),
            name: name(&welcome.name, "name")?,
            overlay: Overlay::try_from(network).in_field("overlay")?,
            session: welcome.session,
        })
    }
}

impl TryFrom<message::Resume> for Resumed {
    type Error = Invalid;

    fn try_from(resume: message::Resume) -> Result<Self, Invalid> {
        let declarations = resume.declarations.as_slice().iter();
        Ok(Self {
            plan: resume
                .plan
                .map(|have| (Revision(have.revision), PlanHash(have.hash))),
            denied: services(&resume.denied),
            declarations: declarations
                .map(|text| name(text, "declarations"))
                .collect::<Result<_, _>>()?,
            request_next: RequestId(resume.request_next),
            usage: UsageKey {
                epoch: resume.usage_epoch,
                sequence: resume.usage_next,
            },
        })
    }
}

impl NodeInfo {
    /// The message for Control. What is past a bound is left out.
    #[must_use]
    pub fn to_message(&self, subject: Subject) -> message::NodeInfo {
        message::NodeInfo {
            subject,
            software: cut(self.software.clone(), MAX_TEXT),
            gateway: self.gateway.as_ref().map(|gateway| message::GatewayInfo {
                endpoints: List::truncated(gateway.endpoints.iter().map(Into::into)),
                https_port: gateway.https_port,
            }),
        }
    }
}

impl TryFrom<message::NodeInfo> for NodeInfo {
    type Error = Invalid;

    fn try_from(info: message::NodeInfo) -> Result<Self, Invalid> {
        let gateway = |gateway: message::GatewayInfo| {
            Ok(GatewayInfo {
                endpoints: endpoints(&gateway.endpoints, "gateway.endpoints")?,
                https_port: gateway.https_port,
            })
        };
        Ok(Self {
            software: cut(info.software, MAX_TEXT),
            gateway: info.gateway.map(gateway).transpose()?,
        })
    }
}

impl From<Command> for message::CommandKind {
    fn from(command: Command) -> Self {
        match command {
            Command::Drain { grace } => Self::Drain {
                grace: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
            },
            Command::Undrain => Self::Undrain,
            Command::RotateKeys => Self::RotateKeys,
        }
    }
}

impl From<message::CommandKind> for Command {
    fn from(kind: message::CommandKind) -> Self {
        match kind {
            message::CommandKind::Drain { grace } => Self::Drain {
                grace: Duration::from_millis(grace.into()),
            },
            message::CommandKind::Undrain => Self::Undrain,
            message::CommandKind::RotateKeys => Self::RotateKeys,
        }
    }
}

impl message::Commanded {
    /// The answer.
    ///
    /// # Errors
    /// When the command was refused.
    pub fn into_result(self) -> Result<(), Refusal> {
        match self.refused {
            None => Ok(()),
            Some((code, message)) => Err(Refusal::received(code.into(), message)),
        }
    }
}

impl message::Rotated {
    /// What came of new keys: until when those of before count.
    ///
    /// # Errors
    /// When the keys were refused.
    pub fn into_result(self) -> Result<Option<Timestamp>, Refusal> {
        match self {
            Self::Accepted { previous_until } => Ok(previous_until.map(Timestamp::from_millis)),
            Self::Refused(code, message) => Err(Refusal::received(code.into(), message)),
        }
    }
}

impl From<Result<Option<Timestamp>, Refusal>> for message::Rotated {
    fn from(result: Result<Option<Timestamp>, Refusal>) -> Self {
        match result {
            Ok(until) => Self::Accepted {
                previous_until: until.map(Timestamp::as_millis),
            },
            Err(refusal) => Self::Refused(refusal.code_text().to_owned(), refusal.message().to_owned()),
        }
    }
}
