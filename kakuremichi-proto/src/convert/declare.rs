//! Declarations and their answers.

use kakuremichi_core::{id::ServiceId, model::HealthCheck, policy::Policy};

use super::{Cause, Invalid, list, name};
use crate::{
    codec::List,
    declare::{Declaration, DeclaredKind, DeclaredService, DeclaredTarget},
    message::{self, Subject},
    report::{MAX_TEXT, Refusal},
};

/// Complete but for the request and the subject, which are those of no request and nobody.
impl TryFrom<&Declaration> for message::Declare {
    type Error = Invalid;

    fn try_from(declaration: &Declaration) -> Result<Self, Invalid> {
        Ok(Self {
            request: 0,
            subject: NOBODY,
            name: declaration.name.as_str().to_owned(),
            kind: match &declaration.kind {
                DeclaredKind::Http { hosts, path } => message::DeclaredKind::Http {
                    hosts: list(hosts, "hosts", |host| Ok(host.to_string()))?,
                    path: path.to_string(),
                },
                DeclaredKind::Tcp { port } => message::DeclaredKind::Tcp { port: *port },
                DeclaredKind::Udp { port } => message::DeclaredKind::Udp { port: *port },
            },
            target: message::DeclaredTarget {
                address: (&declaration.target.address).try_into()?,
                scheme: (&declaration.target.scheme).try_into()?,
                health: declaration
                    .target
                    .health
                    .as_ref()
                    .map(message::HealthCheck::try_from)
                    .transpose()?,
            },
            policy: (&declaration.policy).try_into()?,
            ephemeral: declaration.ephemeral,
        })
    }
}

/// Stands where the subject is filled in when the message is sent.
const NOBODY: Subject = Subject {
    node: message::NodeId::Agent([0; 16]),
    session: 0,
};

impl TryFrom<message::Declare> for Declaration {
    type Error = Invalid;

    fn try_from(declare: message::Declare) -> Result<Self, Invalid> {
        Ok(Self {
            name: name(&declare.name, "name")?,
            kind: match declare.kind {
                message::DeclaredKind::Http { hosts, path } => {
                    if hosts.as_slice().is_empty() {
                        return Err(Invalid::new("hosts", Cause::Empty));
                    }
                    let hosts = hosts.as_slice().iter().map(|host| name(host, "hosts"));
                    DeclaredKind::Http {
                        hosts: hosts.collect::<Result<_, _>>()?,
                        path: name(&path, "path")?,
                    }
                }
                message::DeclaredKind::Tcp { port: 0 } | message::DeclaredKind::Udp { port: 0 } => {
                    return Err(Invalid::new("port", Cause::Port));
                }
                message::DeclaredKind::Tcp { port } => DeclaredKind::Tcp { port },
                message::DeclaredKind::Udp { port } => DeclaredKind::Udp { port },
            },
            target: DeclaredTarget {
                address: declare.target.address.try_into()?,
                scheme: declare.target.scheme.try_into()?,
                health: declare.target.health.map(HealthCheck::try_from).transpose()?,
            },
            policy: Policy::try_from(declare.policy)?,
            ephemeral: declare.ephemeral,
        })
    }
}

impl message::Declared {
    /// Answers a declaration.
    #[must_use]
    pub fn new(request: u64, subject: Subject, result: Result<DeclaredService, Refusal>) -> Self {
        match result {
            Ok(declared) => Self::Accepted {
                request,
                subject,
                service: *declared.service.as_bytes(),
                urls: List::truncated(declared.urls.into_iter().filter(|url| url.len() <= MAX_TEXT)),
            },
            Err(refusal) => Self::Refused {
                request,
                subject,
                code: refusal.code_text().to_owned(),
                message: refusal.message().to_owned(),
            },
        }
    }

    /// The number of the request.
    #[must_use]
    pub const fn request(&self) -> u64 {
        match self {
            Self::Accepted { request, .. } | Self::Refused { request, .. } => *request,
        }
    }

    /// The answer.
    ///
    /// # Errors
    /// When the declaration was refused.
    pub fn into_result(self) -> Result<DeclaredService, Refusal> {
        match self {
            Self::Accepted { service, urls, .. } => Ok(DeclaredService {
                service: ServiceId::from_bytes(service),
                urls: urls.into_vec(),
            }),
            Self::Refused { code, message, .. } => Err(Refusal::received(code.into(), message)),
        }
    }
}
